"""The inputs of the recorded runs of official code (float64), restated, and access to the recorded numbers.

The files name repository, commit and function. Nothing of the official code is here: a network that is a closed
formula with two trainable scalars stands in for the real one, so that losses and their gradients are comparable.
"""

import json
import math
from pathlib import Path

import torch
from torch import Tensor, nn

SHAPE = (3, 2, 4, 4)
_K = torch.arange(math.prod(SHAPE), dtype=torch.float64)
X0 = torch.sin(1 + 1.7 * _K).reshape(SHAPE)

_FOLDER = Path(__file__).parent
BCM = json.loads((_FOLDER / "bcm_ict_torch.json").read_text())
CM = json.loads((_FOLDER / "consistency_models.json").read_text())


def noise(j: int) -> Tensor:
    """The j-th "random" draw of the recordings."""
    return (math.sqrt(2) * torch.sin(0.3 + 2.9 * _K + 0.9 * j * j + 0.1 * j)).reshape(SHAPE)


class NoiseSequence:
    """noise(first), noise(first + 1), ... in the place of an `ImageNoise`; `calls` counts the draws."""

    def __init__(self, first: int):
        self.first, self.calls = first, 0

    def __call__(self) -> Tensor:
        self.calls += 1
        return noise(self.first + self.calls - 1)


class FormulaNetwork(nn.Module):
    """F = a tanh(z + 0.2 c_noise) + b cos(0.5 c_target + z flipped along its last axis); c_target = 0 without one."""

    def __init__(self, a: float = 0.8, b: float = -0.3):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor(b, dtype=torch.float64))

    def forward(
        self, x: Tensor, c_noise: Tensor, label: Tensor | None = None, c_target: Tensor | None = None
    ) -> Tensor:
        w = 0.0 if c_target is None else 0.5 * c_target.reshape(-1, 1, 1, 1)
        return self.a * torch.tanh(x + 0.2 * c_noise.reshape(-1, 1, 1, 1)) + self.b * torch.cos(w + x.flip(-1))


def images(values: list[float]) -> Tensor:
    """A recorded batch of images (flattened) in its shape."""
    return torch.tensor(values, dtype=torch.float64).reshape(SHAPE)


def tensor(values: list[float]) -> Tensor:
    """Recorded numbers in float64."""
    return torch.tensor(values, dtype=torch.float64)


def agrees(ours: Tensor, recorded: Tensor, rtol: float = 1e-5) -> None:
    """Fail unless every element agrees to `rtol`; elements near zero, to 1e-9 of the largest one."""
    torch.testing.assert_close(ours.detach().double(), recorded, rtol=rtol, atol=1e-9 * recorded.abs().max().item())


def gradients(loss: Tensor, network: FormulaNetwork) -> Tensor:
    """d(sum of the loss)/d(a, b)."""
    return torch.stack(torch.autograd.grad(loss.sum(), [network.a, network.b], retain_graph=True))


def inside(p: list[float], cdf: list[float], index: list[int]) -> tuple[Tensor, Tensor]:
    """Uniform numbers just inside both ends of recorded intervals of a distribution function, and their indices.

    `p` and `cdf` belong to the entries `index` of a discrete law; entries of probability 0 are left out. A law that
    draws these indices from these numbers has the recorded probabilities to 1e-5.
    """
    width, end = tensor(p), tensor(cdf)
    drawn = width > 0
    numbers = torch.stack([end - (1 - 1e-5) * width, end - 1e-5 * width])[:, drawn]
    return numbers.flatten(), torch.tensor(index)[drawn].repeat(2)
