"""From images to their noise and back: for `edit`, `interpolate` and the demo."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from cli.errors import UsageError
from cli.image_to_image import gives_mean

if TYPE_CHECKING:
    from torch import Tensor

    from cli.inversion_file import InversionSchedule


class Ways(NamedTuple):
    """From images to their noise and back, images (B, C, H, W) in [-1, 1].

    Args:
        up: `up(x0, noise, label)`, the noise.
        down: `down(x, label)`, the images.
        levels: ascending, visited on the way up.
        back: descending, visited on the way down between the last of them and sigma_min.
        small: level of the initial noise; None of a diffusion model, which needs none.
        control: `control(x0, noise, label)`, one evaluation of the images with the small noise, never inverted: what a
            perfect model would make of an inversion. None where there is no small noise.
    """

    up: "Callable[[Tensor, Any, Tensor | None], Tensor]"
    down: "Callable[[Tensor, Tensor | None], Tensor]"
    levels: tuple[float, ...]
    back: tuple[float, ...]
    small: float | None = None
    control: "Callable[[Tensor, Any, Tensor | None], Tensor] | None" = None


def inverts(module: Any) -> bool:
    """Whether a model leads from data to noise too."""
    from diffusion.denoisers import BidirectionalDenoiser

    return isinstance(module.ema_denoiser, BidirectionalDenoiser) or gives_mean(module)


def ways_of(module: Any, steps: int | None = None, small: float | None = None, schedule: str | None = None) -> Ways:
    """The evaluations of a bidirectional model, or the ODE of a diffusion model by Heun's method.

    Args:
        module: one that `inverts`.
        steps: each way, one evaluation each of a bidirectional model (default: 1) and a step of a diffusion model's
            solver (default: 50).
        small: level of the initial noise of a bidirectional model; that of its `inversions` by default.
        schedule: a file of `search-schedule --inversion`, of a bidirectional model.

    Raises:
        UsageError: `small` is no level below the next; the file does not fit; or a diffusion model is given either.
        ValueError: the model has no inversion of so many evaluations.
    """
    from diffusion.denoisers import BidirectionalDenoiser

    if isinstance(module.ema_denoiser, BidirectionalDenoiser):
        return _transport_ways(module.ema_denoiser, inversion_of(module, steps, small, schedule))
    if small is not None or schedule is not None:
        option = "--schedule" if small is None else "--small"
        raise UsageError(f"{option} is of a bidirectional model; a {type(module).__name__} is inverted by its ODE")
    return _ode_ways(module.ema_denoiser, steps or 50)


def inversion_of(module: Any, steps: int | None, small: float | None, schedule: str | None) -> "InversionSchedule":
    """The levels of a bidirectional model's inversion and of its way back, which takes as many evaluations.

    Those of a file are as the file has them; arguments and errors as in `ways_of`.
    """
    from cli.inversion_file import InversionSchedule, read_inversion

    if schedule is not None:
        return read_inversion(schedule, module, steps)
    own = (module.inversions[0][0], module.denoiser.sigma_max) if steps is None else module.inversion_levels(steps)
    levels = (own[0] if small is None else small, *own[1:])
    if not 0 <= levels[0] < levels[1]:
        raise UsageError(f"--small {levels[0]:g}: it must lie in [0, {levels[1]:g})")
    return InversionSchedule(type(module).__name__, levels, levels[-2:0:-1])


def _transport_ways(denoise: Any, way: "InversionSchedule") -> Ways:
    from diffusion.samplers import ancestral, inversion_start
    from tasks.bidirectional import invert_images

    low, levels = denoise.sigma_min, way.levels

    def control(x0: "Tensor", noise: Any, label: "Tensor | None") -> "Tensor":
        start, visited = inversion_start(x0, levels, noise, low)
        return denoise(start, visited[0], label)

    return Ways(
        lambda x0, noise, label: invert_images(denoise, x0, levels, noise, label, sigma_min=low),
        lambda x, label: ancestral(denoise, x, (levels[-1], *way.back, low), label),
        levels,
        way.back,
        levels[0],
        control,
    )


def _ode_ways(denoise: Any, steps: int) -> Ways:
    from diffusion.grids import KarrasGrid
    from diffusion.solvers import heun_step
    from tasks.sde_edit import ddim_inversion, follow

    levels = tuple(KarrasGrid().levels(steps + 1, denoise.sigma_min, denoise.sigma_max))
    return Ways(
        lambda x0, noise, label: ddim_inversion(denoise, x0, levels[::-1], label, step=heun_step),
        lambda x, label: follow(denoise, x, levels, label, heun_step),
        levels[::-1],
        levels[1:-1],
    )


def between(
    ways: Ways,
    first: "Tensor",
    second: "Tensor",
    frames: int,
    noise: "Callable[[], Any]",
    label: "Tensor | None",
) -> "Tensor":
    """The images between two batches of them (B, C, H, W) in [-1, 1]: inverted, their noises mixed, generated again.

    Args:
        ways: of the model.
        first, second: the ends, which come back as inversion leaves them.
        frames: images between, the ends included, at least 2.
        noise: gives the same source of initial noise at every call, since both ends get the same.
        label: (B,) or None.

    Returns:
        (B, frames, C, H, W).
    """
    import torch

    from tasks.few_step import slerp

    ends = [ways.up(x0, noise(), label) for x0 in (first, second)]
    shares = [i / (frames - 1) for i in range(frames)]
    return torch.stack([ways.down(slerp(ends[0], ends[1], share), label) for share in shares], 1)


def noise_picture(noise: "Tensor", level: float) -> "Tensor":
    """Noise (B, C, H, W) at a level as uint8 images: of a standard normal, three deviations are black and white."""
    from diffusion.pixels import to_uint8

    return to_uint8(noise / level / 3)


def seeded(seeds: Sequence[int], module: Any, device: Any) -> "Callable[[], Any]":
    """The same noise of these seeds at every call."""
    from diffusion.rng import ImageNoise

    return lambda: ImageNoise(list(seeds), module.image_shape, device)
