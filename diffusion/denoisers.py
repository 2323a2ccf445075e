"""Preconditioning: a network wrapped so that it maps (x, sigma) to x0, or to any level of the trajectory.

| wrapper | c_skip | c_out | holds |
|---|---|---|---|
| EDMDenoiser | s^2/(s^2 + t^2) | s t/sqrt(s^2 + t^2) | unit variance of F's target |
| ConsistencyDenoiser | s^2/(s^2 + (t - eps)^2) | s (t - eps)/sqrt(s^2 + t^2) | f(x, eps) = x |
| BidirectionalDenoiser | (s^2 + t u)/(s^2 + t^2) | s (t - u)/sqrt(s^2 + t^2) | f(x, t, t) = x for every t |
| TrajectoryDenoiser | u/t + (1 - u/t) s^2/(s^2 + t^2) | (1 - u/t) s t/sqrt(s^2 + t^2) | G(x, t, t) = x for every t |
| FlowDenoiser | 1/(1 + t) | -t/(1 + t) | F is the velocity of a straight path |
| GeneratorDenoiser | EDM's | EDM's | a sample of x0, not its mean |
| BoundedGenerator | 0 | 1, and a tanh | pixels in (-1, 1) |
| ConditionalDenoiser | EDM's | EDM's | E[x0 given x and a condition] |
| BridgeDenoiser | 1 | -t | F is (x - x0)/t on a bridge |

with s = sigma_data, c_in = 1/sqrt(s^2 + t^2) (FlowDenoiser: 1/(1 + t), BridgeDenoiser: 1), c_noise = ln(t)/4. Scalings
are float32 at least, whatever autocast does to the network.
"""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from diffusion.noise import expand
from diffusion.rng import ImageNoise


class Denoise(Protocol):
    """Any estimate of x0: (x (B, ...), sigma (B,) or number, label (B,) or None) -> (B, ...)."""

    def __call__(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor: ...


class Transport(Protocol):
    """A flow map: as Denoise, and with `target` the point of the trajectory at that level."""

    def __call__(
        self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None, target: float | Tensor | None = None
    ) -> Tensor: ...


class Scalings(NamedTuple):
    """c_skip, c_out, c_in of one level (or one pair of levels) per image, each (B,)."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor


def c_noise(sigma: Tensor) -> Tensor:
    """ln(sigma)/4, what a network is told of the noise level (arXiv 2206.00364, table 1)."""
    return sigma.log() / 4


def edm_scalings(sigma: Tensor, sigma_data: float) -> Scalings:
    """EDM's scalings (B,) at the levels `sigma` (B,) (arXiv 2206.00364, table 1)."""
    s2, t2 = sigma_data**2, sigma**2
    root = (s2 + t2).sqrt()
    return Scalings(s2 / (s2 + t2), sigma_data * sigma / root, 1 / root)


def _combine(scalings: Scalings, network_output: Tensor, x: Tensor) -> Tensor:
    """c_skip x + c_out F in the precision of x."""
    c_skip, c_out = expand(scalings.c_skip, x).to(x.dtype), expand(scalings.c_out, x).to(x.dtype)
    return torch.addcmul(c_skip * x, c_out, network_output.to(x.dtype))


class Denoiser(nn.Module):
    """The face that all denoisers share: a network, the data's standard deviation and the range of levels.

    Args:
        network: `forward(x, c_noise, label, c_target)`.
        sigma_data: standard deviation of the data, > 0.
        sigma_min: the smallest level (eps), at which a trajectory ends, > 0.
        sigma_max: the largest level (T), at which generation starts.
    """

    def __init__(self, network: nn.Module, sigma_data: float = 0.5, sigma_min: float = 0.002, sigma_max: float = 80.0):
        super().__init__()
        if not 0 < sigma_data < math.inf:
            raise ValueError(f"sigma_data={sigma_data}: it must be > 0 and finite")
        if not 0 < sigma_min < sigma_max < math.inf:
            raise ValueError(f"sigma_min={sigma_min}, sigma_max={sigma_max}: 0 < sigma_min < sigma_max < inf is needed")
        self.network = network
        self.sigma_data, self.sigma_min, self.sigma_max = sigma_data, sigma_min, sigma_max

    def levels_like(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """`sigma` as (B,) levels on the device of x (B, ...), float32 at least."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        if isinstance(sigma, Tensor):
            return sigma.to(x.device, dtype).expand(x.shape[0])
        return torch.full((x.shape[0],), sigma, dtype=dtype, device=x.device)  # filled there: no copy from the host


class OneLevelDenoiser(Denoiser, ABC):
    """The face of denoisers that are told one level and estimate x0."""

    @abstractmethod
    def scalings(self, sigma: Tensor) -> Scalings:
        """Scalings (B,) at the levels `sigma` (B,)."""

    def forward(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        """x (B, ...) at levels `sigma` (number or (B,)), `label` (B,) or None -> estimate of x0 (B, ...)."""
        sigma = self.levels_like(x, sigma)
        return self.scaled(x, sigma, label)

    def scaled(self, x: Tensor, sigma: Tensor, label: Tensor | None, **inputs: Tensor) -> Tensor:
        """c_skip x + c_out F(c_in x, c_noise(sigma)); levels (B,), `inputs` what else the network is given."""
        scalings = self.scalings(sigma)
        c_in = expand(scalings.c_in, x).to(x.dtype)
        return _combine(scalings, self.network(c_in * x, c_noise(sigma), label, **inputs), x)


class EDMDenoiser(OneLevelDenoiser):
    """D(x, t), the posterior mean of a diffusion model (Karras et al. 2022, arXiv 2206.00364, table 1)."""

    def scalings(self, sigma: Tensor) -> Scalings:
        return edm_scalings(sigma, self.sigma_data)


class ConsistencyDenoiser(OneLevelDenoiser):
    """f(x, t), the end of the trajectory, with f(x, sigma_min) = x (Song et al. 2023, arXiv 2303.01469, app. C).

    Note: under the root of c_out stands t, not t - eps, as in the official code and the paper's appendix.
    """

    def scalings(self, sigma: Tensor) -> Scalings:
        s2, above = self.sigma_data**2, sigma - self.sigma_min
        root = (s2 + sigma**2).sqrt()
        return Scalings(s2 / (above**2 + s2), self.sigma_data * above / root, 1 / root)


class FlowMapDenoiser(Denoiser, ABC):
    """The face of denoisers with two levels: x at one level to the same trajectory at another, by default sigma_min."""

    @abstractmethod
    def scalings(self, sigma: Tensor, target: Tensor) -> Scalings:
        """Scalings (B,) from the levels `sigma` (B,) to the levels `target` (B,)."""

    def forward(
        self,
        x: Tensor,
        sigma: float | Tensor,
        label: Tensor | None = None,
        target: float | Tensor | None = None,
    ) -> Tensor:
        """x (B, ...) at levels `sigma` -> x at levels `target` (default sigma_min), numbers or (B,)."""
        sigma = self.levels_like(x, sigma)
        target = self.levels_like(x, self.sigma_min if target is None else target)
        return self.scaled(self.scalings(sigma, target), x, sigma, label, target)

    def scaled(self, scalings: Scalings, x: Tensor, sigma: Tensor, label: Tensor | None, target: Tensor) -> Tensor:
        """c_skip x + c_out F(c_in x, c_noise(sigma), c_noise(target)) by any scalings (B,); levels (B,)."""
        c_in = expand(scalings.c_in, x).to(x.dtype)
        return _combine(scalings, self.network(c_in * x, c_noise(sigma), label, c_noise(target)), x)


class BidirectionalDenoiser(FlowMapDenoiser):
    """f(x, t, u), the trajectory through x at level t followed to any level u, up or down.

    f(x, t, u) = c_skip x + c_out F(c_in x, c_noise(t), c_noise(u)) with the scalings of Li & He 2024 (BCM, arXiv
    2403.18035): input and target of the network have unit variance in both directions, f(x, t, t) = x for every t,
    and at u = 0 the scalings are EDM's. Called without a target it goes to sigma_min and so is a consistency
    denoiser; every sampler takes it.
    """

    def scalings(self, sigma: Tensor, target: Tensor) -> Scalings:
        s2 = self.sigma_data**2
        variance = s2 + sigma**2
        root = variance.sqrt()
        return Scalings((s2 + sigma * target) / variance, self.sigma_data * (sigma - target) / root, 1 / root)


class TrajectoryDenoiser(FlowMapDenoiser):
    """G(x, t, u), the trajectory through x at level t followed down to the level u (CTM, Kim et al. 2024).

    G(x, t, u) = u/t x + (1 - u/t) g(x, t, u), g = c_skip x + c_out F(c_in x, c_noise(t), c_noise(u)) with EDM's
    scalings (arXiv 2310.02279, sec. 3): G(x, t, t) = x, and g(x, t, t) is the posterior mean.
    Called without a target it goes to sigma_min and so is a consistency denoiser.

    Note: G is defined for u <= t alone; a u above t is not refused, for which the host would wait for the device, but
    no CTM was trained there, and what comes of it means nothing.
    """

    def scalings(self, sigma: Tensor, target: Tensor) -> Scalings:
        inner, rest = edm_scalings(sigma, self.sigma_data), 1 - target / sigma
        return Scalings(target / sigma + rest * inner.c_skip, rest * inner.c_out, inner.c_in)

    def posterior_mean(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        """g(x, t, t), the diffusion model inside: x (B, ...) at levels `sigma` -> E[x0 | x] (B, ...)."""
        sigma = self.levels_like(x, sigma)
        return self.scaled(edm_scalings(sigma, self.sigma_data), x, sigma, label, sigma)


class FlowDenoiser(OneLevelDenoiser):
    """The velocity of a straight path as a denoiser (rectified flow, Liu et al. 2022, arXiv 2209.03003).

    A point x_a = (1 - a) x0 + a noise of a straight path is x0 + sigma noise at sigma = a/(1 - a), divided by
    1 + sigma. The network sees x_a and gives v = noise - x0, so x0 = x_a - a v = (x - sigma v)/(1 + sigma).

    Note: the network is told ln(sigma)/4 = ln(a/(1 - a))/4, as every network here, in the place of a.
    """

    def scalings(self, sigma: Tensor) -> Scalings:
        return Scalings(1 / (1 + sigma), -sigma / (1 + sigma), 1 / (1 + sigma))


class GeneratorDenoiser(OneLevelDenoiser):
    """G(x, t, z), a *sample* of x0 given the point x at level t: the generator of a diffusion-GAN.

    The scalings are EDM's, so that it can start at a diffusion model's weights. What it gives is neither a posterior
    mean nor the end of a trajectory: few-step samplers take it, solvers of the ODE do not.

    Where the network has a `latent_size` > 0, G needs a standard normal z (B, latent_size) (DDGAN, Xiao et al. 2022,
    arXiv 2112.07804); without one the noise in x is all its randomness.
    """

    @property
    def latent_size(self) -> int:
        """Numbers in z, 0 for none."""
        return getattr(self.network, "latent_size", 0)

    def scalings(self, sigma: Tensor) -> Scalings:
        return edm_scalings(sigma, self.sigma_data)

    def forward(
        self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None, latent: Tensor | None = None
    ) -> Tensor:
        """x (B, ...) at levels `sigma` (number or (B,)), `label` (B,), `latent` (B, latent_size) -> x0 (B, ...)."""
        sigma = self.levels_like(x, sigma)
        return self.scaled(x, sigma, label) if latent is None else self.scaled(x, sigma, label, latent=latent)

    def drawing(self, noise: ImageNoise) -> Denoise:
        """G with the latents of every evaluation drawn from `noise`."""
        if not self.latent_size:
            return self
        return lambda x, sigma, label=None: self(x, sigma, label, noise.vector(self.latent_size))


class BoundedGenerator(GeneratorDenoiser):
    """x0 = tanh(F(c_in x, c_noise(t), z)), without a skip path: DDGAN's generator (arXiv 2112.07804, released code).

    For data in [-1, 1] alone.
    """

    def scalings(self, sigma: Tensor) -> Scalings:
        return Scalings(torch.zeros_like(sigma), torch.ones_like(sigma), edm_scalings(sigma, self.sigma_data).c_in)

    def scaled(self, x: Tensor, sigma: Tensor, label: Tensor | None, **inputs: Tensor) -> Tensor:
        return super().scaled(x, sigma, label, **inputs).tanh()


class BesideChannels(nn.Module):
    """A network that is shown a condition as further channels of its input (Palette, arXiv 2111.05826).

    Args:
        network: `forward(x, c_noise, label)` for inputs of all channels and outputs of an image's.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None, *, condition: Tensor) -> Tensor:
        """x (B, C, H, W), condition (B, C', H, W) -> (B, C, H, W)."""
        return self.network(torch.cat([x, condition.to(x.dtype)], dim=1), c_noise, label)


class ConditionalDenoiser(OneLevelDenoiser):
    """D(x, t, c) = E[x0 | x, c], the posterior mean of a diffusion model of what a condition c leaves open."""

    def scalings(self, sigma: Tensor) -> Scalings:
        return edm_scalings(sigma, self.sigma_data)

    def forward(
        self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None, condition: Tensor | None = None
    ) -> Tensor:
        """x (B, ...) at levels `sigma` (number or (B,)), `label` (B,), `condition` (B, ...) -> x0 (B, ...)."""
        sigma = self.levels_like(x, sigma)
        if condition is None:
            return self.scaled(x, sigma, label)
        return self.scaled(x, sigma, label, condition=condition)

    def given(self, condition: Tensor | None) -> Denoise:
        """The plain denoiser of one condition."""
        return lambda x, sigma, label=None: self(x, sigma, label, condition)


class BridgeDenoiser(ConditionalDenoiser):
    """E[x0 | x] on a bridge (`diffusion/bridge.py`), or E[x0 | x, c] where a condition is given.

    x0 = x - t F(x, c_noise(t)), so that the network's target is (x - x0)/t (I2SB, arXiv 2302.05872, eq. 12).
    """

    def scalings(self, sigma: Tensor) -> Scalings:
        return Scalings(torch.ones_like(sigma), -sigma, torch.ones_like(sigma))
