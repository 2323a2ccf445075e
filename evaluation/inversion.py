"""How well a bidirectional denoiser inverts real images: image -> noise -> image."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion.denoisers import BidirectionalDenoiser
from diffusion.pixels import from_uint8, to_uint8
from diffusion.rng import ImageNoise
from diffusion.samplers import ancestral, inversion_start, invert
from evaluation.gather import gather_strided, strided
from evaluation.generate import Meter


@dataclass(frozen=True)
class InversionScore:
    """Errors are mean squared per pixel on [0, 1], of images rounded to uint8."""

    images: int
    split: str
    levels: tuple[float, ...]
    """Noise levels visited on the way in."""
    nfe_in: float
    """Network evaluations per image from image to noise, counted."""
    nfe_out: float
    """Network evaluations per image from noise to image, counted."""
    error: float
    """Of the images regenerated from their inverted noise."""
    denoising_error: float
    """The control: of the images denoised in one evaluation from the same small initial noise, never inverted.

    A perfect model has the same error here: what is beyond it is learning error.
    """
    variance: float
    """Of the data: the error of their mean image."""
    noise_ratio: float
    """Standard deviation of the inverted noise over its level; sqrt(1 + sigma_data^2/level^2) for a perfect model."""
    back: tuple[float, ...] = ()
    """Levels visited on the way back from the last one to sigma_min; none where it is one step."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a JSON file."""
        return asdict(self)


def squared_error(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared error per pixel on [0, 1] of each pair (B,) of uint8 images (B, C, H, W)."""
    return ((a.double() - b.double()) / 255).square().flatten(1).mean(1)


@torch.inference_mode()
def score_inversion(
    denoise: BidirectionalDenoiser,
    images: Tensor,
    levels: Sequence[float],
    *,
    split: str = "test",
    label: Tensor | None = None,
    back: Sequence[float] = (),
    batch_size: int = 500,
    device: torch.device | str = "cpu",
) -> InversionScore:
    """Invert real images through `levels`, regenerate them, and measure what was lost.

    Image i gets the initial noise of seed i. The work is divided among the processes; all get the result.

    Args:
        denoise: the denoiser, on `device`.
        images: (N, C, H, W) uint8.
        levels: ascending, from the level of the initial noise (0: none) to the one where generation starts, e.g.
            (0.07, 80).
        split: name of the images' split.
        label: (N,) classes or None.
        back: descending levels between levels[-1] and sigma_min that are visited on the way back; none for one step.
        batch_size: images per forward pass.
        device: where the denoiser is.
    """
    if images.dtype != torch.uint8 or len(images) == 0:
        raise ValueError(f"{len(images)} images of dtype {images.dtype}: at least one uint8 image is needed")
    channels, height, width = images.shape[1:]
    way_in, way_out = Meter(denoise.network), Meter(denoise.network)
    parts = []
    for rows in strided(torch.arange(len(images))).split(batch_size):
        truth = images[rows].to(device)
        labels = None if label is None else label[rows].to(device)
        noise = ImageNoise(rows.tolist(), (channels, height, width), device)
        start, visited = inversion_start(from_uint8(truth), levels, noise, denoise.sigma_min)
        with way_in.batch(len(rows), device):
            inverted = invert(denoise, start, visited, labels)
        with way_out.batch(len(rows), device):
            regenerated = ancestral(denoise, inverted, (visited[-1], *back, denoise.sigma_min), labels)
        control = denoise(start, visited[0], labels)
        flat = inverted.double().flatten(1)
        parts.append(
            torch.stack(
                [
                    squared_error(to_uint8(regenerated), truth),
                    squared_error(to_uint8(control), truth),
                    flat.mean(1),
                    flat.square().mean(1),
                ],
                dim=1,
            )
        )
    error, denoising_error, mean, square = gather_strided(torch.cat(parts), len(images)).mean(0).tolist()
    return InversionScore(
        images=len(images),
        split=split,
        levels=tuple(levels),
        nfe_in=way_in.nfe,
        nfe_out=way_out.nfe,
        error=error,
        denoising_error=denoising_error,
        variance=float((images.double() / 255).var(0, correction=0).mean()),
        noise_ratio=(square - mean**2) ** 0.5 / levels[-1],
        back=tuple(back),
    )
