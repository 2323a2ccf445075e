"""Pictures of batches: grids of images and scatter plots of 2-D points, as (H, W, 3) uint8 arrays."""

import os
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Picture = NDArray[np.uint8]

BACKGROUND = 255
GAP = 2
NON_FINITE = (255, 0, 0)


def image_grid(images: Tensor, columns: int = 8, min_side: int = 40) -> Picture:
    """Lay images out in rows, small ones enlarged by a whole factor so that every pixel stays a sharp square.

    Args:
        images: (N, C, H, W), C = 1 or 3; uint8, or float in [-1, 1], rounded as everywhere in this project. A float
            that is not finite is drawn red, so that a diverged model shows and does not stop a run.
        columns: images per row.
        min_side: each image is enlarged until its shorter side has at least this many pixels.

    Returns:
        (H', W', 3) uint8.

    Raises:
        ValueError: the images have another shape, or a number of columns or a side is below 1.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
        raise ValueError(f"images of shape {tuple(images.shape)}: (N, C, H, W) with N >= 1 and C = 1 or 3 is needed")
    if columns < 1 or min_side < 1:
        raise ValueError(f"columns={columns}, min_side={min_side}: both must be at least 1")
    tiles = _tiles(images.detach().cpu())
    n, height, width, _ = tiles.shape
    scale = -(-min_side // min(height, width))
    tiles = tiles.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    columns = min(columns, n)
    rows = -(-n // columns)
    step_y, step_x = height * scale + GAP, width * scale + GAP
    grid = torch.full((rows * step_y + GAP, columns * step_x + GAP, 3), BACKGROUND, dtype=torch.uint8)
    for i, tile in enumerate(tiles):
        top, left = GAP + i // columns * step_y, GAP + i % columns * step_x
        grid[top : top + height * scale, left : left + width * scale] = tile
    return grid.numpy()


def _tiles(images: Tensor) -> Tensor:
    """Images as (N, H, W, 3) uint8."""
    images = images.expand(-1, 3, -1, -1).movedim(1, -1)
    if images.dtype == torch.uint8:
        return images
    tiles = (images.float().nan_to_num() * 127.5 + 128).clip(0, 255).to(torch.uint8)
    broken = ~images.isfinite().all(-1, keepdim=True)
    return torch.where(broken, torch.tensor(NON_FINITE, dtype=torch.uint8), tiles)


def scatter_plot(panels: Sequence[tuple[str, Tensor, Tensor | None]], limit: float) -> Picture:
    """Scatter plots of 2-D points, side by side.

    Args:
        panels: (title, points (N, 2, 1, 1), classes (N,) that colour them, or None) of each plot.
        limit: half the width of the axes. Points beyond it are not drawn, their share stands in the title.

    Returns:
        (H, W, 3) uint8.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(panels), 3.8), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for i, (title, points, label) in enumerate(panels):
        if points.ndim != 4 or tuple(points.shape[1:]) != (2, 1, 1):
            raise ValueError(f"points of shape {tuple(points.shape)}: (N, 2, 1, 1) is needed")
        xy = points.detach().float().cpu().flatten(1)
        outside = float((~(xy.abs().amax(1) <= limit)).float().mean())
        axes = figure.add_subplot(1, len(panels), i + 1)
        colours = ["C0"] * len(xy) if label is None else [f"C{k % 10}" for k in label.tolist()]
        axes.scatter(xy[:, 0].numpy(), xy[:, 1].numpy(), s=3, linewidths=0, c=colours)
        axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
        axes.set_title(f"{title} ({outside:.1%} outside)" if outside else title, fontsize=9)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save_png(picture: Picture, path: str | os.PathLike[str]) -> None:
    """Write a picture (H, W, 3) uint8 as a PNG file."""
    from PIL import Image

    Image.fromarray(picture).save(path, format="PNG")
