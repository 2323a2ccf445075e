"""Zero-shot restoration and editing with any few-step model: a few evaluations, what is known replaced after each.

Each is `diffusion.samplers.image_to_image` or `multistep` over a denoiser that is made to agree with the measurement:

    Constrained   x0 = f(x, t) clamped,  x0 - P x0 + A^+ y                        consistency models, algorithm 4
    Corrected     x0 = f(x, t) + J^T A^+ (y - A f) sqrt(1 + t^2/s^2), then the same      "CM+VJP", this project's own

`denoise` is a consistency model, a bidirectional one, or a generator of samples of x0 (UFOGen) at the levels that it
knows. Noise is drawn as in the samplers, each image's from its own generator: a result depends on no other image.

Figures below are of a Gaussian prior, 8 x 8 pixels, with the exact f (`tests/test_tasks_few_step.py`): W2^2 from the
posterior over the trace of its covariance, inpainting of a 4 x 4 box | 4 x 4 pooling, 0 is exact, the prior itself
scores 43.7 | 2.6. They are of one measurement; in brackets the mean over 20.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion.denoisers import Denoise
from diffusion.samplers import image_to_image
from tasks.jacobian import jacobian_correction, levels_of
from tasks.operators import Operator


@dataclass(frozen=True)
class Constrained:
    """A denoiser whose x0 is measured as y: x0 - P x0 + A^+ y with x0 = denoise(x, sigma) clamped to [-limit, limit].

    It is the orthogonal transform and mask of the consistency models' algorithm 4 (Song et al. 2023, arXiv 2303.01469),
    for which Q^T [(Q y)(1 - M) + (Q x0) M] = x0 - P x0 + A^+ y, and DDNM's estimate (arXiv 2212.00490, eq. 8).

    Args:
        denoise: any denoiser.
        operator: A.
        y: the measurement.
        limit: bound of pixels, 1 for images; `math.inf` for data without bounds.
    """

    denoise: Denoise
    operator: Operator
    y: Tensor
    limit: float = 1.0

    def __call__(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        x0 = self.denoise(x, sigma, label).clamp(-self.limit, self.limit)
        return self.operator.project(x0, self.y)


@dataclass(frozen=True)
class Corrected:
    """A consistency model's x0 moved towards what is known by its own Jacobian: the denoiser of "CM+VJP".

    x0 = f + sqrt(1 + t^2/s^2) J_f^T A^+ (y - A f),  J_f = df/dx,  s = sigma_data

    For data N(0, s^2 I) the factor makes J_f^T the identity. One backward pass for each evaluation.

    Note: this project's own, from no paper.

    Args:
        denoise: a consistency model, through which a gradient passes.
        operator: A.
        y: the measurement.
        sigma_data: s.
    """

    denoise: Denoise
    operator: Operator
    y: Tensor
    sigma_data: float = 0.5

    def __call__(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        gain = (1 + (levels_of(sigma, x) / self.sigma_data) ** 2).sqrt()
        return jacobian_correction(self.denoise, self.operator, self.y, x, sigma, label, gain, 0.0)


def zero_shot(
    denoise: Denoise,
    operator: Operator,
    y: Tensor,
    sigmas: Sequence[float],
    noise: Callable[[], Tensor],
    label: Tensor | None = None,
    *,
    sigma_min: float = 0.002,
    limit: float = 1.0,
) -> Tensor:
    """Zero-shot inpainting, colourisation, super-resolution (Song et al. 2023, arXiv 2303.01469, algorithm 4).

        x ~ N(A^+ y, t_1^2),                       x0 <- f(x, t_1), what is known replaced
        x ~ N(x0, t_n^2 - eps^2),                  x0 <- f(x, t_n), what is known replaced

    One evaluation a level. The paper takes 40 levels of Karras' grid; its last one, eps, changes nothing that is left,
    and a high first one is wasted where y tells much: both are the caller's choice.

    Known bias: with few evaluations the result is far from the posterior. Karras' grid from 80: 8.4 (7.4) | .20 with 1,
    4.5 (4.5) | .056 with 4, 2.4 (2.8) | .020 with 10, .53 (1.0) | .003 with 40 evaluations. Four levels equally spaced
    in ln t from 80 to 0.3: 3.4 (3.6) | .035, from 2 to 0.3: 1.7 (2.2) | .014.

    Args:
        denoise: a consistency model or a generator of samples of x0. A posterior mean would give a blurred image.
        operator: A.
        y: the measurement; it is met exactly, its noise (sigma_y > 0) too.
        sigmas: descending levels.
        noise: fresh standard normal noise in the images' shape, called len(sigmas) times.
        label: (B,) or None.
        sigma_min: the level eps at which the model's outputs lie.
        limit: pixels are clamped to [-limit, limit] before what is known is replaced.

    Returns:
        (B, C, H, W), measured as y; of what is unknown, pixels may lie a little outside [-limit, limit] after the
        replacement (never in inpainting).

    Raises:
        ValueError: levels that do not descend or lie below sigma_min; shapes that the operator is not for.
    """
    known = Constrained(denoise, operator, y, limit)
    return image_to_image(known, operator.pseudo_inverse(y), sigmas, noise, label, sigma_min)


def zero_shot_corrected(
    denoise: Denoise,
    operator: Operator,
    y: Tensor,
    sigmas: Sequence[float],
    noise: Callable[[], Tensor],
    label: Tensor | None = None,
    *,
    sigma_data: float = 0.5,
    sigma_min: float = 0.002,
    limit: float = 1.0,
) -> Tensor:
    """`zero_shot` with the correction by the Jacobian ("CM+VJP", this project's own); arguments as there.

    One evaluation and one backward pass a level.

    Known bias: .45 (1.0) | .019 with 4, .21 (.60) | .005 with 8, .12 (.40) | .001 with 16 levels equally spaced in ln t
    from 80 to 0.1; .26 (.69) | .0015 with 4 levels from 2 to 0.3, for which `zero_shot` has 1.7 (2.2) | .014.

    Args:
        sigma_data: standard deviation of the data.
    """
    corrected = Corrected(denoise, operator, y, sigma_data)
    return zero_shot(corrected, operator, y, sigmas, noise, label, sigma_min=sigma_min, limit=limit)


def stroke_guided(
    denoise: Denoise,
    strokes: Tensor,
    noise: Callable[[], Tensor],
    label: Tensor | None = None,
    *,
    sigmas: Sequence[float] = (5.38, 2.24),
    sigma_min: float = 0.002,
) -> Tensor:
    """An image with the colours and coarse shapes of a painting of strokes (arXiv 2303.01469, app. D).

    Note: the paper's algorithm 4 with A = I and nothing known would set the strokes to 0 in its first line; what its
    figures show is SDEdit, noise added to the strokes and generation from there, and that is what is done here.

    Args:
        denoise: as in `zero_shot`.
        strokes: the painting (B, C, H, W) in [-1, 1].
        noise: fresh standard normal noise, called len(sigmas) times.
        label: (B,) or None.
        sigmas: descending levels; the defaults are the paper's for 256 x 256 pixels.
        sigma_min: the level at which the model's outputs lie.
    """
    return image_to_image(denoise, strokes, sigmas, noise, label, sigma_min)


def denoise_at(
    denoise: Denoise, y: Tensor, sigma: float, label: Tensor | None = None, *, sigma_min: float = 0.002
) -> Tensor:
    """One evaluation for images y (B, C, H, W) that hold Gaussian noise of level sigma (arXiv 2303.01469, app. D).

    A consistency model gives a plausible image, a posterior mean the one with the least squared error.

    Raises:
        ValueError: sigma is below sigma_min, which the model does not know.
    """
    if not sigma_min <= sigma < math.inf:
        raise ValueError(f"sigma={sigma}: images of a noise level of at least sigma_min={sigma_min} can be denoised")
    return denoise(y, sigma, label)


def slerp(first: Tensor, second: Tensor, share: float) -> Tensor:
    """Between two noises on the great circle, image by image: sin((1-a) psi)/sin psi z1 + sin(a psi)/sin psi z2.

    psi is the angle between z1 and z2 (arXiv 2303.01469, app. D). Parallel noises are mixed in a straight line.

    Args:
        first, second: z1, z2, (B, ...).
        share: a; 0 is z1, 1 is z2.
    """
    a, b = first.flatten(1).double(), second.flatten(1).double()
    cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    psi = cosine.clamp(-1, 1).acos()[:, None]
    flat = psi.sin() < 1e-6
    sine = torch.where(flat, 1.0, psi.sin())
    left = torch.where(flat, 1 - share, ((1 - share) * psi).sin() / sine)
    right = torch.where(flat, share, (share * psi).sin() / sine)
    return (left * a + right * b).reshape(first.shape).to(first.dtype)


def interpolate(
    denoise: Denoise,
    first: Tensor,
    second: Tensor,
    shares: Sequence[float],
    sigma: float,
    label: Tensor | None = None,
) -> Tensor:
    """The images between two generated ones: slerp of their noises at level sigma, one evaluation each (app. D).

    Args:
        denoise: as in `zero_shot`.
        first, second: noises (B, C, H, W) at level sigma, such as sigma z or what `diffusion.samplers.invert` gives.
        shares: a of every image, 0 for the first, 1 for the second.
        sigma: the level, usually sigma_max.
        label: (B,) or None.

    Returns:
        (len(shares), B, C, H, W).

    Raises:
        ValueError: no share, or one outside [0, 1].
    """
    if len(shares) == 0 or not all(0 <= share <= 1 for share in shares):
        raise ValueError(f"shares={list(shares)}: one or more numbers in [0, 1] are needed")
    return torch.stack([denoise(slerp(first, second, share), sigma, label) for share in shares])
