"""What a comparison consists of: its methods, how each comes to a checkpoint, and what all are scored with."""

import hashlib
import json
import re
from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from jsonargparse.typing import Path_fr

from cli.compare_restorations import Restoration
from cli.errors import UsageError, did_you_mean, explain_parsing
from lightning_modules.allowed import read_yaml, restricted_imports


@dataclass(frozen=True)
class Entry:
    """A method: trained by a config, taken from a run, or another method's checkpoints used in another way.

    Args:
        steps: the numbers of network evaluations it is scored with.
        config: a file for `fit`, relative to the comparison's own file; by default the plan's `base`.
        run: a run's directory or a checkpoint, in the place of a config.
        of: name of the method whose checkpoints these are, in the place of a config.
        options: more options of `fit`, such as "--model.init_args.ema_batch=256".
        checkpoints: option of `fit` -> name of the method whose checkpoint it is given, such as a teacher.
        arguments: of the module, in the place of those that its checkpoint holds, such as other `plans` to sample by.
        averaged: whether the averaged weights are scored; if not, those of the last training step.
    """

    steps: list[int]
    config: Path_fr | None = None  # type: ignore[valid-type]
    run: str | None = None
    of: str | None = None
    options: list[str] = field(default_factory=list)
    checkpoints: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    averaged: bool = True

    def __post_init__(self) -> None:
        if [self.config, self.run, self.of].count(None) < 2:
            raise UsageError("a method of a comparison has either a config or a run, or is of another method")
        if not self.trained and (self.options or self.checkpoints):
            raise UsageError(f"{self.run or self.of}: what is trained already takes no options and no checkpoints")
        if not self.steps or min(self.steps) < 1:
            raise UsageError(f"steps={self.steps}: at least one number of evaluations, each >= 1, is needed")

    @property
    def trained(self) -> bool:
        """Whether it has trainings of its own."""
        return self.run is None and self.of is None


@dataclass(frozen=True)
class Training:
    """A method's training with a seed, None for that of its config."""

    name: str
    seed: int | None = None

    def __str__(self) -> str:
        return self.name if self.seed is None else f"{self.name}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """A comparison.

    Args:
        methods: by name, in the order of the table.
        root: folder of the runs, the results and the report.
        runs: another folder of the runs, so that several comparisons share what is trained alike under the same name.
        base: config of the methods that name none.
        options: more options of `fit` for every method that is trained, before its own.
        total_images: training images of every method that is trained; by default each config's own.
        training_seeds: every method that is trained is trained once with each, the scores of all are put together; by
            default once, with its config's own seed.
        num_images: images that each score judges.
        seed_ranges: scores of each method and number of evaluations, of seeds 0 to num_images - 1, the next ones, ...
        batch_size: images per forward pass.
        inception_weights: file of Inception's weights, for images that are neither 8x8 nor 28x28 grey.
        restorations: tasks of restoration, by names of your choice, which every method that can is scored with too.
    """

    methods: dict[str, Entry]
    root: str
    runs: str | None = None
    base: Path_fr | None = None  # type: ignore[valid-type]
    options: list[str] = field(default_factory=list)
    total_images: int | None = None
    training_seeds: list[int] | None = None
    num_images: int = 2000
    seed_ranges: int = 3
    batch_size: int = 500
    inception_weights: str | None = None
    restorations: dict[str, Restoration] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("num_images", "seed_ranges", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}={getattr(self, name)}: it must be at least 1")
        if self.training_seeds is not None and (not self.training_seeds or min(self.training_seeds) < 0):
            raise UsageError(f"training_seeds={self.training_seeds}: at least one, each >= 0, is needed")
        for name, entry in self.methods.items():
            if entry.trained and entry.config is None and self.base is None:
                raise UsageError(f"{name} names neither a config nor a run, and is of no other method")
            for other in _needed(entry):
                if other not in self.methods:
                    raise UsageError(f"{name} needs {other}, which is no method{did_you_mean(other, self.methods)}")
        self.order()

    def order(self) -> list[str]:
        """The methods' names, each after those whose checkpoints it needs.

        Raises:
            UsageError: methods need each other.
        """
        done: list[str] = []

        def visit(name: str, above: tuple[str, ...]) -> None:
            if name in above:
                raise UsageError(f"{' needs '.join([*above[above.index(name) :], name])}: none can come first")
            for other in _needed(self.methods[name]):
                visit(other, (*above, name))
            if name not in done:
                done.append(name)

        for name in self.methods:
            visit(name, ())
        return done

    def seeds(self) -> list[range]:
        """The seeds of each score."""
        return [range(i * self.num_images, (i + 1) * self.num_images) for i in range(self.seed_ranges)]

    def source(self, name: str) -> str:
        """The method whose checkpoints a method's are: itself, where it is of no other."""
        other = self.methods[name].of
        return name if other is None else self.source(other)

    def trainings(self, name: str) -> list["Training"]:
        """Those that a method's checkpoints come from; one without a seed of its config, and of a run."""
        name = self.source(name)
        seeds = self.training_seeds if self.methods[name].trained else None
        return [Training(name, seed) for seed in seeds] if seeds else [Training(name)]

    def given(self, training: "Training") -> dict[str, "Training"]:
        """Option of `fit` -> the training whose checkpoint it is given: of the same seed, where there is one."""
        found = {}
        for option, other in self.methods[training.name].checkpoints.items():
            offered = self.trainings(other)
            found[option] = next((t for t in offered if t.seed == training.seed), offered[0])
        return found

    def folder(self, training: "Training") -> Path:
        """Where a run lies: what decides its training is in the folder's name, so no other is taken for it."""
        entry = self.methods[training.name]
        text = [*config_texts(self.config(training.name)), *self.options, *entry.options]
        text += [str(self.total_images), str(training.seed)]
        text += [f"{option} {self.folder(other).name}" for option, other in self.given(training).items()
                 if self.methods[other.name].trained]  # fmt: skip
        slug = re.sub(r"[^a-z0-9]+", "_", str(training).lower()).strip("_")
        folder = Path(self.root) / "runs" if self.runs is None else Path(self.runs)
        return folder / f"{slug}-{hashlib.sha256(chr(0).join(text).encode()).hexdigest()[:8]}"

    def config(self, name: str) -> Path:
        """The file that a method is trained by."""
        return Path(str((self.methods[name].config or self.base).absolute))  # type: ignore[union-attr]

    def goal(self, name: str) -> int:
        """Images after which a method is trained."""
        content = read_yaml(self.config(name).read_text())
        return self.total_images or int(content["model"]["init_args"]["total_images"])


def _needed(entry: Entry) -> list[str]:
    """Names of the methods whose checkpoints it needs."""
    return [*entry.checkpoints.values(), *filter(None, [entry.of])]


def config_texts(path: Path) -> Iterator[str]:
    """What a config and the files that it includes say, without their comments and their layout."""
    content = read_yaml(path.read_text())
    yield json.dumps(content, sort_keys=True, default=str)
    for value in leaves(content):
        if isinstance(value, str) and value.endswith((".yaml", ".yml")) and (path.parent / value).is_file():
            yield from config_texts(path.parent / value)


def leaves(value: Any) -> Iterator[Any]:
    """All values of nested dictionaries and lists that are neither."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from leaves(inner)
    else:
        yield value


def parse_plan(args: Sequence[str]) -> tuple[Plan, int, int]:
    """The plan, the number of processes and the threads of each, from the command line.

    Raises:
        UsageError: something is missing or unknown.
    """
    parser = ArgumentParser(
        prog="main.py compare",
        exit_on_error=False,
        description="Train what is not trained, score every method at several numbers of evaluations over ranges of "
        "seeds, and write one table. What is done already is never done again, so an interrupted comparison goes on "
        "where it was.",
    )
    parser.add_argument("--config", action="config", help="a file such as configs/compare_digits.yaml")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--threads", type=int, default=1, help="of each process; they decide a score's last digits")
    parser.add_class_arguments(Plan, None)
    if not args:
        raise UsageError("compare needs --config FILE, e.g. configs/compare_digits.yaml")
    try:
        with restricted_imports(["cli.compare_plan", "cli.compare_restorations"]):
            built = parser.instantiate_classes(parser.parse_args(list(args)))
    except ArgumentError as error:
        raise UsageError(explain_parsing(error, [a.dest for a in parser._actions])) from None
    for name in ("jobs", "threads"):
        if built[name] < 1:
            raise UsageError(f"--{name} {built[name]}: it must be at least 1")
    values = {name: built[name] for name in Plan.__dataclass_fields__}
    return Plan(**values), built.jobs, built.threads
