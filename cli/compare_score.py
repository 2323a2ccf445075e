"""Scores a checkpoint for a comparison: each number of evaluations and range of seeds once, in a file by its key."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from cli.compare_pictures import Album, Pictures
from cli.compare_restorations import Repairs, Restoration
from cli.data import load_data
from cli.errors import UsageError
from cli.quiet import quiet
from cli.restore_trial import Judge
from cli.run_files import read_text, run_config
from diffusion.ema import EMA
from evaluation.comparison import Measured
from evaluation.faults import fault_scores, faults
from evaluation.features import Features, extract
from evaluation.files import key_of
from evaluation.inversion import InversionScore, score_inversion
from evaluation.judges import judges_for, over_judges
from evaluation.protocol import Protocol, library_versions, seed_ranges
from evaluation.real_features import FOLDER, real_features, tensor_sha256
from evaluation.report import write_json
from evaluation.restoration_rows import Repaired
from evaluation.scorer import generated, inversions_of, wanted_labels
from evaluation.scores import Score, floors, score
from lightning_modules.checkpoint import file_sha256, load_module


@dataclass(frozen=True)
class Task:
    """A checkpoint to score.

    Args:
        method: its name in the comparison.
        checkpoint: the file.
        steps: numbers of evaluations.
        seeds: the ranges.
        results: folder of what is scored already.
        batch_size: images per forward pass.
        inception_weights: file, or None.
        threads: of torch.
        others: numbers of evaluations that other methods of the comparison are scored with and this one is not.
        arguments: of the module, in the place of those that the checkpoint holds.
        averaged: whether the averaged weights are scored.
        restorations: tasks of restoration, by name.
    """

    method: str
    checkpoint: Path
    steps: tuple[int, ...]
    seeds: tuple[range, ...]
    results: Path
    batch_size: int
    inception_weights: str | None
    threads: int
    others: tuple[int, ...] = ()
    arguments: dict[str, Any] = field(default_factory=dict)
    averaged: bool = True
    restorations: Mapping[str, Restoration] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What was found for a task: scores against both splits, those of real images, and what all of them must share."""

    measured: list[Measured]
    floors: list[Measured]
    inversions: list[InversionScore | str]
    """Of each way of inversion of the module, on the test split; where one failed, why."""
    parameters: int
    data_sha256: str
    new: int
    """Scores that were not known."""
    pictures: Pictures
    restored: list[Repaired | str] = field(default_factory=list)
    """Of each task of restoration, way and number of levels; where one failed, why."""
    unrestored: list[Repaired] = field(default_factory=list)
    """What was given and the clean images, of each task."""


def score_all(tasks: Sequence[Task], jobs: int) -> list[Result | str]:
    """The results of the tasks, in their order, by so many processes; where one failed, why."""
    if jobs == 1:
        return [attempt(task) for task in tasks]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=quiet) as pool:
        return list(pool.map(attempt, tasks))


def attempt(task: Task) -> Result | str:
    """`run_task`, or why it failed: images that are not finite, a sampler that is not there."""
    try:
        return run_task(task)
    except ValueError as error:
        return str(error)


def joined(results: Sequence[Result]) -> Result:
    """The results of a method's trainings as one: all scores, and the pictures of the first."""
    first, *others = results
    return replace(
        first,
        measured=[m for result in results for m in result.measured],
        inversions=[i for result in results for i in result.inversions],
        restored=[r for result in results for r in result.restored],
        new=first.new + sum(result.new for result in others),
    )


def run_task(task: Task) -> Result:
    """Score what is not known yet.

    Raises:
        UsageError: its data are points.
        ValueError: the method has no sampler of so many evaluations, or makes images that are not finite.
    """
    torch.set_num_threads(task.threads)
    scoring = Scoring(task)
    measured, new = [], 0
    for steps in task.steps:
        for seeds in task.seeds:
            found, made = scoring.known(steps, seeds)
            measured += [_measured(task.method, steps, s) for s in found]
            new += made
    real = [
        _measured(s["protocol"]["source"]["name"], None, s)
        for seeds in task.seeds
        for s in scoring.known(None, seeds)[0]
    ]
    parameters = sum(p.numel() for p in scoring.module.ema_denoiser.parameters())
    inversions = scoring.inversions()
    sound = [one.levels for one in inversions if isinstance(one, InversionScore)]
    pictures = scoring.album().pictures(task.steps, task.others, sound)
    repairs = scoring.repairs()
    restored, beside = repairs.all(task.restorations), repairs.beside(task.restorations)
    return Result(measured, real, inversions, parameters, scoring.data_sha256, new, pictures, restored, beside)


def _measured(method: str, steps: int | None, score: dict[str, Any]) -> Measured:
    return Measured(method, steps, score["distances"] | score["alone"], Protocol.from_dict(score["protocol"]))


class Scoring:
    """A checkpoint with its data and its judges.

    Args:
        task: what to score.
    """

    def __init__(self, task: Task):
        self.task = task
        path = str(task.checkpoint)
        module: Any = load_module(path, arguments=task.arguments)
        if not task.averaged:
            module.ema = EMA(module.denoiser, rates=(0.0,))
        self.module = module.eval()
        self.data: Any = load_data(read_text(run_config(path)))
        if tuple(self.module.image_shape[1:]) == (1, 1):
            raise UsageError(f"{task.method}: scores are defined for images, and its data are points")
        self.judges = judges_for(self.module.image_shape, task.inception_weights)
        self.train_images, self.train_labels = self.data.uint8_images("train")
        self.test_images, self.test_labels = self.data.uint8_images("test")
        splits = "".join(tensor_sha256(x) for x in (self.train_images, self.test_images))
        self.data_sha256 = hashlib.sha256(splits.encode()).hexdigest()
        self.checkpoint_sha256 = file_sha256(path)

    def context(self, steps: int | None, seeds: range) -> dict[str, Any]:
        """All that decides a score; steps None are those of real images."""
        if steps is None:
            names = [fault.name for fault in faults(len(self.train_images), self.train_labels, len(seeds))]
            judged: dict[str, Any] = {"faults": names}
        else:
            judged = self.model | {"steps": steps}
        features = ",".join(judge.sha256 for judge in self.judges)
        return self.computed | judged | {"seeds": seed_ranges(seeds), "features": features}

    @property
    def model(self) -> dict[str, Any]:
        """What decides the images beside their seeds and number of evaluations."""
        used: dict[str, Any] = {"arguments": self.task.arguments} if self.task.arguments else {}
        used |= {} if self.task.averaged else {"averaged": False}
        return {"checkpoint": self.checkpoint_sha256} | used

    @property
    def computed(self) -> dict[str, Any]:
        """What decides scores and pictures alike, beside the checkpoint."""
        return {
            "batch_size": self.task.batch_size,
            "threads": self.task.threads,
            "data": self.data_sha256,
            "libraries": library_versions(),
        }

    def known(self, steps: int | None, seeds: range) -> tuple[list[dict[str, Any]], bool]:
        """The scores as plain values, from their file, and whether it had to be made; steps None: of real images."""
        context = self.context(steps, seeds)
        path = self.task.results / f"{key_of(context)}.json"
        if new := not path.is_file():
            scores = self.floors(seeds) if steps is None else self.scores(steps, seeds)
            write_json(path, {"context": context, "scores": [s.as_dict() for s in scores]})
        return json.loads(path.read_text())["scores"], new

    def album(self) -> Album:
        """What makes the checkpoint's pictures."""
        return Album(self.module, self.data, self.task.results, self.computed | self.model, self.task.batch_size)

    def repairs(self) -> Repairs:
        """What restores with the checkpoint; results are judged by the first judge against the training split."""
        features = {"features": self.judges[0].sha256}
        return Repairs(
            self.task.method,
            self.module,
            self.test_images,
            self.test_labels,
            self.task.results,
            self.computed | features,
            self.model,
            lambda: Judge(self.judges[0], self.real[0][0]),
            self.task.batch_size,
        )

    def inversions(self) -> list[InversionScore | str]:
        """Of the whole test split, from their file."""
        found: list[InversionScore | str] = []
        for levels in inversions_of(self.module):
            context = self.computed | self.model | {"inversion": list(levels)}
            path = self.task.results / f"{key_of(context)}.json"
            if not path.is_file():
                try:
                    made: Any = self.inversion(levels).as_dict()
                except ValueError as error:  # of a model that diverged there: its samples may be sound all the same
                    made = str(error)
                write_json(path, {"context": context, "inversion": made})
            held = json.loads(path.read_text())["inversion"]
            tuples = {} if isinstance(held, str) else {k: tuple(held[k]) for k in ("levels", "back") if k in held}
            found.append(held if isinstance(held, str) else InversionScore(**held | tuples))
        return found

    def inversion(self, levels: Sequence[float]) -> InversionScore:
        """Through some levels."""
        label = self.test_labels if self.module.num_classes else None
        size = self.task.batch_size
        return score_inversion(self.module.ema_denoiser, self.test_images, levels, label=label, batch_size=size)

    @cached_property
    def real(self) -> list[tuple[Features, Features]]:
        """Each judge's features of the training and of the test split; not needed where all scores are known."""
        folder, size, found = self.task.results.parent / FOLDER, self.task.batch_size, []
        for judge in self.judges:
            train, test = (real_features(judge, x, folder, size) for x in (self.train_images, self.test_images))
            judge.check(test, self.test_labels)
            found.append((train, test))
        return found

    def scores(self, steps: int, seeds: range) -> list[Score]:
        """Against both splits."""
        size, label = self.task.batch_size, wanted_labels(self.module, seeds, self.train_labels)
        images, source = generated(self.module, seeds, steps, label, size)
        against: dict[str, list[Score]] = {"train": [], "test": []}
        for judge, splits in zip(self.judges, self.real, strict=True):
            features = extract(judge, images, size)
            for (split, found), real in zip(against.items(), splits, strict=True):
                found.append(score(judge, features, real, source, split, label))
        return [over_judges(found) for found in against.values()]

    def floors(self, seeds: range) -> list[Score]:
        """Of as many real images with known faults; beside the first seeds, of real images as they are too."""
        size, n, by_judge = self.task.batch_size, len(seeds), []
        for judge, real in zip(self.judges, self.real, strict=True):
            found = [] if seeds.start else floors(judge, *real, most=n)
            found += fault_scores(judge, self.train_images, self.train_labels, *real, n, seeds.start, size)
            by_judge.append(found)
        return [over_judges(found) for found in zip(*by_judge, strict=True)]
