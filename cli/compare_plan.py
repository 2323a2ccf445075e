"""What a comparison consists of: its methods, how each comes to a checkpoint, and what all are scored with."""

import hashlib
import re
from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser
from jsonargparse.typing import Path_fr

from cli.errors import UsageError, did_you_mean, explain_parsing


@dataclass(frozen=True)
class Entry:
    """A method: trained by a config, or taken from a run.

    Args:
        steps: the numbers of network evaluations it is scored with.
        config: a file for `fit`, relative to the comparison's own file.
        run: a run's directory or a checkpoint, in the place of a config.
        options: more options of `fit`, such as "--model.init_args.seed=1".
        checkpoints: option of `fit` -> name of the method whose checkpoint it is given, such as a teacher.
    """

    steps: list[int]
    config: Path_fr | None = None  # type: ignore[valid-type]
    run: str | None = None
    options: list[str] = field(default_factory=list)
    checkpoints: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.config is None) == (self.run is None):
            raise UsageError("a method of a comparison has either a config or a run")
        if self.run is not None and (self.options or self.checkpoints):
            raise UsageError(f"run {self.run}: what is trained already takes no options and no checkpoints")
        if not self.steps or min(self.steps) < 1:
            raise UsageError(f"steps={self.steps}: at least one number of evaluations, each >= 1, is needed")


@dataclass(frozen=True)
class Plan:
    """A comparison.

    Args:
        methods: by name, in the order of the table.
        root: folder of the runs, the results and the report.
        total_images: training images of every method that is trained; by default each config's own.
        num_images: images that each score judges.
        seed_ranges: scores of each method and number of evaluations, of seeds 0 to num_images - 1, the next ones, ...
        batch_size: images per forward pass.
        inception_weights: file of Inception's weights, where no other judge fits.
    """

    methods: dict[str, Entry]
    root: str
    total_images: int | None = None
    num_images: int = 2000
    seed_ranges: int = 3
    batch_size: int = 500
    inception_weights: str | None = None

    def __post_init__(self) -> None:
        for name in ("num_images", "seed_ranges", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}={getattr(self, name)}: it must be at least 1")
        for name, entry in self.methods.items():
            for other in entry.checkpoints.values():
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
            for other in self.methods[name].checkpoints.values():
                visit(other, (*above, name))
            if name not in done:
                done.append(name)

        for name in self.methods:
            visit(name, ())
        return done

    def seeds(self) -> list[range]:
        """The seeds of each score."""
        return [range(i * self.num_images, (i + 1) * self.num_images) for i in range(self.seed_ranges)]

    def folder(self, name: str) -> Path:
        """Where a method's run lies: what decides its training is in the folder's name, so no other is taken for it."""
        entry = self.methods[name]
        text = [*config_texts(entry_config(entry)), *entry.options, str(self.total_images)]
        text += [f"{option} {self.folder(other).name}" for option, other in entry.checkpoints.items()
                 if self.methods[other].config is not None]  # fmt: skip
        slug = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
        return Path(self.root) / "runs" / f"{slug}-{hashlib.sha256(chr(0).join(text).encode()).hexdigest()[:8]}"

    def goal(self, name: str) -> int:
        """Images after which a method is trained."""
        content = yaml.safe_load(entry_config(self.methods[name]).read_text())
        return self.total_images or int(content["model"]["init_args"]["total_images"])


def entry_config(entry: Entry) -> Path:
    """The file that a method is trained by."""
    return Path(str(entry.config.absolute))  # type: ignore[union-attr]


def config_texts(path: Path) -> Iterator[str]:
    """The text of a config and of the files that it includes."""
    text = path.read_text()
    yield text
    for value in leaves(yaml.safe_load(text)):
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
        parsed = parser.parse_args(list(args))
        built = parser.instantiate_classes(parsed)
    except ArgumentError as error:
        raise UsageError(explain_parsing(error, [a.dest for a in parser._actions])) from None
    for name in ("jobs", "threads"):
        if built[name] < 1:
            raise UsageError(f"--{name} {built[name]}: it must be at least 1")
    values = {name: built[name] for name in Plan.__dataclass_fields__}
    return Plan(**values), built.jobs, built.threads
