"""Zero-shot editing against openai/consistency_models at e32b69e (tests/recorded/cm_editing.json).

The official functions work by an orthogonal matrix and a mask of its rows; ours by a projector.
"""

import json
import math
from pathlib import Path

import pytest
import torch

from diffusion.grids import KarrasGrid
from tasks.few_step import zero_shot
from tasks.operators import AveragePool, Grey, Inpainting

RECORDED = json.loads((Path(__file__).parent / "recorded" / "cm_editing.json").read_text())
LEVELS = [KarrasGrid().levels(40, 0.002, 80.0)[i] for i in RECORDED["ts"][:-1]]
"""The official schedule's last entry, sigma_min, is not evaluated."""


def closed(shape, a, b):
    return torch.sin(a + b * torch.arange(math.prod(shape), dtype=torch.float64)).reshape(shape)


def formula(x, sigma, label=None):
    """In the place of a consistency model."""
    return 1.3 * torch.tanh(x / (1 + sigma)) + 0.2 * torch.cos(x.flip(-1))


class Noise:
    """The draws of the recording, of some images of its batch."""

    def __init__(self, shape, rows=slice(None)):
        self.shape, self.rows, self.j = shape, rows, -1

    def __call__(self):
        self.j += 1
        return math.sqrt(2) * closed(self.shape, 0.3 + 0.9 * self.j**2 + 0.1 * self.j, 2.9)[self.rows]


def restored(operator, shape, rows=slice(None)):
    x0 = closed(shape, 1.0, 1.7)[rows]
    return zero_shot(formula, operator, operator.measure(x0), LEVELS, Noise(shape, rows))


def agrees(ours, record):
    recorded = torch.tensor(record["x"], dtype=torch.float64)
    torch.testing.assert_close(ours.flatten()[:: record.get("every", 1)], recorded, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(("name", "operator"), [("colour", Grey()), ("superres", AveragePool(8))])
def test_colourisation_and_super_resolution(name, operator):
    agrees(restored(operator, RECORDED[name]["shape"]), RECORDED[name])


def test_inpainting():
    """Seven images with what is black made anew, seven with it kept."""
    shape, white = RECORDED["inpainting"]["shape"], torch.ones(4, 4, dtype=torch.bool)
    white[1:3, 0:3] = False
    halves = [restored(Inpainting(mask), shape, rows) for mask, rows in ((white, slice(7)), (~white, slice(7, 14)))]
    agrees(torch.cat(halves), RECORDED["inpainting"])
