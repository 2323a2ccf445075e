"""Operators against deepinv 0.5.0 (tests/recorded/deepinv_operators.json), to 1e-5 of the largest number.

Where conventions differ, the part that must agree is compared:

- grey: deepinv has 0.29896, 0.58702, 0.11405 of its own; it was given our weights, the consistency models' paper's.
- means of blocks: its filter with padding "valid"; with its other paddings the blocks lie elsewhere.
- bicubic: its `DownsamplingMatlab`, MATLAB's phase and mirrored border as here, agrees everywhere. Its
  `Downsampling(filter="bicubic")` differs at the border, whatever its padding.
- Gaussian blur: the kernel with as many taps as ours, 3 deviations, rounded up, on each side (deepinv by default takes
  one more on each side for 1 and 1.3). At the border we repeat the edge pixel while mirroring, which none of its
  paddings does, so only the pixels whose window lies inside are compared.
"""

import json
import math
from pathlib import Path

import pytest
import torch

from tasks.masks import box_mask
from tasks.operators import AveragePool, Grey, Inpainting
from tasks.separable import bicubic, gaussian_blur

RECORDED = json.loads((Path(__file__).parent / "recorded" / "deepinv_operators.json").read_text())
SHAPE = (1, 3, 12, 8)
OPERATORS = {
    "inpainting": Inpainting(box_mask(12, 8)),
    "grey": Grey(),
    "pool 2": AveragePool(2),
    "pool 4": AveragePool(4),
    "bicubic 2": bicubic(12, 8, 2),
    "bicubic 4": bicubic(12, 8, 4),
}


def closed(shape, a, b):
    """The inputs of the recording."""
    return torch.sin(a + b * torch.arange(math.prod(shape), dtype=torch.float64)).reshape(shape)


def same(ours, recorded, shape):
    theirs = torch.tensor(recorded, dtype=torch.float64).reshape(shape)
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max()) < 1e-5 * float(theirs.abs().max())


@pytest.mark.parametrize("name", list(OPERATORS))
def test_measurement_and_adjoint(name):
    operator, held = OPERATORS[name], RECORDED[name]
    assert same(operator.measure(closed(SHAPE, 1.0, 1.7)), held["A"], held["shape"])
    assert same(operator.adjoint(closed(held["shape"], 0.4, 2.3)), held["adjoint"], SHAPE)


@pytest.mark.parametrize("std", [0.8, 1.0, 1.3])
def test_blur_inside(std):
    held = RECORDED[f"blur {std}"]
    radius, (height, width) = held["radius"], (16, 14)
    made = gaussian_blur(height, width, std).measure(closed((1, 3, height, width), 1.0, 1.7))
    assert radius == math.ceil(3 * std)
    assert same(made[..., radius : height - radius, radius : width - radius], held["A"], held["shape"])
