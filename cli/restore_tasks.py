"""What `restore` undoes: the tasks by the names that a user gives them, and the operator of each."""

from dataclasses import dataclass, replace
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
    "denoise": "from Gaussian noise of a level, of images in [-1, 1]",
    "strokes": "an image of the colours and coarse shapes of a painting",
}
DAMAGING = ("inpaint", "colourise", "upscale", "unblur", "jpeg")
"""Those of them that take something of an image away."""
OPTION_OF = {"mask": "inpaint", "factor": "upscale", "bicubic": "upscale", "blur": "unblur", "quality": "jpeg"}
"""The tasks that have a number, a mask or a kind of their own, by the names of these."""
FACTOR, BLUR, QUALITY = 2, 1.0, 10
"""Where nothing else is said."""


@dataclass(frozen=True)
class Damage:
    """What was done to images; None stands for what was not said, and becomes the default.

    Args:
        task: of `TASKS`.
        mask: (H, W) bool, True where pixels are kept; the central box is hidden by default. Of inpaint alone.
        factor: of upscale; 2 by default.
        bicubic: upscale undoes bicubic down-sampling, in the place of means of factor x factor pixels.
        blur: standard deviation in pixels, of unblur; 1 by default.
        quality: 1 to 95, of jpeg; 10 by default.
        level: standard deviation of the noise, of denoise, which has no default.
        noise: standard deviation of the noise in a measurement of another task, of images in [-1, 1]; not of jpeg.
    """

    task: str
    mask: "Tensor | None" = None
    factor: int | None = None
    blur: float | None = None
    quality: int | None = None
    level: float | None = None
    bicubic: bool = False
    noise: float = 0.0

    @property
    def told(self) -> bool:
        """Whether it says more than the task."""
        said = (self.mask, self.factor, self.blur, self.quality)
        return self.task == "denoise" or self.bicubic or self.noise > 0 or any(value is not None for value in said)

    def operator(self, shape: tuple[int, int, int]) -> Any:
        """The operator for images of a shape (C, H, W).

        Raises:
            UsageError: the mask or a number does not fit.
        """
        try:
            operator = self._operator(*shape)
            if not self.noise:
                return operator
            if self.noise < 0 or self.task in ("jpeg", "strokes", "denoise"):
                raise ValueError(f"noise {self.noise:g}: it must be >= 0, and {self.task} takes none beside it")
            return replace(operator, sigma_y=self.noise)
        except ValueError as error:
            raise UsageError(str(error)) from None

    def _operator(self, channels: int, height: int, width: int) -> Any:
        import torch

        from tasks.jpeg import JPEG
        from tasks.masks import box_mask
        from tasks.operators import AveragePool, Grey, Inpainting
        from tasks.separable import bicubic, gaussian_blur
        from tasks.strokes import Strokes

        match self.task:
            case "inpaint":
                return Inpainting(box_mask(height, width) if self.mask is None else self.mask)
            case "colourise":
                if channels != 3:
                    raise ValueError("colourise: this model's images are grey themselves")
                return Grey()
            case "upscale":
                factor = self.factor or FACTOR
                if height % factor or width % factor:
                    raise ValueError(f"factor {factor} does not divide images of {height} x {width} pixels")
                return bicubic(height, width, factor) if self.bicubic else AveragePool(factor)
            case "unblur":
                return gaussian_blur(height, width, BLUR if self.blur is None else self.blur, threshold=0.05)
            case "denoise":
                if self.level is None:
                    raise ValueError("task denoise needs a level, the standard deviation of the noise")
                return Inpainting(torch.ones(height, width, dtype=torch.bool), sigma_y=self.level)
            case "strokes":
                return Strokes()
            case _:
                return JPEG(QUALITY if self.quality is None else self.quality)


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
