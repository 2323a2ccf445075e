"""Linear operators that work on rows and columns apart: y = R x C^T for every channel; bicubic down-sampling, blur.

With R = U_r S_r V_r^T and C = U_c S_c V_c^T the singular values are all products of one of R's and one of C's, and
any function of A A^T costs four small matrix products. Computed in float64, applied in the precision of the images.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from tasks.operators import LinearOperator


class SVD(NamedTuple):
    """Of a matrix (m, n), with singular values below the threshold left out: u (m, k), s (k,), v (n, k)."""

    u: Tensor
    s: Tensor
    v: Tensor


@dataclass(frozen=True, eq=False)
class Separable(LinearOperator):
    """y = R x C^T, channel by channel.

    Args:
        rows: R, (h, H) float64.
        columns: C, (w, W) float64.
        threshold: singular values of R below `threshold` times its largest count as 0 in the pseudo-inverse, and so of
            C. P = A^+ A is an orthogonal projector whatever it is; A A^+ y = y holds in the range that is left.
    """

    rows: Tensor
    columns: Tensor
    threshold: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold={self.threshold}: a share of the largest singular value lies in (0, 1)")

    @cached_property
    def factors(self) -> tuple[SVD, SVD]:
        """Of R and of C."""
        return self._svd(self.rows), self._svd(self.columns)

    def _svd(self, matrix: Tensor) -> SVD:
        u, s, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
        kept = s >= self.threshold * s[0]
        return SVD(u[:, kept], s[kept], vt[kept].T)

    def measure(self, x: Tensor) -> Tensor:
        wanted = (self.rows.shape[1], self.columns.shape[1])
        if x.shape[2:] != wanted:
            raise ValueError(f"images of {tuple(x.shape[2:])} pixels: this operator is for {wanted}")
        return self.rows.to(x) @ x @ self.columns.to(x).T

    def adjoint(self, y: Tensor) -> Tensor:
        return self.rows.to(y).T @ y @ self.columns.to(y)

    def ridge_inverse(self, y: Tensor, ratio: float | Tensor) -> Tensor:
        r, c = (SVD(*(part.to(y) for part in svd)) for svd in self.factors)
        s = torch.outer(r.s, c.s)
        return r.v @ (r.u.T @ y @ c.u * (s / (s**2 + ratio))) @ c.v.T

    def weighted(self, x: Tensor, weight: Callable[[Tensor], Tensor]) -> Tensor:
        r, c = self.factors
        weights = weight(self.sigma_y / torch.outer(r.s, c.s)).to(x)
        rows, columns = r.v.to(x), c.v.to(x)
        return rows @ (rows.T @ x @ columns * weights) @ columns.T


def bicubic(height: int, width: int, p: int, *, sigma_y: float = 0.0) -> Separable:
    """Bicubic down-sampling by p with the kernel stretched by p against aliasing: 4 p taps, every p-th pixel.

    Keys' kernel with a = -0.5, normalised; beyond the border the image is mirrored, its edge pixels repeated, as
    MATLAB's imresize does. Its pseudo-inverse is exact: R and C have full rank.

    Args:
        height, width: of the images.
        p: factor >= 2 that divides both.
        sigma_y: noise of a measurement, in units of [-1, 1] images.

    Raises:
        ValueError: p does not divide height and width.
    """
    if p < 2 or height % p or width % p:
        raise ValueError(f"p={p} does not divide images of {height} x {width} pixels, or is below 2")

    def kernel(offset: float) -> float:
        d = abs(offset) / p
        if d < 1:
            return 1.5 * d**3 - 2.5 * d**2 + 1
        return -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2 if d < 2 else 0.0

    return Separable(
        _filter(height, p, 2 * p, kernel), _filter(width, p, 2 * p, kernel), threshold=1e-10, sigma_y=sigma_y
    )


def gaussian_blur(
    height: int, width: int, std: float, *, radius: int | None = None, threshold: float = 1e-3, sigma_y: float = 0.0
) -> Separable:
    """Blur by a Gaussian window, mirrored at the border, the edge pixels repeated.

    Args:
        height, width: of the images.
        std: of the Gaussian in pixels, > 0.
        radius: the window has 2 radius + 1 taps per axis; 3 std, rounded up, by default. I2SB's "blur-gauss" is
            std = 10, radius = 2.
        threshold: directions that one axis weakens to less than this share count as lost; without a limit the
            pseudo-inverse of a blur would be noise.
        sigma_y: noise of a measurement, in units of [-1, 1] images.
    """
    if not std > 0 or (radius is not None and radius < 1):
        raise ValueError(f"std={std}, radius={radius}: a blur needs std > 0 and a radius of at least 1 pixel")
    reach = math.ceil(3 * std) if radius is None else radius

    def kernel(offset: float) -> float:
        return math.exp(-(offset**2) / (2 * std**2))

    rows, columns = _filter(height, 1, reach, kernel), _filter(width, 1, reach, kernel)
    return Separable(rows, columns, threshold=threshold, sigma_y=sigma_y)


def _filter(n: int, stride: int, reach: int, kernel: Callable[[float], float]) -> Tensor:
    """The matrix (n/stride, n) of a symmetric filter: taps up to `reach` from the middle of every `stride` pixels."""
    matrix = torch.zeros(n // stride, n, dtype=torch.float64)
    for i in range(n // stride):
        middle = stride * i + (stride - 1) / 2
        for at in range(math.ceil(middle - reach), math.floor(middle + reach) + 1):
            mirrored = at % (2 * n)
            matrix[i, min(mirrored, 2 * n - 1 - mirrored)] += kernel(at - middle)
    return matrix / matrix.sum(1, keepdim=True)
