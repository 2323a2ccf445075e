"""A law of data whose probability-flow ODE is solved exactly, and points of it."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from diffusion.exact import GaussianMixtureDenoise, flow_map
from diffusion.noise import perturb
from diffusion.rng import derive_seed

Learned = Callable[[Tensor, float, Tensor | None], Tensor]
"""What is compared with the truth: (x (B, C, H, W), sigma, label (B,) or None) -> (B, C, H, W)."""
Answer = Callable[[Tensor, Tensor | None], Tensor]
"""The same at a known level: (x, label) -> (B, C, H, W)."""


def numbers(seed: int, stream: str, position: int = 0) -> torch.Generator:
    """A generator on the CPU whose numbers depend on (seed, stream, position) alone."""
    return torch.Generator().manual_seed(derive_seed(seed, f"truth/{stream}", position))


def at_level(f: Learned, sigma: float) -> Answer:
    """f at one level."""
    return lambda x, label: f(x, sigma, label)


def in_batches(
    f: Answer,
    x: Tensor,
    label: Tensor | None,
    batch_size: int,
    device: torch.device | str = "cpu",
) -> Tensor:
    """f(x, label) of x (N, ...) and label (N,) or None, `batch_size` at a time on the device; (N, ...) on the CPU.

    Raises:
        ValueError: a result is not finite.
    """
    parts = []
    for rows in torch.arange(len(x)).split(batch_size):
        labels = None if label is None else label[rows].to(device)
        parts.append(f(x[rows].to(device), labels).cpu())
    result = torch.cat(parts)
    if not result.isfinite().all():
        broken = int((~result.isfinite()).flatten(1).any(1).sum())
        raise ValueError(f"{broken} of {len(result)} outputs of the model are not finite: there is nothing to compare")
    return result


class Law:
    """Equally likely isotropic Gaussians; without width a finite set; with labels, one law for each class.

    Args:
        means: (K, C, H, W), in data units.
        std: of every element, >= 0.
        labels: the class (K,) of every mean, for a model that is told it; None for one law of all.
        steps: of the Runge-Kutta method in a unit of ln(sigma), >= 2.
        batch_size: points that are solved at a time; each holds K weights.
        device: where the ODE is solved; float64 must be known there.
    """

    def __init__(
        self,
        means: Tensor,
        std: float,
        labels: Tensor | None = None,
        *,
        steps: int = 12,
        batch_size: int = 250,
        device: torch.device | str = "cpu",
    ):
        if steps < 2:
            raise ValueError(f"steps={steps}: at least 2 in a unit of ln(sigma) are needed")
        if labels is not None and len(labels) != len(means):
            raise ValueError(f"{len(labels)} labels for {len(means)} means")
        self.means, self.std, self.labels = means.float().cpu(), std, None if labels is None else labels.cpu()
        self.steps, self.batch_size, self.device = steps, batch_size, device
        self.whole = GaussianMixtureDenoise(self.means.to(device), std)
        self.classes: dict[int, GaussianMixtureDenoise] = {}
        if self.labels is not None:
            for k in self.labels.unique().tolist():
                self.classes[k] = GaussianMixtureDenoise(self.means[self.labels == k].to(device), std)

    @property
    def finite(self) -> bool:
        """Whether it is a finite set, of which fresh data are drawn again and again."""
        return self.std == 0

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """n independent points (n, C, H, W) float32, and their classes (n,) or None."""
        index = torch.randint(len(self.means), (n,), generator=generator)
        noise = torch.randn(n, *self.means.shape[1:], generator=generator)
        x0 = perturb(self.means[index], noise, torch.full((n,), self.std))
        return x0, None if self.labels is None else self.labels[index]

    def draw_at(self, sigma: float, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """n points x0 + sigma noise (n, C, H, W) float32, and their classes (n,) or None."""
        x0, label = self.draw(n, generator)
        return perturb(x0, torch.randn(x0.shape, generator=generator), torch.full((n,), sigma)), label

    def denoise(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        """E[x0 | x] (B, ...) at levels `sigma` (number or (B,)), given the classes (B,) where the law has them.

        Raises:
            ValueError: a class has no data.
        """
        if label is None or not self.classes:
            return self.whole(x, sigma)
        result, sigma = torch.empty_like(x), torch.as_tensor(sigma, device=x.device).expand(len(x))
        for k in label.unique().tolist():
            if k not in self.classes:
                raise ValueError(f"label={k}: the data have the classes {sorted(self.classes)}")
            rows = label == k
            result[rows] = self.classes[k](x[rows], sigma[rows])
        return result

    def mean(self, x: Tensor, sigma: float, label: Tensor | None = None) -> Tensor:
        """E[x0 | x] (N, C, H, W) float64 on the CPU of any number of points at one level."""
        return in_batches(lambda x, k: self.denoise(x.double(), sigma, k), x, label, self.batch_size, self.device)

    def follow(
        self, x: Tensor, sigma: float, target: float, label: Tensor | None = None, coarse: bool = False
    ) -> Tensor:
        """The trajectories through x (N, C, H, W) at the level `sigma`, at the level `target`, up or down.

        Args:
            x: any number of points.
            sigma, target: levels > 0.
            label: (N,) or None.
            coarse: with half as many steps, to see what the steps are worth.

        Returns:
            (N, C, H, W) float64 on the CPU.
        """
        steps = max(2, math.ceil(self.steps * abs(math.log(target / sigma))))
        steps = steps // 2 if coarse else steps

        def solve(x: Tensor, label: Tensor | None) -> Tensor:
            return flow_map(self.denoise, x, sigma, target, steps, label)

        return in_batches(solve, x, label, self.batch_size, self.device)
