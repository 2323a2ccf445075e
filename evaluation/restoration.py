"""Likeness of restored images to clean ones, per image, as the field reports it: the mean over images, not of errors.

PSNR = 10 log10(255^2 / mean (a - b)^2)       dB, of uint8 images; at most 60, which is what equal images get
SSIM (Wang et al. 2004): a window of 11 Gaussian-weighted pixels (sigma 1.5), below 16 pixels one of 3 x 3;
                               images are mirrored at their border
LPIPS (Zhang et al. 2018)      of AlexNet, in colour, from 32 pixels on (`Perceptual`)
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from diffusion.distances import LPIPS
from diffusion.pixels import from_uint8

CAP = 60.0
"""dB of equal images."""


def psnr(images: Tensor, truth: Tensor) -> Tensor:
    """dB (B,) of each pair of images (B, C, H, W) uint8."""
    _check(images, truth)
    return decibel((images.double() - truth.double()).square().flatten(1).mean(1), 255.0)


def decibel(square: Tensor, span: float) -> Tensor:
    """10 log10(span^2 / square), at most `CAP`, of mean squared errors (B,) of numbers that span `span`."""
    return (10 * torch.log10(span**2 / square)).clamp(max=CAP)  # of 0 too: its logarithm is infinite


def consistency(measure: Callable[[Tensor], Tensor], images: Tensor, y: Tensor) -> Tensor:
    """PSNR in dB (B,) of what is known: restored images, measured again, against the measurement that was given.

    Of images that agree with the measurement it is limited by their rounding to uint8. Entries of a measurement that
    are 0 whatever the image is, such as the hidden pixels of an inpainting, do not count.

    Note: it says nothing of the rest, and is highest for what was given itself; it is never to stand alone.

    Args:
        measure: of images in [-1, 1], without noise.
        images: (B, C, H, W) uint8.
        y: measurement.
    """
    x = from_uint8(images).to(y)
    counted = (measure(torch.ones_like(x[:1])) != 0).expand_as(y)
    square = ((measure(x) - y).double().square() * counted).flatten(1).sum(1) / counted.flatten(1).sum(1)
    return decibel(square, 2.0)


def ssim(images: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity (B,), at most 1, of each pair of images (B, C, H, W) uint8.

    Note: of images under 16 pixels the usual window would hardly fit; theirs is 3 x 3, and the values of the two do not
    compare.
    """
    _check(images, truth)
    small = min(images.shape[2:]) < 16
    values: Any = structural_similarity_index_measure(
        images.double(), truth.double(), gaussian_kernel=not small, kernel_size=3, reduction="none", data_range=255.0
    )
    return values.reshape(len(images))


def residual(measure: Callable[[Tensor], Tensor], images: Tensor, y: Tensor, sigma_y: float) -> Tensor:
    """Mean of (A x - y)^2/sigma_y^2 over the measurement (B,), in the place of `consistency` where y is noisy.

    It is about 1 for the clean image, 0 for one that keeps all the noise; above 1 what was given is not respected.

    Args:
        measure, y: as in `consistency`.
        images: (B, C, H, W) uint8.
        sigma_y: standard deviation of the noise of y, > 0.
    """
    return ((measure(from_uint8(images).to(y)) - y).double() / sigma_y).square().flatten(1).mean(1)


class Perceptual:
    """LPIPS (B,) of pairs of colour images (B, 3, H, W) uint8: `diffusion.distances.LPIPS` of AlexNet.

    Images are compared at their own size, those below 64 pixels at 64. It depends on that size: values of images of
    different sizes do not compare.

    Args:
        image_shape: (C, H, W).

    Raises:
        ValueError: images that are grey or below 32 pixels; or the weights are neither there nor to be downloaded.
    """

    def __init__(self, image_shape: tuple[int, int, int]):
        channels, height, width = image_shape
        if channels != 3 or height != width or height < 32:
            raise ValueError(
                f"images of {channels} x {height} x {width}: LPIPS is reported of square colour images of at least 32 "
                "pixels; AlexNet fails on smaller ones"
            )
        try:
            self.distance = LPIPS("alex", size=max(height, 64))
        except ValueError as error:
            raise ValueError(str(error).partition("; ")[0]) from None  # the rest advises another loss

    def __call__(self, images: Tensor, truth: Tensor, batch_size: int = 32) -> Tensor:
        """Float64, on the CPU."""
        _check(images, truth)
        with torch.no_grad():
            pairs = zip(images.split(batch_size), truth.split(batch_size), strict=True)
            return torch.cat([self.distance(from_uint8(a), from_uint8(b)).double() for a, b in pairs])


def _check(images: Tensor, truth: Tensor) -> None:
    if images.shape != truth.shape or images.dtype != torch.uint8 or truth.dtype != torch.uint8 or images.ndim != 4:
        raise ValueError(
            f"images {tuple(images.shape)} of {images.dtype} and {tuple(truth.shape)} of {truth.dtype}: two uint8 "
            f"tensors of one shape (B, C, H, W) are needed"
        )
