"""Paintings made of images: what stands for strokes where nobody painted any."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from diffusion.pixels import from_uint8, to_uint8


@dataclass(frozen=True)
class Strokes:
    """A painting of an image: the median of its surroundings at every pixel, in a few colours.

    Median filter and quantised colours are how SDEdit's strokes are simulated (Meng et al. 2022, arXiv 2108.01073,
    recalled); the size of the window and the number of colours here are for images of any size, by Pillow. It is no
    linear operator, and nothing of the image is known for certain: a painting guides, and stands itself for its image.

    Args:
        colours: at most as many in a painting, 2 to 256.
        share: side of the median's window over that of the image, in (0, 1]; rounded up to an odd number, at least 3.
    """

    colours: int = 6
    share: float = 0.09

    def __post_init__(self) -> None:
        if not 2 <= self.colours <= 256:
            raise ValueError(f"colours={self.colours}: 2 to 256 colours are painted with")
        if not 0 < self.share <= 1:
            raise ValueError(f"share={self.share}: a share lies in (0, 1]")

    @property
    def sigma_y(self) -> float:
        """0: a painter adds no noise."""
        return 0.0

    def measure(self, x: Tensor) -> Tensor:
        """Paintings of images (B, 1 or 3, H, W) in [-1, 1], of the same shape."""
        if x.shape[1] not in (1, 3):
            raise ValueError(f"images of {x.shape[1]} channels: strokes are grey (1) or in colour (3)")
        window = max(3, 2 * round(self.share * min(x.shape[2:]) / 2) + 1)
        painted = []
        for pixels in to_uint8(x.detach()).cpu().permute(0, 2, 3, 1).squeeze(3 if x.shape[1] == 1 else ()).numpy():
            image = Image.fromarray(pixels).filter(ImageFilter.MedianFilter(window))
            few = image.quantize(self.colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
            made = np.array(few.convert(image.mode))
            painted.append(torch.from_numpy(made).reshape(*made.shape[:2], -1).permute(2, 0, 1))
        return from_uint8(torch.stack(painted)).to(x)

    def observe(self, x: Tensor, noise: Callable[[], Tensor]) -> Tensor:
        """`measure`; no noise is drawn."""
        return self.measure(x)

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """y itself."""
        return y

    def shown(self, y: Tensor) -> Tensor:
        """y itself."""
        return y
