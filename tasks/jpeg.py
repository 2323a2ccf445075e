"""JPEG as a measurement: the real codec, and a surrogate of it that a gradient passes through.

JPEG is neither linear nor differentiable; the decoded image stands in the place of A^+ y, as in DDRM-JPEG (Kawar et al.
2022, arXiv 2209.11888): what is known is replaced by x0 - J(x0) + y. Only the quality need be known for that; a blind
algorithm does not look at it.
"""

import io
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from diffusion.pixels import from_uint8, to_uint8

BLOCK = 8


@dataclass(frozen=True)
class Quality(ABC):
    """The face of both: how strongly is compressed, and what stands for a pseudo-inverse.

    Args:
        quality: Pillow's quality factor, 1 to 95. Colour is kept at half the resolution (4:2:0), as is its default.
    """

    quality: int

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 95:
            raise ValueError(f"quality={self.quality}: JPEG's quality factor lies in 1 to 95")

    @property
    def sigma_y(self) -> float:
        """0: what a codec loses is no Gaussian noise."""
        return 0.0

    @property
    def differentiable(self) -> "JPEGSurrogate":
        """The surrogate of the same quality."""
        return JPEGSurrogate(self.quality)

    @abstractmethod
    def measure(self, x: Tensor) -> Tensor:
        """The images (B, 1 or 3, H, W) in [-1, 1], compressed and decompressed: what is known of them."""

    def observe(self, x: Tensor, noise: Callable[[], Tensor]) -> Tensor:
        """`measure`: a codec adds no noise, and none is drawn."""
        return self.measure(x)

    def ridge_inverse(self, y: Tensor, ratio: float | Tensor) -> Tensor:
        """y/(1 + ratio): the decoded image in the place of a pseudo-inverse."""
        return y / (1 + ratio)

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """y itself, the decoded image."""
        return y

    def shown(self, y: Tensor) -> Tensor:
        """y itself."""
        return y

    def unknown_part(self, x: Tensor) -> Tensor:
        """0: J has no null space, and of noise, which it clips and rounds, it tells nothing."""
        return torch.zeros_like(x)

    def project(self, x0: Tensor, y: Tensor) -> Tensor:
        """x0 - J(x0) + y. J of that is near y, not equal to it: J is no projector."""
        return x0 - self.measure(x0) + y


def _check_channels(x: Tensor) -> None:
    if x.shape[1] not in (1, 3):
        raise ValueError(f"images of {x.shape[1]} channels: JPEG is for 1 (grey) or 3 (colour)")


@dataclass(frozen=True)
class JPEG(Quality):
    """The real codec, Pillow's libjpeg: rounded to uint8 by `to_uint8`, encoded, decoded. Nothing passes backward."""

    def encode(self, image: np.ndarray) -> bytes:
        """The file of one image, (H, W) or (H, W, 3) uint8."""
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=self.quality)
        return file.getvalue()

    def measure(self, x: Tensor) -> Tensor:
        _check_channels(x)
        decoded = []
        for image in to_uint8(x.detach()).cpu().permute(0, 2, 3, 1).squeeze(3 if x.shape[1] == 1 else ()).numpy():
            pixels = np.array(Image.open(io.BytesIO(self.encode(image))))
            decoded.append(torch.from_numpy(pixels).reshape(*pixels.shape[:2], -1).permute(2, 0, 1))
        return from_uint8(torch.stack(decoded)).to(x)


@dataclass(frozen=True)
class JPEGSurrogate(Quality):
    """JPEG in torch for algorithms that differentiate it: the same steps with the codec's own tables.

    YCbCr, colour at half the resolution, the cosine transform of 8 x 8 blocks, division by the table, rounding, and
    back. Rounding has the derivative 1 (straight through), so that the gradient is that of the identity but for the
    clipping and the loss of colour resolution. Images whose sides are no multiple of 16 (grey: 8) are filled up by
    their edge pixels, as the codec does.

    Note: it differs from libjpeg by the rounding of its integer transforms, on natural images by about one grey level
    on average; so consistency with a real JPEG is to be measured by `JPEG`.
    """

    @cached_property
    def tables(self) -> tuple[Tensor, Tensor]:
        """The codec's divisors (8, 8) of brightness and of colour at this quality, read from a file that it wrote."""
        file = JPEG(self.quality).encode(np.zeros((BLOCK, BLOCK, 3), np.uint8))
        found = Image.open(io.BytesIO(file)).quantization  # type: ignore[attr-defined]
        first, second = (torch.tensor(found[i], dtype=torch.float64).reshape(BLOCK, BLOCK) for i in (0, 1))
        return first, second

    def measure(self, x: Tensor) -> Tensor:
        _check_channels(x)
        height, width = x.shape[2:]
        side = BLOCK if x.shape[1] == 1 else 2 * BLOCK
        pixels = (x * 127.5 + 127.5).clamp(0, 255)
        filled = pad(_round(pixels), (0, -width % side, 0, -height % side), mode="replicate")
        brightness, colour = (table.to(x) for table in self.tables)
        if x.shape[1] == 1:
            made = _quantise(filled - 128, brightness) + 128
        else:
            to_ycc = torch.tensor(YCC, dtype=x.dtype, device=x.device)
            ycc = torch.einsum("ij,bjhw->bihw", to_ycc, filled)
            luma = _quantise(ycc[:, :1] - 128, brightness) + 128
            small = _quantise(avg_pool2d(ycc[:, 1:], 2), colour)
            chroma = interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)
            made = torch.einsum("ij,bjhw->bihw", torch.linalg.inv(to_ycc), torch.cat([luma, chroma], 1))
        return _round(made[..., :height, :width].clamp(0, 255)) / 127.5 - 1


YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
"""Brightness and the two colour differences of red, green and blue (JFIF, ITU-T T.871)."""


def _round(x: Tensor) -> Tensor:
    """Rounded, with the derivative of x."""
    return x + (x.detach().round() - x.detach())


def _quantise(x: Tensor, table: Tensor) -> Tensor:
    """Planes (B, C, H, W) after the blocks' cosine transform, rounding to multiples of `table` (8, 8), and back."""
    n = torch.arange(BLOCK, dtype=torch.float64)
    cosine = (torch.cos(torch.pi * n[:, None] * (2 * n + 1) / (2 * BLOCK)) / 2).to(x)
    cosine = torch.cat([cosine[:1] / 2**0.5, cosine[1:]])  # orthogonal
    batch, channels, height, width = x.shape
    blocks = x.reshape(batch, channels, height // BLOCK, BLOCK, width // BLOCK, BLOCK).transpose(3, 4)
    kept = _round(cosine @ blocks @ cosine.T / table) * table
    return (cosine.T @ kept @ cosine).transpose(3, 4).reshape(x.shape)
