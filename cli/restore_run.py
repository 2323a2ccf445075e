"""A model that restores: levels, batches, counts and scores; for `restore`, `compare`, the demo and the benchmark."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cli.errors import UsageError
from cli.image_to_image import gives_mean, levels_down
from cli.inputs import at, in_batches
from cli.restore_methods import INVERTING, Case, control, method_named, methods_of

if TYPE_CHECKING:
    from torch import Tensor

FIRST = {"blind": 0.3}
"""First noise level of the methods that do not start at 2; what inverts goes up to sigma_max."""


@dataclass(frozen=True)
class Way:
    """How images are restored.

    Args:
        method: of `cli.restore_methods`; the model's default.
        steps: noise levels visited, one evaluation each; 4 by default, and 20 for a diffusion model.
        level: the first of them; 2 by default, blind 0.3, of a diffusion model and of what inverts sigma_max.
        small: level of the noise that is amplified, of the methods that invert.
    """

    method: str | None = None
    steps: int | None = None
    level: float | None = None
    small: float = 0.1


@dataclass(frozen=True)
class Problem:
    """What is to be restored.

    Args:
        operator: what was done to the images.
        y: what is left of them (N, ...).
        label: (N,) or None.
        seeds: of the noise of each.
    """

    operator: Any
    y: "Tensor"
    label: "Tensor | None"
    seeds: Sequence[int]

    def given(self) -> "Tensor":
        """What is left of them as images (N, C, H, W) uint8."""
        from diffusion.pixels import to_uint8

        return to_uint8(self.operator.pseudo_inverse(self.y).clamp(-1, 1))

    def scores(self, images: "Tensor", truth: "Tensor | None" = None) -> dict[str, list[float]]:
        """PSNR of what is known, and PSNR and SSIM to clean images, by name; one for each image (N, C, H, W) uint8."""
        from evaluation.restoration import consistency, psnr, ssim

        found = {"consistency": consistency(self.operator.measure, images, self.y)}
        if truth is not None:
            found |= {"psnr": psnr(images, truth), "ssim": ssim(images, truth)}
        return {name: values.tolist() for name, values in found.items()}


@dataclass(frozen=True)
class Restored:
    """Results (N, C, H, W) uint8, the method and the levels that they were made through, and what it took."""

    images: "Tensor"
    method: str
    levels: tuple[float, ...]
    nfe: float
    seconds_per_image: float


@dataclass(frozen=True)
class Restorer:
    """A model at work.

    Args:
        module: on the device.
        device: of it.
        batch_size: images per forward pass.
    """

    module: Any
    device: Any = "cpu"
    batch_size: int = 64

    def restore(self, problem: Problem, way: Way) -> Restored:
        """Every image with the noise of its own seed.

        Raises:
            UsageError: the method or a level is none of the model's.
        """
        name = method_named(way.method, self.module)
        return self._run(problem, way, name, methods_of(self.module)[name], levels_for(way, self.module))

    def control(self, problem: Problem, way: Way) -> Restored:
        """What a perfect model would make by a method that inverts: one evaluation at the level of the small noise."""
        return self._run(problem, way, "control", control, (max(way.small, self.module.ema_denoiser.sigma_min),))

    def _run(
        self,
        problem: Problem,
        way: Way,
        name: str,
        method: "Callable[[Case], Tensor]",
        levels: tuple[float, ...],
    ) -> Restored:
        from diffusion.denoisers import GeneratorDenoiser
        from evaluation.generate import Meter

        denoise = self.module.ema_denoiser
        generator, meter = isinstance(denoise, GeneratorDenoiser), Meter(denoise.network)

        def make(noise: Any, rows: "Tensor") -> "Tensor":
            return method(
                Case(
                    denoise.drawing(noise) if generator else denoise,
                    problem.operator,
                    problem.y[rows].to(self.device),
                    noise,
                    at(problem.label, rows, self.device),
                    levels,
                    way.small,
                    0.0 if generator else denoise.sigma_min,
                    denoise.sigma_max,
                    denoise.sigma_data,
                )
            )

        images = in_batches(make, problem.seeds, self.module, self.batch_size, self.device, meter)
        return Restored(images, name, levels, meter.nfe, meter.seconds_per_image)


def levels_for(way: Way, module: Any) -> tuple[float, ...]:
    """Descending levels, one evaluation each: for a diffusion model Karras' grid down to sigma_min.

    Raises:
        UsageError: the first is none of the model's, or the small noise is not below all of them.
    """
    from diffusion.grids import KarrasGrid

    low, high = module.denoiser.sigma_min, module.denoiser.sigma_max
    many, method = gives_mean(module), way.method or ""
    default = high if many or method in ("inversion", "noise-space") else FIRST.get(method, 2.0)
    level = way.level if way.level is not None else min(max(default, 1.01 * low), high)
    if not low < level <= high:
        raise UsageError(f"level {level:g}: it must lie above sigma_min = {low:g}, at most at sigma_max = {high:g}")
    if many:
        steps = way.steps or 20
        return tuple(KarrasGrid().levels(steps, low, level)) if steps > 1 else (level,)
    levels = levels_down(module, level, way.steps) if way.steps else default_levels(module, level)
    if method in INVERTING and not 0 < way.small < levels[-1]:
        raise UsageError(f"small noise {way.small:g}: it must lie above 0 and below the last level, {levels[-1]:.3g}")
    return levels


def default_levels(module: Any, level: float) -> tuple[float, ...]:
    """Four levels down, or as many as a model has that was trained at a few."""
    for steps in (4, 3, 2):
        try:
            return levels_down(module, level, steps)
        except UsageError:
            continue
    return levels_down(module, level, 1)
