"""Two-dimensional data: distributions that can be plotted, some with a known density."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.loader import generator as numbers
from datamodules.memory import InMemoryDataModule, Split


class Distribution2D(ABC):
    """A distribution of points in the plane."""

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n independent points, float32 (n, 2)."""


@dataclass(frozen=True)
class Gaussian(Distribution2D):
    """N(mean, std^2 I): its probability-flow ODE is solved in closed form.

    Args:
        mean: the centre.
        std: standard deviation of each coordinate, > 0.
    """

    mean: tuple[float, float] = (0.0, 0.0)
    std: float = 0.5

    def __post_init__(self) -> None:
        _check_positive(std=self.std)

    @property
    def means(self) -> Tensor:
        """The centre (1, 2)."""
        return torch.tensor([self.mean])

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.tensor(self.mean) + self.std * torch.randn(n, 2, generator=generator)


@dataclass(frozen=True)
class GaussianMixture(Distribution2D):
    """Equal Gaussians evenly spaced on a circle around the origin, the first at angle 0.

    Args:
        modes: how many, >= 1.
        radius: of the circle, > 0.
        std: of each Gaussian, > 0.
    """

    modes: int = 8
    radius: float = 0.7
    std: float = 0.05

    def __post_init__(self) -> None:
        _check_positive(modes=self.modes, radius=self.radius, std=self.std)

    @property
    def means(self) -> Tensor:
        """The centres (modes, 2)."""
        angle = 2 * math.pi * torch.arange(self.modes) / self.modes
        return self.radius * torch.stack([angle.cos(), angle.sin()], dim=1)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        mode = torch.randint(self.modes, (n,), generator=generator)
        return self.means[mode] + self.std * torch.randn(n, 2, generator=generator)


@dataclass(frozen=True)
class GaussianGrid(Distribution2D):
    """Equal Gaussians on the points of a square grid over [-extent, extent]^2, by which mode coverage is measured.

    With the defaults it is the 5x5 grid of the SIDDM and DDGAN papers, spacing 15 standard deviations.

    Args:
        side: points along a side, >= 2.
        extent: half the side, > 0.
        std: of each Gaussian, > 0.
    """

    side: int = 5
    extent: float = 1.0
    std: float = 1 / 30

    def __post_init__(self) -> None:
        _check_positive(extent=self.extent, std=self.std)
        if self.side < 2:
            raise ValueError(f"side={self.side}: it must be at least 2")

    @property
    def means(self) -> Tensor:
        """The centres (side^2, 2)."""
        line = torch.linspace(-self.extent, self.extent, self.side)
        return torch.cartesian_prod(line, line)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        mode = torch.randint(self.side**2, (n,), generator=generator)
        return self.means[mode] + self.std * torch.randn(n, 2, generator=generator)


@dataclass(frozen=True)
class Checkerboard(Distribution2D):
    """Uniform on the dark fields of a board of cells x cells over [-extent, extent]^2, the lower left one being dark.

    Args:
        cells: fields along a side, even and >= 2.
        extent: half the side, > 0.
    """

    cells: int = 4
    extent: float = 1.0

    def __post_init__(self) -> None:
        _check_positive(cells=self.cells, extent=self.extent)
        if self.cells % 2:
            raise ValueError(f"cells={self.cells}: it must be even")

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        row = torch.randint(self.cells, (n,), generator=generator)
        column = 2 * torch.randint(self.cells // 2, (n,), generator=generator) + row % 2
        corner = torch.stack([column, row], dim=1)
        return (2 * (corner + torch.rand(n, 2, generator=generator)) / self.cells - 1) * self.extent


@dataclass(frozen=True)
class TwoMoons(Distribution2D):
    """Two interleaved half circles of radius `radius` with Gaussian noise, centred on the origin.

    Args:
        radius: of both, > 0; the moons span 3 radius by 1.5 radius.
        std: of the noise, > 0.
    """

    radius: float = 0.5
    std: float = 0.03

    def __post_init__(self) -> None:
        _check_positive(radius=self.radius, std=self.std)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        angle = math.pi * torch.rand(n, generator=generator)
        sign = 1.0 - 2.0 * torch.randint(2, (n,), generator=generator)
        # the upper moon, moved to the left; the lower one is its image under x -> -x
        upper = torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], dim=1)
        return self.radius * sign[:, None] * upper + self.std * torch.randn(n, 2, generator=generator)


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if value <= 0:
            raise ValueError(f"{name}={value}: it must be positive")


class ToyDataModule(InMemoryDataModule):
    """Points drawn once from a distribution, as images (2, 1, 1); no labels.

    Args:
        distribution: e.g. `Checkerboard()`.
        n: points of the training split, >= 1.
        n_test: points of the test split, drawn independently, >= 1.
        batch_size: of the global batch.
        seed: of the order of training, >= 0.
        data_seed: of the points, >= 0; they do not depend on `seed`.
    """

    image_shape = (2, 1, 1)
    num_classes = 0
    noun = "points"

    def __init__(
        self,
        distribution: Distribution2D,
        n: int = 50_000,
        n_test: int = 10_000,
        batch_size: int = 256,
        seed: int = 0,
        data_seed: int = 0,
    ):
        super().__init__(batch_size, seed)
        _check_positive(n=n, n_test=n_test)
        self.save_hyperparameters(ignore="distribution", logger=False)  # a checkpoint holds plain values only
        self.distribution, self.n, self.n_test, self.data_seed = distribution, n, n_test, data_seed
        self.source = str(distribution)

    def load_split(self, split: str) -> Split:
        seed = int(numbers(self.data_seed, split).integers(2**63))
        n = self.n if split == "train" else self.n_test
        points = self.distribution.sample(n, torch.Generator().manual_seed(seed))
        return points[:, :, None, None], None

    def components(self, limit: int) -> tuple[Tensor, Tensor | None, float]:
        """The Gaussians that the points are drawn from: means (K, 2, 1, 1), no labels, their standard deviation.

        Raises:
            ValueError: the distribution has no `means` and `std`, so it is no mixture of equal Gaussians.
        """
        means: Tensor | None = getattr(self.distribution, "means", None)
        std: float | None = getattr(self.distribution, "std", None)
        if means is None or std is None:
            raise ValueError(
                f"the probability-flow ODE of {self.source} has no exact solution here: those of Gaussian, "
                "GaussianMixture and GaussianGrid, and of finite sets of images, have"
            )
        return means[:, :, None, None], None, std

    def uint8_images(self, split: str) -> Split:
        raise ValueError(f"points of {self.source} are no images and have no uint8 form to be scored")
