"""Grids of small images in a comparison's report."""

import torch

from evaluation.grids import Picture
from evaluation.page import mosaic, picture

COLUMNS = 8
"""Images in a row of a grid; of the test images that are inverted, a multiple of it."""
SIDE = 44
"""Pixels that an image is shown with at least."""


def grid(images: Picture, alt: str, columns: int = COLUMNS) -> str:
    """Images (N, C, H, W) uint8 in rows, each at least about `SIDE` pixels wide and high."""
    return picture(mosaic(torch.from_numpy(images), columns), alt, max(1, round(SIDE / min(images.shape[2:]))))
