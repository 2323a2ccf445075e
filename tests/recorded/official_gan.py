"""The networks and latents that the recordings of diffusion-GANs were made with.

Their points are variance-preserving, x/sqrt(1 + sigma^2) of ours, as a `Critic` with sigma_data = 1 has them.
"""

import math

import torch
from torch import nn

from diffusion.adversarial import Critic
from recorded.official import NoiseSequence


def column(values, x):
    return values.reshape(-1, *[1] * (x.ndim - 1))


class FormulaGenerator(nn.Module):
    """F = a tanh(x + 0.2 c_noise) + b cos(x flipped along its channels) + c (z_1 sin(x) + z_2)."""

    latent_size = 2

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (0.8, -0.3, 0.5))

    def forward(self, x, c_noise, label=None, latent=None):
        out = self.a * torch.tanh(x + 0.2 * column(c_noise, x)) + self.b * torch.cos(x.flip(1))
        if latent is None:
            return out
        first, second = (column(z, x) for z in latent.unbind(1))
        return out + self.c * (first * torch.sin(x) + second)


class FormulaDiscriminator(nn.Module):
    """A logit for every place: p tanh(x + 0.3 c_noise) + q x (y + 0.5 x flipped) + r cos(2 x - y).

    y is the second half of the channels of a pair, else 0. `summed`: one logit an image, a quarter of the sum.
    """

    def __init__(self, pairs=False, summed=False):
        super().__init__()
        self.p, self.q, self.r = (nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (0.7, -0.4, 0.6))
        self.pairs, self.summed = pairs, summed

    def forward(self, x, c_noise, label=None):
        x, y = x.chunk(2, dim=1) if self.pairs else (x, torch.zeros_like(x))
        places = self.p * torch.tanh(x + 0.3 * column(c_noise, x)) + self.q * x * (y + 0.5 * x.flip(1))
        places = places + self.r * torch.cos(2 * x - y)
        return places.flatten(1).sum(1) / 4 if self.summed else places


def gradient(loss, network):
    """d(the mean of the loss)/d(the scalars)."""
    return torch.stack(torch.autograd.grad(loss.mean(), list(network.parameters()), retain_graph=True))


def kept(x):
    """The elements that the recordings keep of (3, 2, 4, 4)."""
    return x[:, 0, 0].flatten()


def vp(x, sigma):
    """The variance-preserving point."""
    return Critic(nn.Identity(), sigma_data=1.0).rescaled(x, sigma)


def level(alpha_bar):
    return ((1 - alpha_bar) / alpha_bar).sqrt()


def beta(t, s):
    return (t**2 - s**2) / (1 + t**2)


class LatentNoise(NoiseSequence):
    """A `NoiseSequence` with the recording's latents beside."""

    latents = 0

    def vector(self, size):
        self.latents += 1
        return latent(self.latents - 1, size)


def latent(j, size=2):
    k = torch.arange(3 * size, dtype=torch.float64).reshape(3, size)
    return math.sqrt(2) * torch.sin(0.5 + 1.3 * k + j)
