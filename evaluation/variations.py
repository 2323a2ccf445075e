"""What becomes of an image whose noise is amplified along the trajectory, beside one that gets new noise.

    amplified:  x0 + small z  ->  f(., small -> large)  ->  f(., large -> eps)      a zigzag round, two evaluations
    added:      x0 + large z  ->  f(., large -> eps)                                as image-to-image, one evaluation

Both are denoised from the same level. A perfect model takes the first to what it would make of x0 + small z, however
large the level: all that amplification changes beyond that is learning error. Added noise makes another image of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from diffusion.denoisers import BidirectionalDenoiser
from diffusion.pixels import from_uint8, to_uint8
from diffusion.rng import ImageNoise
from diffusion.samplers import image_to_image, zigzag
from evaluation.features import FeatureNetwork, Features, extract
from evaluation.inversion import squared_error

AMPLIFIED, ADDED = "amplified", "added"


@dataclass(frozen=True)
class Variation:
    """Scores of images that were noised to a level and denoised.

    Args:
        noise: `AMPLIFIED` or `ADDED`.
        small: level of the noise that is amplified; None where it is added.
        large: the level from which all is denoised.
        error: mean squared distance from the original per pixel on [0, 1].
        feature_error: mean squared distance of the judge's features from those of the original.
        quality: the judge's distances of the results to the reference.
    """

    noise: str
    small: float | None
    large: float
    error: float
    feature_error: float
    quality: dict[str, float]


@torch.inference_mode()
def varied(
    denoise: BidirectionalDenoiser,
    images: Tensor,
    small: float | None,
    large: float,
    *,
    label: Tensor | None = None,
    batch_size: int = 500,
) -> Tensor:
    """Images (N, C, H, W) uint8 after one round; image i's noise is that of seed i.

    Args:
        denoise: the denoiser.
        images: (N, C, H, W) uint8.
        small: level of the noise that is amplified; None adds noise up to `large`.
        large: level from which all is denoised, above sigma_min and `small`.
        label: (N,) classes or None.
        batch_size: images per forward pass.
    """
    parts, eps, (channels, height, width) = [], denoise.sigma_min, images.shape[1:]
    for rows in torch.arange(len(images)).split(batch_size):
        x0, noise = from_uint8(images[rows]), ImageNoise(rows.tolist(), (channels, height, width))
        labels = None if label is None else label[rows]
        if small is None:
            made = image_to_image(denoise, x0, (large,), noise, labels, eps)
        else:
            made = zigzag(denoise, x0, ((small, large),), noise, labels, eps)
        parts.append(to_uint8(made))
    return torch.cat(parts)


def score_variations(
    denoise: BidirectionalDenoiser,
    judge: FeatureNetwork,
    images: Tensor,
    reference: Features,
    rounds: Sequence[tuple[float, float]],
    *,
    label: Tensor | None = None,
    batch_size: int = 500,
) -> list[Variation]:
    """Every (small, large) of `rounds` amplified, and noise added up to each of the large levels.

    Args:
        denoise: the denoiser.
        judge: of the results.
        images: originals (N, C, H, W) uint8, such as a test split.
        reference: features of real images that the results are compared with.
        rounds: levels 0 < small < large.
        label: (N,) classes of the originals or None.
        batch_size: images per forward pass.
    """
    make = partial(varied, denoise, images, label=label, batch_size=batch_size)
    before = extract(judge, images, batch_size)
    ways: list[tuple[float | None, float]] = [
        *rounds,
        *((None, large) for large in dict.fromkeys(b for _, b in rounds)),
    ]
    found = []
    for small, large in ways:
        made = make(small, large)
        after = extract(judge, made, batch_size)
        n, m = judge.compared(len(after), len(reference))
        found.append(
            Variation(
                ADDED if small is None else AMPLIFIED,
                small,
                large,
                float(squared_error(made, images).mean()),
                float((after.features - before.features).double().square().sum(1).mean()),
                judge.scores_against(after.first(n), reference.subset(m)),
            )
        )
    return found
