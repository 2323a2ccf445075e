"""Masks (H, W) bool for `tasks.operators.Inpainting`: True is a pixel that is kept."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from tasks.operators import Inpainting

PLAIN_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")


def box_mask(
    height: int, width: int, rows: tuple[int, int] | None = None, columns: tuple[int, int] | None = None
) -> Tensor:
    """All but a box of pixels is kept.

    Args:
        height, width: of the images.
        rows: first row of the box and the one after its last; by default height/4 to 3 height/4, as in the consistency
            models' and I2SB's experiments.
        columns: the same of the columns.

    Raises:
        ValueError: the box is empty, is all of the image or lies outside it.
    """
    (top, bottom), (left, right) = (
        (n // 4, 3 * n // 4) if span is None else span for n, span in ((height, rows), (width, columns))
    )
    inside = 0 <= top < bottom <= height and 0 <= left < right <= width
    if not inside or (bottom - top, right - left) == (height, width):
        raise ValueError(
            f"rows {top} to {bottom}, columns {left} to {right}: no box that hides a part of {height} x {width} pixels"
        )
    mask = torch.ones(height, width, dtype=torch.bool)
    mask[top:bottom, left:right] = False
    return mask


def box_inpainting(
    height: int, width: int, rows: tuple[int, int] | None = None, columns: tuple[int, int] | None = None
) -> Inpainting:
    """`Inpainting` of a `box_mask`, arguments as there: in a config, where a mask would be a table of its pixels."""
    return Inpainting(box_mask(height, width, rows, columns))


def half_mask(height: int, width: int) -> Tensor:
    """The left half is kept; the other halves are this mask inverted, transposed (of a square image) or both.

    Raises:
        ValueError: the images are less than two pixels wide.
    """
    if height < 1 or width < 2:
        raise ValueError(f"images of {height} x {width} pixels have no left and right half")
    return box_mask(height, width, (0, height), (width // 2, width))


def random_mask(height: int, width: int, kept: float, seed: int = 0) -> Tensor:
    """A share `kept` of the pixels, rounded to a whole number of them, chosen by the seed.

    Raises:
        ValueError: `kept` is not in (0, 1), or so small or large that none or all pixels are kept.
    """
    count = round(kept * height * width) if 0 < kept < 1 else 0
    if not 0 < count < height * width:
        raise ValueError(f"kept={kept}: a share that keeps some of {height} x {width} pixels, not all, is needed")
    order = torch.randperm(height * width, generator=torch.Generator().manual_seed(seed))
    return (order < count).reshape(height, width)


def mask_from_image(path: str | Path, height: int, width: int) -> Tensor:
    """A free-form mask from an image file: bright pixels (grey value 128 and above) are kept, dark ones are made anew.

    Args:
        path: an image of 1 or 8 bits a channel; transparency is not looked at.
        height, width: of the images that the mask is for.

    Raises:
        ValueError: the file is no image or one of another kind or size, or it keeps no pixel, or hides none.
    """
    try:
        with Image.open(path) as image:
            mode, grey = image.mode, image.convert("L")
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: no mask can be read from it: {' '.join(str(error).split())}") from error
    if mode not in PLAIN_MODES:
        raise ValueError(f"{path}: a mask of mode {mode}; an image of 1 or 8 bits a channel, grey or RGB, is needed")
    if grey.size != (width, height):
        raise ValueError(f"{path}: a mask of {grey.height} x {grey.width} pixels for images of {height} x {width}")
    mask = torch.from_numpy(np.asarray(grey).copy()) >= 128
    if mask.all() or not mask.any():
        raise ValueError(f"{path}: empty mask, {'no' if mask.all() else 'every'} pixel is dark (to be made anew)")
    return mask
