"""What generator and discriminator of a diffusion-GAN minimise, and what keeps the discriminator smooth.

Logits are (B,), or (B, ...) of a discriminator that judges every place of an image; a loss is (B,), the mean over
places.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion.denoisers import c_noise, edm_scalings
from diffusion.noise import expand, forward_step


def per_image(values: Tensor) -> Tensor:
    """The mean over all places of an image, (B, ...) -> (B,)."""
    return values.flatten(1).mean(1) if values.ndim > 1 else values


class GanLoss(Protocol):
    """A two-player loss of logits, both sides (B,) and to be minimised."""

    relativistic: ClassVar[bool]
    """Whether the generator's side looks at the data's logits."""

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """The discriminator's loss of the logits of data and of samples."""

    def generator(self, fake: Tensor, real: Tensor) -> Tensor:
        """The generator's loss; `real`, without gradient, is looked at by a relativistic loss alone."""


@dataclass(frozen=True)
class NonSaturating:
    """L_D = softplus(-D(real)) + softplus(D(fake)),  L_G = softplus(-D(fake))  (Goodfellow et al. 2014, 1406.2661).

    Args:
        limit: no gradient from a logit that is right by more than this; 0.5 in UFOGen's released code, which needs no
            gradient penalty then. None for no limit.
    """

    relativistic: ClassVar[bool] = False
    limit: float | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit <= 0:
            raise ValueError(f"limit={self.limit}: it must be > 0")

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        if self.limit is not None:
            real, fake = real.clamp(max=self.limit), fake.clamp(min=-self.limit)
        return per_image(F.softplus(-real) + F.softplus(fake))

    def generator(self, fake: Tensor, real: Tensor) -> Tensor:
        return per_image(F.softplus(-(fake if self.limit is None else fake.clamp(max=self.limit))))


@dataclass(frozen=True)
class Relativistic:
    """L_D = softplus(D(fake) - D(real)),  L_G = softplus(D(real) - D(fake)), data and samples in pairs.

    Jolicoeur-Martineau 2019 (arXiv 1807.00734); with R1 and R2 it converges locally (R3GAN, Huang et al. 2024, arXiv
    2501.05441).
    """

    relativistic: ClassVar[bool] = True

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return per_image(F.softplus(fake - real))

    def generator(self, fake: Tensor, real: Tensor) -> Tensor:
        return per_image(F.softplus(real - fake))


@dataclass(frozen=True)
class Hinge:
    """L_D = max(0, 1 - D(real)) + max(0, 1 + D(fake)),  L_G = -D(fake)  (Lim & Ye 2017, arXiv 1705.02894)."""

    relativistic: ClassVar[bool] = False

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return per_image(F.relu(1 - real) + F.relu(1 + fake))

    def generator(self, fake: Tensor, real: Tensor) -> Tensor:
        return per_image(-fake)


class Critic(nn.Module):
    """A discriminator network that is told points in this project's coordinates.

    The network sees x/sqrt(s^2 + sigma^2) and ln(sigma)/4, as every network here (EDM's c_in and c_noise, s the data's
    standard deviation). With s = 1 that is the variance-preserving sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) noise, and
    for any s it is that point of the data divided by s.

    Args:
        network: `forward(x, c_noise, label) -> logits`, and if it has `source_level`,
            `forward(x, c_noise, label, c_source)`.
        sigma_data: standard deviation s of the data, > 0.
    """

    def __init__(self, network: nn.Module, sigma_data: float = 0.5):
        super().__init__()
        if sigma_data <= 0:
            raise ValueError(f"sigma_data={sigma_data}: it must be > 0")
        self.network, self.sigma_data = network, sigma_data

    def rescaled(self, x: Tensor, sigma: Tensor) -> Tensor:
        """What the network sees of x (B, ...) at levels sigma (B,); gradient penalties are of this."""
        return x * expand(edm_scalings(sigma, self.sigma_data).c_in, x).to(x.dtype)

    def forward(self, seen: Tensor, sigma: Tensor, label: Tensor | None = None, source: Tensor | None = None) -> Tensor:
        """Logits, float32 at least, of `rescaled` points (B, ...) at levels sigma (B,).

        `source` (B,), the level that a sample was made from, goes to a network that takes it (`source_level`).
        """
        dtype = torch.promote_types(seen.dtype, torch.float32)
        levels = [sigma] if source is None or not self.told_source else [sigma, source]
        told = [c_noise(level.to(dtype)) for level in levels]
        return self.network(seen, told[0], label, *told[1:]).to(dtype)

    @property
    def told_source(self) -> bool:
        """Whether the network is told the level that a sample was made from.

        Where many t are judged at one s, a discriminator that is not told t compares data with the mixture of all their
        samples, in which the few from the highest level may collapse unnoticed.
        """
        return getattr(self.network, "source_level", False)


class DecodingCritic(Critic):
    """A critic whose network also decodes: it denoises data, and regresses from a point on the one it came from.

    With F_B, F_C the two halves of what the network's `decode` gives,

        B(x_s) = c_skip x_s + c_out F_B    EDM's scalings: an estimate of x0
        C(x_s) = x_s + sqrt(t^2 - s^2) F_C an estimate of x_t, of which x_s is the mean under the forward process

    Args:
        network: `decode(x, c_noise, label) -> (logits, (B, 2 channels, H, W))`.
        channels: of the data.
        sigma_data: standard deviation of the data, > 0.

    Raises:
        ValueError: the network has no decoder of 2 channels outputs.
    """

    def __init__(self, network: nn.Module, channels: int, sigma_data: float = 0.5):
        super().__init__(network, sigma_data)
        decoded = getattr(network, "decoded_channels", 0)
        if decoded != 2 * channels:
            raise ValueError(
                f"{type(network).__name__} with decoded_channels={decoded}: a discriminator with a decoder of "
                f"{2 * channels} channels is needed, twice those of the data"
            )

    def decode(self, x_s: Tensor, s: Tensor, t: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Points x_s (B, ...) at levels s < t (B,) -> logits, B(x_s) and C(x_s)."""
        scalings = edm_scalings(s, self.sigma_data)
        network: Any = self.network
        logits, decoded = network.decode(self.rescaled(x_s, s), c_noise(s), label)
        half_b, half_c = decoded.to(x_s.dtype).chunk(2, dim=1)
        denoised = expand(scalings.c_skip, x_s) * x_s + expand(scalings.c_out, x_s) * half_b
        return logits.to(torch.promote_types(logits.dtype, torch.float32)), denoised, forward_step(x_s, half_c, s, t)


Judge = Callable[[Tensor], Tensor]
"""A critic at given levels and labels: rescaled points (B, ...) -> logits."""


class Penalty(Protocol):
    """What the discriminator pays for being steep. Due at every `interval`-th of its steps ("lazy")."""

    interval: int

    def __call__(self, judge: Judge, real: Tensor, fake: Tensor, noise: Tensor) -> Tensor:
        """The penalty (B,), gradient to the judge's weights alone.

        Args:
            judge: the discriminator.
            real, fake: rescaled points (B, ...), without gradient.
            noise: standard normal, like `real`.
        """


def _check_interval(interval: int) -> None:
    if interval < 1:
        raise ValueError(f"interval={interval}: a penalty is due every step or more seldom")


@dataclass(frozen=True)
class GradientPenalty:
    """R1 = gamma/2 E ||dD/dx||^2 at the data (Mescheder et al. 2018, arXiv 1801.04406), R2 the same at the samples.

    Of a critic with a logit for every place, the gradient is that of their mean.

    Args:
        gamma: weight, >= 0. 0.02 every 15th step without scaling in DDGAN on CIFAR-10.
        fake: R2 as well.
        interval: due at every n-th step of the discriminator.
        scaled: multiply by the interval, so that gamma means the same at any interval (StyleGAN2, arXiv 1912.04958).
            False as in DDGAN's released code, whose gamma is in effect gamma/interval.
    """

    gamma: float = 0.02
    fake: bool = False
    interval: int = 1
    scaled: bool = True

    def __post_init__(self) -> None:
        _check_interval(self.interval)
        if self.gamma < 0:
            raise ValueError(f"gamma={self.gamma}: it must be >= 0")

    def __call__(self, judge: Judge, real: Tensor, fake: Tensor, noise: Tensor) -> Tensor:
        squares = squared_gradient(judge, real)
        if self.fake:
            squares = squares + squared_gradient(judge, fake)
        return self.gamma / 2 * (self.interval if self.scaled else 1) * squares


def squared_gradient(judge: Judge, x: Tensor) -> Tensor:
    """||d(mean logit)/dx||^2 of each image (B,), differentiable in the judge's weights."""
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(per_image(judge(x)).sum(), x, create_graph=True)
    return gradient.flatten(1).square().sum(1)


@dataclass(frozen=True)
class ApproximatePenalty:
    """aR1 = weight E (D(x) - D(x + sigma noise))^2 at the data, aR2 the same at the samples: R1 by finite differences.

    First order only, so it works in half precision and through compiled networks (APT, Lin et al. 2025, arXiv
    2501.08316, weight 100, sigma 0.01 on images). For small sigma it is weight sigma^2 ||dD/dx||^2 in expectation: R1
    with gamma = 2 weight sigma^2. Of a critic with a logit for every place, the square is the mean of theirs.

    Args:
        weight: >= 0.
        sigma: of the noise, > 0.
        fake: aR2 as well.
        interval, scaled: as in `GradientPenalty`.
    """

    weight: float = 100.0
    sigma: float = 0.01
    fake: bool = False
    interval: int = 1
    scaled: bool = True

    def __post_init__(self) -> None:
        _check_interval(self.interval)
        if self.weight < 0 or self.sigma <= 0:
            raise ValueError(f"weight={self.weight}, sigma={self.sigma}: weight >= 0 and sigma > 0 are needed")

    def __call__(self, judge: Judge, real: Tensor, fake: Tensor, noise: Tensor) -> Tensor:
        places = (real, fake) if self.fake else (real,)
        squares = [per_image((judge(x) - judge(x + self.sigma * noise)).square()) for x in places]
        return self.weight * (self.interval if self.scaled else 1) * torch.stack(squares).sum(0)
