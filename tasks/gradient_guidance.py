"""Multi-step restoration by a gradient through the denoiser: PiGDM and DPS.

Both are loops over a posterior mean D(x, sigma) = E[x0 | x], a diffusion model; over a consistency model they are not
what their papers derive. Levels and noise as in `tasks/null_space.py`. One evaluation and one backward pass a level,
under `torch.inference_mode` too; the weights' gradients are not touched.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion.denoisers import Denoise
from diffusion.grids import check_descending
from diffusion.samplers import add_initial_noise
from diffusion.sde_samplers import DDIM
from tasks.jacobian import jacobian_correction, levels_of
from tasks.null_space import ancestral_from, steps_of
from tasks.operators import Operator

Noise = Callable[[], Tensor]


@dataclass(frozen=True)
class PiGDMDenoise:
    """E[x0 | x, y] under the approximation x0 | x ~ N(D, r^2 I): PiGDM's guided denoiser.

        x0 + w J^T A^T (r^2 A A^T + sigma_y^2 I)^-1 (y - A x0),   x0 = D(x, t),  J = dD/dx,  r^2 = t^2 s^2/(t^2 + s^2)

    s = sigma_data. w = t^2 is the gradient of the log-likelihood and exact for data N(0, s^2 I); the paper's adaptive
    weight is w = r^2, with which J = I would make it DDNM's estimate x0 + A^+ (y - A x0).

    Note: the paper's r^2 = t^2/(1 + t^2) is that of data of variance 1.

    Note: w = t^2 overshoots where pixels are correlated. For data N(0, S), J^T = S/(S + t^2), so that at high levels
    the residual along an eigenvector of S with the value k is pulled k/s^2 times too far; w = r^2 pulls it too little.
    The largest k/s^2 is 83 on MNIST, where w = t^2 with 20 levels is the better one, and 886 on CIFAR-10, where it
    saturates what is unknown and w = r^2 is (docs/tasks.md).

    Args:
        denoise: a posterior mean.
        operator: A; JPEG too, by y - J(x0), of which no derivative is needed.
        y: the measurement.
        sigma_data: s.
        adaptive: whether w = r^2 in the place of t^2.
    """

    denoise: Denoise
    operator: Operator
    y: Tensor
    sigma_data: float = 0.5
    adaptive: bool = False

    def __call__(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        t2, s2 = levels_of(sigma, x) ** 2, self.sigma_data**2
        r2 = t2 * s2 / (t2 + s2)
        gain = torch.ones_like(t2) if self.adaptive else t2 / r2
        ratio = self.operator.sigma_y**2 / r2
        return jacobian_correction(self.denoise, self.operator, self.y, x, sigma, label, gain, ratio)


def pigdm(
    denoise: Denoise,
    operator: Operator,
    y: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    label: Tensor | None = None,
    *,
    sigma_data: float = 0.5,
    adaptive: bool = False,
    eta: float = 1.0,
) -> Tensor:
    """PiGDM (Song et al. 2023, "Pseudoinverse-guided diffusion models", ICLR): DDIM over `PiGDMDenoise`.

    Known bias (figures as in `tasks/null_space.py`): .053 (.40) | .062 with 20, .066 (.35) | .008 with 100, .083 | .008
    with 1000 levels; adaptive: .97 (1.51) | .062, .71 (1.25) | .008, .71 | .007. It does not vanish with more levels.

    With sigma_y = 0.1, 20 levels: .083 (.22) | .082 (.082); bicubic by 2 .096 (.094), without noise .073 (.073); a blur
    of 1 pixel .091 (.091); adaptive: .79 (1.00) | .19 (.19); .23 (.23), .080 (.079); .20 (.20).

    Args:
        denoise: a posterior mean.
        operator, y, sigma_data, adaptive: as in `PiGDMDenoise`.
        sigmas: descending levels.
        noise: called once, and len(sigmas) - 1 times more if eta > 0.
        label: (B,) or None.
        eta: DDIM's share of fresh noise, in [0, 1].
    """
    check_descending(sigmas)
    guided = PiGDMDenoise(denoise, operator, y, sigma_data, adaptive)
    x = add_initial_noise(operator.pseudo_inverse(y), sigmas[0], noise)
    return DDIM(eta=eta)(guided, x, sigmas, noise, label)


def dps(
    denoise: Denoise,
    operator: Operator,
    y: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    label: Tensor | None = None,
    *,
    zeta: float = 1.0,
) -> Tensor:
    """DPS (Chung et al. 2023, arXiv 2209.14687, algorithm 1), the step size over each image's own norm.

        x <- ancestral step from t to s  -  zeta sqrt((1 + t^2)(1 + s^2)) grad_x |y - A D(x, t)|

    The root translates the paper's variance-preserving step; without it there is no guidance at high levels. zeta is to
    be tuned for every task and number of levels: it does not scale as one over that number.

    Note: the released code takes one norm over the whole batch, with which an image depends on the others.

    Known bias (figures as in `tasks/null_space.py`, one measurement): 1.8 | .41 with 20 and .40 | .008 with 100 levels
    for zeta = 1, .03 | .003 with 1000 for zeta = 0.1. It does not look at sigma_y: with sigma_y = 0.1, zeta = 1
    and 20 levels .91 | .26, bicubic by 2 .29, without noise 1.1, a blur of 1 pixel .29.

    Args:
        denoise: a posterior mean.
        operator: A; of JPEG, through which no gradient passes, its differentiable form is taken.
        y: the measurement.
        sigmas: descending levels.
        noise: called 1 + len(sigmas) times.
        label: (B,) or None.
        zeta: step size, > 0.

    Raises:
        ValueError: zeta is not > 0.
    """
    if not zeta > 0:
        raise ValueError(f"zeta={zeta}: the step size is > 0")
    steps, smooth = steps_of(sigmas), operator.differentiable
    x = sigmas[0] * noise().to(y)
    for t, s in steps:
        x0, gradient = _residual_gradient(denoise, smooth, y, x, t, label)
        step = zeta * math.sqrt((1 + t**2) * (1 + s**2))
        x = ancestral_from(x0, x, t, s, noise, eta=1.0) - step * gradient
    return x


def _residual_gradient(
    denoise: Denoise, operator: Operator, y: Tensor, x: Tensor, t: float, label: Tensor | None
) -> tuple[Tensor, Tensor]:
    """D(x, t) and the gradient of |y - A D(x, t)| of every image, (B, C, H, W) each."""
    with torch.inference_mode(False), torch.enable_grad():
        point = x.clone().detach().requires_grad_()
        x0 = denoise(point, t, label)
        residual = torch.linalg.vector_norm((y.clone() - operator.measure(x0)).flatten(1), dim=1)
        (gradient,) = torch.autograd.grad(residual.sum(), point)
        return x0.detach(), gradient
