"""The grid of levels that diffusers' consistency pipeline visits, and a level embedding that is ours there.

The pipeline tells a network t = 250 ln(sigma), by cos and sin of t at fixed frequencies; ours may be told ln(sigma)/4
by others. On finitely many levels the first layer W p(sigma) of one embedding p is the first layer W' q(sigma) of
another q wherever W' q(sigma_i) = W p(sigma_i), a linear system, has a solution; with q's fast frequencies it has.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diffusion.denoisers import c_noise
from diffusion.noise import karras_grid
from networks.embeddings import PositionalEmbedding
from networks.unet import UNet
from weights.table import WeightsError

LEVELS = 40
"""Of the grid, as of the published models that were distilled."""
TOLERANCE = 1e-6
"""Of the first layer's output on the grid, relative to its largest number."""


def grid(sigma_min: float, sigma_max: float) -> Tensor:
    """The levels by timestep (LEVELS,), float64: timestep 0 is sigma_max, and they fall with rho = 7."""
    return karras_grid(LEVELS - 1, sigma_min, sigma_max).flip(0)


def nearest_timesteps(levels: Sequence[float], sigma_min: float, sigma_max: float) -> list[int]:
    """The timesteps whose levels are nearest to some, in ratio; as diffusers wants them, falling."""
    logarithms = grid(sigma_min, sigma_max).log()
    return sorted({int((logarithms - torch.tensor(level).log()).abs().argmin()) for level in levels}, reverse=True)


def is_theirs(unet: UNet) -> bool:
    """Whether the network's embedding is the pipeline's."""
    position = unet.embedding.position
    if not isinstance(position, PositionalEmbedding):
        return False
    return (position.scale, position.max_period, position.endpoint) == (1000.0, 10_000.0, False)


def first_layer(unet: UNet, sigma_min: float, sigma_max: float) -> Tensor:
    """The weight of the embedding's first layer that on the grid does with their embedding what ours does with ours.

    Of all that do, the smallest, (out, in) float32.

    Raises:
        WeightsError: there is none.
    """
    c = c_noise(grid(sigma_min, sigma_max))
    embedding: Any = copy.deepcopy(unet.embedding).cpu().double()
    weight = embedding.noise_mlp[0].weight.detach()
    theirs = PositionalEmbedding(weight.shape[1], scale=1000.0)(c)
    wanted = embedding.position(c) @ weight.T
    solution = torch.linalg.lstsq(theirs, wanted, rcond=1e-10, driver="gelsd").solution
    error = float((theirs @ solution - wanted).abs().amax() / wanted.abs().amax())
    if not error < TOLERANCE:
        raise WeightsError(
            f"diffusers' embedding of noise levels cannot be this network's: on the grid they differ by {error:.1e}"
        )
    return solution.T.float().contiguous()
