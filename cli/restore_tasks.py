"""What `restore` undoes: the tasks by the names that a user gives them, and the operator of each."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

TASKS = {
    "inpaint": "the dark pixels of a mask are made anew (default: the central box)",
    "colourise": "colour from grey",
    "upscale": "from means of factor x factor pixels",
    "unblur": "from a Gaussian blur of so many pixels",
    "jpeg": "from a JPEG of a quality",
}


@dataclass(frozen=True)
class Damage:
    """What was done to images.

    Args:
        task: of `TASKS`.
        mask: (H, W) bool, True where pixels are kept; the central box is hidden by default. Of inpaint alone.
        factor: of upscale.
        blur: standard deviation in pixels, of unblur.
        quality: 1 to 95, of jpeg.
    """

    task: str
    mask: "Tensor | None" = None
    factor: int = 2
    blur: float = 1.0
    quality: int = 10

    def operator(self, shape: tuple[int, int, int]) -> Any:
        """The operator for images of a shape (C, H, W).

        Raises:
            UsageError: the mask or a number does not fit.
        """
        try:
            return self._operator(*shape)
        except ValueError as error:
            raise UsageError(str(error)) from None

    def _operator(self, channels: int, height: int, width: int) -> Any:
        from tasks.jpeg import JPEG
        from tasks.masks import box_mask
        from tasks.operators import AveragePool, Grey, Inpainting
        from tasks.separable import gaussian_blur

        match self.task:
            case "inpaint":
                return Inpainting(box_mask(height, width) if self.mask is None else self.mask)
            case "colourise":
                if channels != 3:
                    raise ValueError("colourise: this model's images are grey themselves")
                return Grey()
            case "upscale":
                if height % self.factor or width % self.factor:
                    raise ValueError(f"factor {self.factor} does not divide images of {height} x {width} pixels")
                return AveragePool(self.factor)
            case "unblur":
                return gaussian_blur(height, width, self.blur, threshold=0.05)
            case _:
                return JPEG(self.quality)


def read_mask(path: Path | str | None, shape: tuple[int, int, int]) -> "Tensor | None":
    """The mask (H, W) in a file, for images of a shape (C, H, W); None for no file.

    Raises:
        UsageError: it is no mask of that size.
    """
    from tasks.masks import mask_from_image

    try:
        return None if path is None else mask_from_image(path, *shape[1:])
    except ValueError as error:
        raise UsageError(str(error)) from None
