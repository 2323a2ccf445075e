"""What the demo asks of a model: one image, one task, one seed; no word of the page it is shown on."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cli.errors import UsageError
from cli.inversion_ways import between, inverts, noise_picture, seeded, ways_of
from cli.restore_levels import Way
from cli.restore_methods import STROKES, methods_of, paired_name
from cli.restore_operators import operator_of, task_of
from cli.restore_run import Problem, Restorer
from cli.restore_tasks import DAMAGING, Damage
from cli.sample import default_steps
from diffusion.denoisers import BidirectionalDenoiser
from diffusion.pixels import from_uint8, to_uint8
from evaluation.generate import Meter
from evaluation.restoration import psnr
from lightning_modules.checkpoint import load_module
from tasks.strokes import Strokes

EDIT = "edit"
INTERPOLATE = "interpolate"


@dataclass(frozen=True)
class Request:
    """What is to be done.

    Args:
        task: of `cli.restore_tasks.DAMAGING`, or "strokes", "edit", "interpolate".
        image: (C, H, W) uint8.
        label: its class, None where it is not known.
        drawn: (H, W) bool, the pixels that were drawn on.
        painted: (C, H, W) uint8, the image with the colours drawn over it.
        second: (C, H, W) uint8, the other end of an interpolation.
        target: the class that an edit makes.
        damage: numbers of the task; the mask is `drawn`.
        way: method, steps, level and small noise.
        frames: of an interpolation.
        seed: of all noise.
    """

    task: str
    image: Tensor
    drawn: Tensor
    painted: Tensor
    label: int | None = None
    second: Tensor | None = None
    target: int | None = None
    damage: Damage = Damage("inpaint")  # noqa: RUF009  frozen
    way: Way = Way()  # noqa: RUF009
    frames: int = 7
    seed: int = 0


@dataclass(frozen=True)
class Answer:
    """What a model made of it.

    Args:
        images: (n, C, H, W) uint8, more than one of an interpolation.
        noise: (C, H, W) uint8, the inversion of the image by a bidirectional model, else None.
        noise_ratio: its standard deviation over its level.
        given: (C, H, W) uint8, what the model was given.
        psnr: dB of a restored image to the clean one, None of other tasks.
        nfe: network evaluations, counted.
        milliseconds: without the inversion that is only shown.
        how: method and levels in words.
    """

    images: Tensor
    noise: Tensor | None
    noise_ratio: float | None
    given: Tensor
    psnr: float | None
    nfe: float
    milliseconds: float
    how: str


class Model:
    """A checkpoint of the demo.

    Args:
        path: the checkpoint.
        device: where it runs.
        allow: packages that it may name.
    """

    def __init__(self, path: str, device: torch.device, allow: tuple[str, ...] = ()):
        self.path, self.device = path, device
        self.module: Any = load_module(path, allow).to(device)
        self.kind = type(self.module).__name__
        self.bidirectional = isinstance(self.module.ema_denoiser, BidirectionalDenoiser)

    @property
    def name(self) -> str:
        """What it is called beside others: its class and its run."""
        folder = Path(self.path).absolute().parent
        run = folder.parent if folder.name == "checkpoints" else folder
        return f"{self.kind.removesuffix('Module')} ({run.parent.name}/{run.name})"

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """Of restoration; none where it cannot restore."""
        try:
            return tuple(methods_of(self.module))
        except UsageError:
            return ()

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """What it can do."""
        if paired_name(self.module) is not None:  # a mask that is drawn is not what it was trained for
            task = task_of(self.module.operator)
            return () if task is None or task not in DAMAGING or task == "inpaint" else (task,)
        colour = self.module.image_shape[0] == 3
        found = [task for task in (*DAMAGING, STROKES) if self.methods and (colour or task != "colourise")]
        if inverts(self.module):
            found += [EDIT] * bool(self.module.num_classes) + [INTERPOLATE]
        return tuple(found)

    def warm_up(self) -> None:
        """One sample, so that the first evaluation that is timed is like the others."""
        with torch.no_grad():
            noise = seeded([0], self.module, self.device)()
            self.module.sample(noise, default_steps(self.module), self._label(0))

    def run(self, request: Request) -> Answer:
        """Do it.

        Raises:
            UsageError: the model cannot, or something is missing.
        """
        if request.task not in self.tasks:
            raise UsageError(f"a {self.kind} cannot do this: it has {', '.join(self.tasks) or 'none of the tasks'}")
        if request.task == EDIT:
            return self._edit(request)
        if request.task == INTERPOLATE:
            return self._interpolate(request)
        return self._strokes(request) if request.task == STROKES else self._restore(request)

    def _restore(self, request: Request) -> Answer:
        damage = request.damage
        if damage.task == "inpaint":
            if not request.drawn.any() or request.drawn.all():
                raise UsageError("draw over what is to be made anew, and leave some of the image")
            damage = Damage("inpaint", ~request.drawn)
        truth, operator = request.image[None], operator_of(damage, self.module)
        problem = Problem(operator, operator.measure(from_uint8(truth)), self._label(request.label), [request.seed])
        made = Restorer(self.module, self.device).restore(problem, request.way)
        given = problem.given()
        quality = float(psnr(made.images, truth))
        how = f"{made.method}, {_levels(made.levels)}"
        return self._answer(request, made.images, given[0], made.nfe, made.seconds_per_image, how, quality)

    def _strokes(self, request: Request) -> Answer:
        problem = Problem(
            Strokes(), from_uint8(request.painted[None]), self._label(request.label), [request.seed], STROKES
        )
        way = Way(None, request.way.steps, request.way.level)
        made = Restorer(self.module, self.device).restore(problem, way)
        how = f"{made.method}, {_levels(made.levels)}"
        return self._answer(request, made.images, request.painted, made.nfe, made.seconds_per_image, how)

    def _edit(self, request: Request) -> Answer:
        if request.target is None:
            raise UsageError("choose the class to make")
        ways, meter, label = self._ways(request), self._meter(), self._label(request.label)
        with meter.batch(1, self.device), torch.no_grad():
            noise = seeded([request.seed], self.module, self.device)()
            made = ways.down(ways.up(self._on_device(request.image[None]), noise, label), self._label(request.target))
        how = f"inverted as class {request.label}, generated as {request.target}"
        return self._answer(request, to_uint8(made).cpu(), request.image, meter.nfe, meter.seconds_per_image, how)

    def _interpolate(self, request: Request) -> Answer:
        if request.second is None:
            raise UsageError("choose a second image")
        ways, meter, label = self._ways(request), self._meter(), self._label(request.label)
        x0, x1 = (self._on_device(image[None]) for image in (request.image, request.second))
        with meter.batch(1, self.device), torch.no_grad():
            noise = seeded([request.seed], self.module, self.device)
            made = between(ways, x0, x1, request.frames, noise, label)[0]
        how = f"{request.frames} images between, both ends inverted"
        return self._answer(request, to_uint8(made).cpu(), request.image, meter.nfe, meter.seconds_per_image, how)

    def _answer(
        self,
        request: Request,
        images: Tensor,
        given: Tensor,
        nfe: float,
        seconds: float,
        how: str,
        quality: float | None = None,
    ) -> Answer:
        noise, ratio = self._noise(given, request) if self.bidirectional else (None, None)
        return Answer(images, noise, ratio, given, quality, nfe, 1000 * seconds, how)

    def _noise(self, image: Tensor, request: Request) -> tuple[Tensor, float]:
        """The inversion of what the model was given, as a picture, and its standard deviation over its level."""
        high, source = self.module.ema_denoiser.sigma_max, seeded([request.seed], self.module, self.device)()
        with torch.no_grad():
            x0 = self._on_device(image[None])
            noise = self._ways(request).up(x0, source, self._label(request.label)).cpu()
        return noise_picture(noise, high)[0], float(noise.std(correction=0) / high)

    def _ways(self, request: Request) -> Any:
        """The small noise of the page is of restoration, and so are its steps but for those of a diffusion model."""
        return ways_of(self.module, None if self.bidirectional else request.way.steps)

    def _meter(self) -> Meter:
        return Meter(self.module.ema_denoiser.network)

    def _on_device(self, images: Tensor) -> Tensor:
        return from_uint8(images.to(self.device))

    def _label(self, label: int | None) -> Tensor | None:
        """A class (1,) as the model is told it."""
        classes = self.module.num_classes
        if not classes:
            return None
        if label is None or not 0 <= label < classes:
            raise UsageError(f"this model has the classes 0 to {classes - 1}: choose that of the image")
        return torch.tensor([label], device=self.device)


def _levels(levels: tuple[float, ...]) -> str:
    """The noise levels in words, the middle of many left out."""
    texts = [f"{level:.3g}" for level in levels]
    return f"levels {' > '.join(texts if len(texts) <= 5 else [*texts[:2], '...', texts[-1]])}"
