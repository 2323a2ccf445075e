"""From images to their noise and back: for `edit`, `interpolate` and the demo."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from cli.errors import UsageError
from cli.image_to_image import gives_mean

if TYPE_CHECKING:
    from torch import Tensor


class Ways(NamedTuple):
    """From images to their noise, `up(x0, noise, label)`, and from noise to images, `down(x, label)`."""

    up: "Callable[[Tensor, Any, Tensor | None], Tensor]"
    down: "Callable[[Tensor, Tensor | None], Tensor]"


def inverts(module: Any) -> bool:
    """Whether a model leads from data to noise too."""
    from diffusion.denoisers import BidirectionalDenoiser

    return isinstance(module.ema_denoiser, BidirectionalDenoiser) or gives_mean(module)


def ways_of(module: Any, steps: int = 50, small: float | None = None) -> Ways:
    """One evaluation each way with a bidirectional model, the ODE by Heun's method with a diffusion model.

    Args:
        module: one that `inverts`.
        steps: of a diffusion model, each way.
        small: level of the initial noise of a bidirectional model; that of its `inversions` by default.

    Raises:
        UsageError: `small` is no level below sigma_max.
    """
    from diffusion.denoisers import BidirectionalDenoiser
    from diffusion.grids import KarrasGrid
    from diffusion.solvers import heun_step
    from tasks.bidirectional import invert_images
    from tasks.sde_edit import ddim_inversion, follow

    denoise = module.ema_denoiser
    low, high = denoise.sigma_min, denoise.sigma_max
    if not isinstance(denoise, BidirectionalDenoiser):
        levels = tuple(KarrasGrid().levels(steps + 1, low, high))
        return Ways(
            lambda x0, noise, label: ddim_inversion(denoise, x0, levels[::-1], label, step=heun_step),
            lambda x, label: follow(denoise, x, levels, label, heun_step),
        )
    start = module.inversions[0][0] if small is None else small
    if not 0 <= start < high:
        raise UsageError(f"--small {start:g}: it must lie in [0, {high:g})")
    return Ways(
        lambda x0, noise, label: invert_images(denoise, x0, (start, high), noise, label, sigma_min=low),
        lambda x, label: denoise(x, high, label),
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
