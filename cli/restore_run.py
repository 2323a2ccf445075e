"""A model that restores: levels, batches, counts and scores; for `restore`, `compare`, the demo and the benchmark."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cli.inputs import at, in_batches
from cli.restore_levels import Way, levels_for
from cli.restore_methods import Case, control, method_named, methods_of

if TYPE_CHECKING:
    from torch import Tensor

    from evaluation.restoration import Perceptual


@dataclass(frozen=True)
class Problem:
    """What is to be restored.

    Args:
        operator: what was done to the images.
        y: what is left of them (N, ...).
        label: (N,) or None.
        seeds: of the noise of each.
        task: of `cli.restore_tasks`; None for an operator that any method can be asked to undo.
    """

    operator: Any
    y: "Tensor"
    label: "Tensor | None"
    seeds: Sequence[int]
    task: str | None = None

    def given(self) -> "Tensor":
        """What is left of them as images (N, C, H, W) uint8."""
        from diffusion.pixels import to_uint8

        return to_uint8(self.operator.shown(self.y).clamp(-1, 1))

    def scores(
        self, images: "Tensor", truth: "Tensor | None" = None, lpips: "Perceptual | None" = None
    ) -> dict[str, list[float]]:
        """One number for each image (N, C, H, W) uint8, by name: PSNR of what is known (of a noisy measurement the
        residual), PSNR and SSIM to clean images, and LPIPS where it is given."""
        from evaluation.restoration import consistency, psnr, residual, ssim

        operator = self.operator
        if operator.sigma_y > 0:
            found = {"residual": residual(operator.measure, images, self.y, operator.sigma_y)}
        else:
            found = {"consistency": consistency(operator.measure, images, self.y)}
        if truth is not None:
            found |= {"psnr": psnr(images, truth), "ssim": ssim(images, truth)}
            found |= {} if lpips is None else {"lpips": lpips(images, truth)}
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
        name = method_named(way.method, self.module, problem.task)
        method = methods_of(self.module, problem.task)[name]
        return self._run(problem, way, name, method, levels_for(way, self.module, problem.task))

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


def observed(operator: Any, images: "Tensor", seeds: Sequence[int]) -> "Tensor":
    """The measurement of clean images (N, C, H, W) uint8; its noise is each one's own, and not the method's."""
    from diffusion.pixels import from_uint8
    from diffusion.rng import ImageNoise, derive_seed

    x0 = from_uint8(images)
    noise = ImageNoise([derive_seed(seed, "measurement") for seed in seeds], (x0.shape[1], *x0.shape[2:]))
    return operator.observe(x0, noise)
