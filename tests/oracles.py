"""The truth to test against: exact denoisers, flow maps and networks in closed form, and how an order is measured.

For data N(0, s^2 I) the probability-flow ODE has the solution x_u = x_t sqrt((s^2 + u^2)/(s^2 + t^2)); for a finite
data set the posterior mean is a softmax-weighted mean. All work in the precision of their input.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def column(sigma: float | Tensor, x: Tensor) -> Tensor:
    """A level, number or (B,), in a shape and precision that multiply x (B, ...)."""
    sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x))
    return sigma.reshape(-1, *[1] * (x.ndim - 1))


class GaussianDenoise:
    """The posterior mean E[x0 | x_t] = s^2/(s^2 + t^2) x_t for data N(0, s^2 I)."""

    def __init__(self, s: float):
        self.s = s

    def __call__(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        return self.s**2 / (self.s**2 + column(sigma, x) ** 2) * x


class GaussianFlow:
    """The flow map x_u = x_t sqrt((s^2 + u^2)/(s^2 + t^2)) for data N(0, s^2 I), to u = sigma_min without a target."""

    def __init__(self, s: float, sigma_min: float = 0.002):
        self.s, self.sigma_min = s, sigma_min

    def __call__(
        self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None, target: float | Tensor | None = None
    ) -> Tensor:
        t, u = column(sigma, x), column(self.sigma_min if target is None else target, x)
        return x * ((self.s**2 + u**2) / (self.s**2 + t**2)).sqrt()


class FiniteDenoise:
    """The posterior mean over a finite data set, sum_i w_i y_i with w = softmax(-||x - y_i||^2/(2 t^2))."""

    def __init__(self, data: Tensor):
        self.data = data

    def __call__(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        square = (x[:, None] - self.data).flatten(2).square().sum(2)
        weights = torch.softmax(-square / (2 * column(sigma, x).flatten(1) ** 2), dim=1)
        return (weights[..., None] * self.data.flatten(1)).sum(1).reshape(x.shape)


class ExactBidirectionalNetwork(nn.Module):
    """F*(z) = s (t - u)/(sqrt((s^2 + t^2)(s^2 + u^2)) + s^2 + t u) z: BidirectionalDenoiser is then GaussianFlow."""

    def __init__(self, s: float):
        super().__init__()
        self.s = s

    def forward(
        self, x: Tensor, c_noise: Tensor, label: Tensor | None = None, c_target: Tensor | None = None
    ) -> Tensor:
        t, u, s2 = column((4 * c_noise).exp(), x), column((4 * c_target).exp(), x), self.s**2
        return self.s * (t - u) / (((s2 + t**2) * (s2 + u**2)).sqrt() + s2 + t * u) * x


class ExactConsistencyNetwork(nn.Module):
    """The network with which ConsistencyDenoiser is GaussianFlow to sigma_min = eps.

    With d = t - eps, a = sqrt((s^2 + eps^2)/(s^2 + t^2)) and b = s^2/(s^2 + d^2) it is (a - b)(s^2 + t^2)/(s d) z,
    written here without the 0/0 at t = eps, by a - b = (a^2 - b^2)/(a + b).
    """

    def __init__(self, s: float, eps: float = 0.002):
        super().__init__()
        self.s, self.eps = s, eps

    def forward(
        self, x: Tensor, c_noise: Tensor, label: Tensor | None = None, c_target: Tensor | None = None
    ) -> Tensor:
        t, s2, e2 = column((4 * c_noise).exp(), x), self.s**2, self.eps**2
        d = t - self.eps
        a, b = ((s2 + e2) / (s2 + t**2)).sqrt(), s2 / (s2 + d**2)
        numerator = s2**2 * d + s2 * d**3 + 2 * e2 * s2 * d + e2 * d**3 - 2 * s2**2 * self.eps
        return numerator / (self.s * (a + b) * (s2 + d**2) ** 2) * x


class SmallNetwork(nn.Module):
    """A random network of our signature that depends on all its inputs; `dropout` between its two layers."""

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 2, 2),
        num_classes: int = 0,
        dropout: float | None = None,
        seed: int = 0,
        out_channels: int | None = None,
    ):
        super().__init__()
        self.out_shape = (image_shape[0] if out_channels is None else out_channels, *image_shape[1:])
        size, out_size = torch.Size(image_shape).numel(), torch.Size(self.out_shape).numel()
        self.first, self.second = nn.Linear(size + 2, 32), nn.Linear(32, out_size)
        self.classes = nn.Embedding(num_classes, 32) if num_classes else None
        self.dropout = nn.Identity() if dropout is None else nn.Dropout(dropout)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(0, 0.4, generator=generator)

    def before(self, x: Tensor, c_noise: Tensor, label: Tensor | None, c_target: Tensor | None) -> Tensor:
        """What the first layer makes of all inputs, (B, 32)."""
        u = torch.zeros_like(c_noise) if c_target is None else c_target
        h = self.first(torch.cat([x.flatten(1), c_noise[:, None], u[:, None]], 1))
        return h if self.classes is None else h + self.classes(label)

    def forward(
        self, x: Tensor, c_noise: Tensor, label: Tensor | None = None, c_target: Tensor | None = None, **extra: Tensor
    ) -> Tensor:
        h = self.before(x, c_noise, label, c_target, **extra)
        return self.second(self.dropout(torch.tanh(h))).unflatten(1, self.out_shape)


def orders(errors: Sequence[float]) -> list[float]:
    """The order of convergence measured at every halving of the step: log2 of the ratio of successive errors."""
    e = torch.tensor(errors, dtype=torch.float64)
    return (e[:-1] / e[1:]).log2().tolist()


def gaussian_data(n: int, s: float, image_shape: Sequence[int] = (1, 2, 2), seed: int = 0) -> Tensor:
    """n images from N(0, s^2 I), (n, C, H, W) float64."""
    return s * torch.randn(n, *image_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
