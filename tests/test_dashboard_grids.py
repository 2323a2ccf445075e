"""Pictures pixel by pixel."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion.pixels import to_uint8
from evaluation.grids import image_grid, save_png, scatter_plot


def test_every_pixel_becomes_a_sharp_square() -> None:
    images = torch.randint(0, 256, (5, 3, 4, 6), dtype=torch.uint8)
    grid = image_grid(images, columns=3, min_side=10)  # 4 pixels become 12
    assert grid.shape == (2 * 14 + 2, 3 * 20 + 2, 3) and grid.dtype == np.uint8
    for i, image in enumerate(images):
        top, left = 2 + i // 3 * 14, 2 + i % 3 * 20
        tile = torch.from_numpy(grid[top : top + 12, left : left + 18])
        assert torch.equal(tile, image.movedim(0, -1).repeat_interleave(3, 0).repeat_interleave(3, 1))
    assert (grid[16:, 42:] == 255).all()  # the place of the sixth image


def test_grey_images_and_floats() -> None:
    x = torch.linspace(-1.2, 1.2, 64).view(1, 1, 8, 8)
    grid = image_grid(x, min_side=1)
    assert grid.shape == (12, 12, 3)
    for channel in range(3):
        assert np.array_equal(grid[2:-2, 2:-2, channel], to_uint8(x)[0, 0].numpy())


def test_values_that_are_not_finite_are_red() -> None:
    x = torch.zeros(1, 1, 2, 2)
    x[0, 0, 0, 1], x[0, 0, 1, 0] = torch.nan, torch.inf
    grid = image_grid(x, min_side=1)[2:-2, 2:-2]
    assert grid[0, 1].tolist() == grid[1, 0].tolist() == [255, 0, 0]
    assert grid[0, 0].tolist() == grid[1, 1].tolist() == [128, 128, 128]


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((4, 2, 8, 8), {}, r"shape \(4, 2, 8, 8\)"),
        ((0, 1, 8, 8), {}, r"shape \(0, 1, 8, 8\)"),
        ((1, 8, 8), {}, r"shape \(1, 8, 8\)"),
        ((4, 1, 8, 8), {"columns": 0}, "columns=0"),
        ((4, 1, 8, 8), {"min_side": 0}, "min_side=0"),
    ],
)
def test_what_is_no_batch_of_images_is_refused(shape: tuple, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        image_grid(torch.zeros(shape), **options)


def test_a_png_holds_the_picture(tmp_path: Path) -> None:
    picture = image_grid(torch.rand(3, 3, 8, 8) * 2 - 1)
    save_png(picture, tmp_path / "grid.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "grid.png")), picture)


def test_points_are_drawn_where_they_are() -> None:
    points = torch.tensor([[0.5, 0.5]] * 40).view(-1, 2, 1, 1)
    picture = scatter_plot([("one point", points, None)], limit=1.0).astype(int)
    blue = (picture[..., 2] - picture[..., 0]) > 100  # points, not text or frame
    rows, columns = blue.nonzero()
    height, width = picture.shape[:2]
    assert len(rows) > 0 and rows.mean() < 0.45 * height and columns.mean() > 0.6 * width
    with pytest.raises(ValueError, match=r"shape \(3, 1, 8, 8\)"):
        scatter_plot([("", torch.zeros(3, 1, 8, 8), None)], limit=1.0)
