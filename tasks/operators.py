"""What is known of an image: linear operators A, here those with A A^T = kappa I; images (B, C, H, W) in [-1, 1].

| operator | A x | kappa | A^+ y |
|---|---|---|---|
| Inpainting | the kept pixels, others 0 | 1 | y |
| AveragePool | means of p x p blocks | 1/p^2 | every mean p x p times |
| Grey | 0.2989 R + 0.5870 G + 0.1140 B | 0.4469 | w_c y/kappa |

For these A^+ = A^T/kappa, P = A^+ A is an orthogonal projector and every singular value is sqrt(kappa). Those of two
matrices, one per axis, are in `tasks/separable.py`, masks in `tasks/masks.py` and JPEG in `tasks/jpeg.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

GREY_WEIGHTS = (0.2989, 0.5870, 0.1140)
"""Of red, green and blue, as in the consistency models' colourisation (arXiv 2303.01469, app. D)."""


class Operator(Protocol):
    """What the algorithms that replace what is known need; JPEG has this face too."""

    @property
    def differentiable(self) -> "Operator":
        """What stands for it where a gradient is to pass through `measure`."""

    @property
    def sigma_y(self) -> float:
        """Standard deviation of the noise in a measurement, in units of [-1, 1] images (twice that of [0, 1])."""

    def measure(self, x: Tensor) -> Tensor:
        """A x, without noise."""

    def observe(self, x: Tensor, noise: Callable[[], Tensor]) -> Tensor:
        """A x with noise of standard deviation sigma_y, for which `noise` is called at most once."""

    def ridge_inverse(self, y: Tensor, ratio: float | Tensor) -> Tensor:
        """A^T (A A^T + ratio I)^-1 y; ratio >= 0 a number or (B, 1, 1, 1)."""

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """A^+ y."""

    def unknown_part(self, x: Tensor) -> Tensor:
        """What of x a measurement does not tell, whatever x is: images or noise of any level."""

    def project(self, x0: Tensor, y: Tensor) -> Tensor:
        """x0 with what is known replaced."""

    def shown(self, y: Tensor) -> Tensor:
        """A measurement as an image (B, C, H, W) to look at."""


@dataclass(frozen=True, eq=False)
class LinearOperator(ABC):
    """The face that all linear operators share.

    Args:
        sigma_y: standard deviation of the noise in a measurement, >= 0, in units of [-1, 1] images. Papers that quote
            it for images in [0, 1] mean half as much.
    """

    sigma_y: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        if not 0 <= self.sigma_y < float("inf"):
            raise ValueError(f"sigma_y={self.sigma_y}: a noise level is a number >= 0")

    @property
    def differentiable(self) -> "LinearOperator":
        """Itself: the gradient of A x is A."""
        return self

    @abstractmethod
    def measure(self, x: Tensor) -> Tensor:
        """A x for images x (B, C, H, W), without noise.

        Raises:
            ValueError: the images have not the shape that this operator is for.
        """

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y, (B, C, H, W)."""

    @abstractmethod
    def ridge_inverse(self, y: Tensor, ratio: float | Tensor) -> Tensor:
        """A^T (A A^T + ratio I)^-1 y; ratio >= 0 a number or (B, 1, 1, 1). The pseudo-inverse at 0."""

    @abstractmethod
    def weighted(self, x: Tensor, weight: Callable[[Tensor], Tensor]) -> Tensor:
        """sum_i w(r_i) v_i v_i^T x over the known directions; P x for the weight 1.

        A = sum_i s_i u_i v_i^T is the singular value decomposition, and r_i = sigma_y/s_i the noise of A^+ y along v_i.

        Args:
            x: images or noise (B, C, H, W).
            weight: w, elementwise in r, a float64 tensor of any shape.
        """

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """A^+ y, (B, C, H, W)."""
        return self.ridge_inverse(y, 0.0)

    def known_part(self, x: Tensor) -> Tensor:
        """P x = A^+ A x."""
        return self.pseudo_inverse(self.measure(x))

    def unknown_part(self, x: Tensor) -> Tensor:
        """(I - P) x."""
        return x - self.known_part(x)

    def project(self, x0: Tensor, y: Tensor) -> Tensor:
        """Replace what is known: x0 - P x0 + A^+ y, the image nearest to x0 that is measured as y."""
        return x0 - self.known_part(x0) + self.pseudo_inverse(y)

    def shown(self, y: Tensor) -> Tensor:
        """A measurement as an image (B, C, H, W) to look at: the pseudo-inverse, unless that looks strange."""
        return self.pseudo_inverse(y)

    def observe(self, x: Tensor, noise: Callable[[], Tensor]) -> Tensor:
        """A x + sigma_y z. One draw (B, C, H, W) of `noise`, of which z is the corner in the shape of A x."""
        y = self.measure(x)
        return y + self.sigma_y * noise()[:, : y.shape[1], : y.shape[2], : y.shape[3]]


def linear(operator: Operator, algorithm: str) -> LinearOperator:
    """The operator as one whose P = A^+ A projects anything, noise of any level too.

    Raises:
        ValueError: it is not linear, for which the algorithm is not made.
    """
    if not isinstance(operator, LinearOperator):
        raise ValueError(f"{type(operator).__name__}: {algorithm} is for linear operators, for it projects noise")
    return operator


@dataclass(frozen=True, eq=False)
class Isotropic(LinearOperator):
    """Operators with equal singular values, A A^T = kappa I: A^+ = A^T/kappa."""

    @property
    @abstractmethod
    def kappa(self) -> float:
        """The square of all singular values."""

    def ridge_inverse(self, y: Tensor, ratio: float | Tensor) -> Tensor:
        return self.adjoint(y) / (self.kappa + ratio)

    def weighted(self, x: Tensor, weight: Callable[[Tensor], Tensor]) -> Tensor:
        r = torch.tensor(self.sigma_y / self.kappa**0.5, dtype=torch.float64)
        return weight(r) * self.known_part(x)


@dataclass(frozen=True, eq=False)
class Inpainting(Isotropic):
    """Keeps the pixels where the mask is True; a measurement has the image's shape and is 0 elsewhere.

    Note: True is *kept*, as in DDRM; in the consistency models' paper and I2SB's code 1 is *missing*.

    Args:
        mask: (H, W) bool, see `tasks.masks`. All True is denoising, A = I.

    Raises:
        ValueError: the mask is not of (H, W) bool, or keeps nothing.
    """

    mask: Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask.dtype != torch.bool or self.mask.ndim != 2:
            raise ValueError(f"mask of shape {tuple(self.mask.shape)}, {self.mask.dtype}: (H, W) bool is needed")
        if not self.mask.any():
            raise ValueError("empty mask: no pixel is kept (True)")

    @property
    def kappa(self) -> float:
        return 1.0

    def measure(self, x: Tensor) -> Tensor:
        if x.shape[2:] != self.mask.shape:
            raise ValueError(f"mask of {tuple(self.mask.shape)} for images of {tuple(x.shape[2:])} pixels")
        return torch.where(self.mask.to(x.device), x, torch.zeros((), dtype=x.dtype, device=x.device))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.measure(y)

    def observe(self, x: Tensor, noise: Callable[[], Tensor]) -> Tensor:
        return self.measure(x + self.sigma_y * noise())


@dataclass(frozen=True, eq=False)
class AveragePool(Isotropic):
    """Means of non-overlapping p x p blocks, channel by channel: super-resolution as in arXiv 2303.01469, app. D.

    Args:
        p: side of a block, >= 2; it must divide the height and the width.
    """

    p: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.p < 2:
            raise ValueError(f"p={self.p}: blocks of at least 2 x 2 pixels are averaged")

    @property
    def kappa(self) -> float:
        return 1 / self.p**2

    def measure(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        if height % self.p or width % self.p:
            raise ValueError(f"p={self.p} does not divide images of {height} x {width} pixels")
        return avg_pool2d(x, self.p)

    def adjoint(self, y: Tensor) -> Tensor:
        return y.repeat_interleave(self.p, 2).repeat_interleave(self.p, 3) / self.p**2


@dataclass(frozen=True, eq=False)
class Grey(Isotropic):
    """The grey image (B, 1, H, W) of a colour image: y = sum_c w_c x_c with `GREY_WEIGHTS` (arXiv 2303.01469, app. D).

    Note: y is in [-0.9999, 0.9999], since the paper's weights sum to 0.9999.
    """

    @property
    def kappa(self) -> float:
        return sum(w**2 for w in GREY_WEIGHTS)

    def measure(self, x: Tensor) -> Tensor:
        if x.shape[1] != 3:
            raise ValueError(f"images of {x.shape[1]} channels: grey is made of the 3 of a colour image")
        return (self._weights(x) * x).sum(1, keepdim=True)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._weights(y) * y

    def shown(self, y: Tensor) -> Tensor:
        """Three equal channels; the pseudo-inverse is green and purple."""
        return y.expand(-1, 3, -1, -1)

    @staticmethod
    def _weights(x: Tensor) -> Tensor:
        return torch.tensor(GREY_WEIGHTS, dtype=x.dtype, device=x.device).reshape(1, 3, 1, 1)
