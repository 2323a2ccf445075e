"""Points and levels for the tests of diffusion-GANs."""

import torch
from torch import nn

from diffusion.adversarial import Critic

T = torch.tensor([0.05, 0.9, 3.0, 150.0], dtype=torch.float64)
S = torch.tensor([0.002, 0.3, 2.9, 17.0], dtype=torch.float64)


def images(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def alpha_bar(sigma):
    return 1 / (1 + sigma**2)


def vp(x, sigma):
    return Critic(nn.Identity(), sigma_data=1.0).rescaled(x, sigma)


def slope(values, x):
    return torch.autograd.grad(values.sum(), x)[0]
