"""Restoration in a comparison: each task, method and number of levels once for a checkpoint, in files by its key."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse.typing import Path_fr
from torch import Tensor

from cli.errors import UsageError, did_you_mean
from cli.restore_levels import Way
from cli.restore_methods import FEW_STEP, INVERTING, MANY_STEP, PAIRED, methods_of
from cli.restore_operators import operator_of
from cli.restore_run import Restored, Restorer
from cli.restore_tasks import BLUR, DAMAGING, FACTOR, QUALITY, Damage, read_mask
from cli.restore_trial import Judge, Trial
from evaluation.files import key_of, read_npz, write_npz
from evaluation.report import write_json
from evaluation.restoration_rows import CLEAN, GIVEN, Repaired
from lightning_modules.checkpoint import file_sha256

SHOWN = 10
"""Images of each row of pictures."""
WAYS = {
    "zero-shot": [4],
    "corrected": [4],
    "noise-space": [1],
    "ddnm": [20],
    "pigdm": [20],
    "i2sb": [4],
    "palette": [4],
}

Made = tuple[dict[str, Any], Tensor]
"""Plain values, and all images of the first seed."""


@dataclass(frozen=True)
class Restoration:
    """A task of restoration that a comparison's methods are scored with.

    Args:
        task: inpaint, colourise, upscale, unblur or jpeg.
        ways: method of `restore` -> numbers of noise levels; each model is scored with those of them that it has.
        level: first noise level of the few-step methods; by default that of `restore`.
        small: level of the noise that is amplified, of the methods that invert.
        images: of the test split, from its first on.
        seeds: how many times each is restored, with other noise.
        mask: of inpaint, an image file, bright where pixels are kept; by default the central box is hidden.
        factor: of upscale.
        blur: of unblur, standard deviation in pixels.
        quality: of jpeg.
    """

    task: str
    ways: dict[str, list[int]] = field(default_factory=lambda: {name: list(steps) for name, steps in WAYS.items()})
    level: float | None = None
    small: float = 0.1
    images: int = 180
    seeds: int = 3
    mask: Path_fr | None = None  # type: ignore[valid-type]
    factor: int = FACTOR
    blur: float = BLUR
    quality: int = QUALITY

    def __post_init__(self) -> None:
        known = (*FEW_STEP, *INVERTING, *MANY_STEP, *PAIRED)
        if self.task not in DAMAGING:
            raise UsageError(f"there is no task {self.task}{did_you_mean(self.task, DAMAGING)} ({', '.join(DAMAGING)})")
        for name, steps in self.ways.items():
            if name not in known:
                raise UsageError(f"there is no way {name} to restore{did_you_mean(name, known)} ({', '.join(known)})")
            if not steps or min(steps) < 1:
                raise UsageError(f"{name}: {steps}: at least one number of levels, each >= 1, is needed")
        if not self.ways or self.images < 10 or self.seeds < 1:
            raise UsageError(
                f"{self.task}: {len(self.ways)} ways, images={self.images}, seeds={self.seeds}: at least 1, 10 and 1"
            )

    @property
    def mask_file(self) -> str | None:
        """Where the mask is."""
        return None if self.mask is None else str(self.mask.absolute)

    def damage(self, shape: tuple[int, int, int]) -> Damage:
        """Of images of a shape (C, H, W)."""
        return Damage(self.task, read_mask(self.mask_file, shape), self.factor, self.blur, self.quality)

    def context(self) -> dict[str, Any]:
        """What decides a score beside the way and the checkpoint: the task's own numbers."""
        numbers = {"upscale": ("factor",), "unblur": ("blur",), "jpeg": ("quality",)}.get(self.task, ())
        held = {name: getattr(self, name) for name in ("task", "images", "seeds", *numbers)}
        return held if self.mask_file is None else held | {"mask": file_sha256(self.mask_file)}


@dataclass(frozen=True)
class Repairs:
    """Restores with a checkpoint, or finds what it made.

    Args:
        method: its name in the comparison.
        module: in evaluation mode, on the CPU.
        images, labels: of the test split, uint8 (N, C, H, W) and (N,) or None.
        folder: of the files.
        computed: all that decides a score beside checkpoint and task: data, batch size, ...
        model: what the checkpoint is.
        judge: asked for where something is to be scored.
        batch_size: images per forward pass.
    """

    method: str
    module: Any
    images: Tensor
    labels: Tensor | None
    folder: Path
    computed: dict[str, Any]
    model: dict[str, Any]
    judge: Callable[[], Judge]
    batch_size: int

    def all(self, restorations: Mapping[str, Restoration]) -> list[Repaired | str]:
        """Those of every task; where one failed, why."""
        return [found for name, restoration in restorations.items() for found in self._of(name, restoration)]

    def beside(self, restorations: Mapping[str, Restoration]) -> list[Repaired]:
        """What was given and the clean images, of every task: the same for all methods.

        Raises:
            UsageError: a task is none of these images.
        """
        found = []
        for name, restoration in restorations.items():
            for kind in (GIVEN, CLEAN):
                context = self.computed | {"restoration": restoration.context(), "beside": kind}
                made = self._known(context, partial(self._beside, restoration, kind))
                if isinstance(made, str):
                    raise UsageError(made)
                found.append(Repaired(name, "", kind, None, **made))
        return found

    def _of(self, name: str, restoration: Restoration) -> Iterator[Repaired | str]:
        try:
            offered = methods_of(self.module)
            operator_of(restoration.damage(self.module.image_shape), self.module)
        except UsageError:  # it cannot restore, or was trained for another task
            return
        for way_name, numbers in restoration.ways.items():
            for steps in numbers if way_name in offered else ():
                way = Way(way_name, steps, self._level(restoration, way_name), restoration.small)
                yield self._one(name, restoration, way, controlled=False)
                if way_name in INVERTING and steps == numbers[0]:
                    yield self._one(name, restoration, way, controlled=True)

    def _level(self, restoration: Restoration, way: str) -> float | None:
        """The first level that is asked for, of the methods that start at one of their own choice."""
        return restoration.level if way in ("zero-shot", "corrected") else None

    def _one(self, name: str, restoration: Restoration, way: Way, controlled: bool) -> Repaired | str:
        kind = f"control of {way.method}" if controlled else str(way.method)
        context = self.computed | self.model | {"restoration": restoration.context()}
        context |= {"way": asdict(way), "control": controlled}
        made = self._known(context, partial(self._made, restoration, way, controlled))
        if isinstance(made, str):
            return f"{name} by {kind} with {way.steps} levels: {made}"
        return Repaired(name, self.method, kind, None if controlled else way.steps, **made)

    def _known(
        self, context: dict[str, Any], make: Callable[[], tuple[dict[str, Any], Tensor]]
    ) -> dict[str, Any] | str:
        """Scores and pictures, or why there are none; they are made where a file is not there or damaged."""
        scores, pictures = (self.folder / f"{key_of(context)}.{suffix}" for suffix in ("json", "npz"))
        if scores.is_file():
            held = json.loads(scores.read_text())["restored"]
            if isinstance(held, str):
                return held
            try:
                return _with_pictures(held, read_npz(pictures, ("images",))["images"])
            except (ValueError, FileNotFoundError) as error:
                print(f"{error}: made anew", flush=True)
        try:
            found, images = make()
        except ValueError as error:  # an operator or a number of levels that the method is not made for
            write_json(scores, {"context": context, "restored": str(error)})
            return str(error)
        shown = images[:SHOWN].numpy()
        write_npz(pictures, {"images": shown})
        write_json(scores, {"context": context, "restored": found})
        return _with_pictures(found, shown)

    def _trial(self, restoration: Restoration, seed: int) -> Trial:
        rows, shape = range(min(restoration.images, len(self.images))), self.module.image_shape
        labels = self.labels if self.module.num_classes else None
        return Trial.of(restoration.damage(shape).operator(shape), self.images, labels, rows, seed)

    def _made(self, restoration: Restoration, way: Way, controlled: bool) -> Made:
        restorer, judge = Restorer(self.module, "cpu", self.batch_size), self.judge()
        found: list[tuple[Restored, dict[str, float]]] = []
        for seed in range(restoration.seeds):
            trial = self._trial(restoration, seed)
            made = (restorer.control if controlled else restorer.restore)(trial.problem, way)
            found.append((made, trial.scores(made.images, judge)))
        first, times = found[0][0], [made.seconds_per_image for made, _ in found]
        numbers = {name: [scores[name] for _, scores in found] for name in found[0][1]}
        held = {"images": len(first.images), "levels": list(first.levels), "nfe": first.nfe, "values": numbers}
        return held | {"seconds_per_image": float(np.median(times))}, first.images

    def _beside(self, restoration: Restoration, kind: str) -> Made:
        trial = self._trial(restoration, 0)
        images = trial.beside()[kind]
        numbers = {name: [value] for name, value in trial.scores(images, self.judge()).items()}
        held = {"images": len(images), "levels": [], "nfe": 0.0, "values": numbers, "seconds_per_image": None}
        return held, images


def _with_pictures(held: dict[str, Any], images: np.ndarray) -> dict[str, Any]:
    """Arguments of `Repaired`."""
    return held | {"levels": tuple(held["levels"]), "pictures": images}
