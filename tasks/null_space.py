"""Multi-step restoration that keeps what is known and samples the rest: DDRM, DDNM+, RePaint.

All are loops over a posterior mean D(x, sigma) = E[x0 | x], a diffusion model, in EDM's coordinates, x = x0 + sigma z.

Note: over a consistency model they run and give too much variance (its output is the end of a trajectory, no mean):
in the Gaussian case below 5.0 times the posterior's by DDRM (1.7 with D), 4.7 by DDNM (1.6) and 5.3 by RePaint without
repeats (1.7), 20 levels, inpainting. Run them over the diffusion model.

Levels `sigmas` descend (`diffusion.grids.KarrasGrid().levels(n, sigma_min, sigma_max)` is the usual choice), and the
last step goes to 0; one evaluation a level, but for RePaint's and DDNM's repetitions. `noise` gives standard normal
draws in the images' shape, each image's from its own generator. Two conventions of eta must not be confused:

    ancestral   eta of the posterior's standard deviation is fresh noise     DDIM, PiGDM, DPS, RePaint (1)
    fresh       eta of the next level's noise is fresh, the rest the old one     DDRM, DDNM

The known biases below are figures of a Gaussian prior, 8 x 8 pixels, with the exact D on Karras' grid
(`tests/test_tasks_oracle.py`): W2^2 from the posterior over the trace of its covariance, inpainting of a 4 x 4 box |
4 x 4 pooling; 0 is exact, the prior itself scores 43.7 | 2.6. They are of one measurement, in brackets the mean of 20.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from diffusion.denoisers import Denoise
from diffusion.grids import check_descending
from diffusion.solvers import ancestral_step
from tasks.operators import LinearOperator, Operator, linear

Noise = Callable[[], Tensor]


def steps_of(sigmas: Sequence[float]) -> Iterator[tuple[float, float]]:
    """(t, s) of every step down `sigmas` and on to 0.

    Raises:
        ValueError: the levels do not descend.
    """
    check_descending(sigmas)
    return pairwise((*sigmas, 0.0))


def ancestral_from(x0: Tensor, x: Tensor, t: float, s: float, noise: Noise, eta: float) -> Tensor:
    """`diffusion.solvers.ancestral_step` from t to s with a given estimate x0 in the precision of x."""
    levels = torch.tensor([t, s], dtype=x.dtype, device=x.device)[:, None].expand(-1, len(x))
    return ancestral_step(lambda *_: x0, x, levels[0], levels[1], noise, eta)


def fresh_noise(x0: Tensor, x: Tensor, t: float, z: Tensor, eta: float) -> Tensor:
    """eta z + sqrt(1 - eta^2) (x - x0)/t: noise of unit variance, a share of it that of x at level t."""
    if not 0 <= eta <= 1:
        raise ValueError(f"eta={eta}: a share of the noise lies in [0, 1]")
    return eta * z + math.sqrt(1 - eta**2) * (x - x0) / t


def start(operator: LinearOperator, y: Tensor, sigma: float, z: Tensor) -> Tensor:
    """A point at level sigma: along v_i, A^+ y + sqrt(sigma^2 - r_i^2) z where that is known up to it, else sigma z.

    Raises:
        ValueError: sigma is below the noise of all that is known.
    """

    def told(r: Tensor) -> Tensor:
        if sigma < r.min():
            raise ValueError(f"sigmas[0]={sigma}: the first level is below the noise {r.min():.3g} of what is known")
        return (r <= sigma).to(r)

    def less(r: Tensor) -> Tensor:
        return torch.where(r <= sigma, (sigma**2 - r**2).clamp(min=0).sqrt(), sigma) - sigma

    return operator.weighted(operator.pseudo_inverse(y), told) + sigma * z + operator.weighted(z, less)


def ddrm(
    denoise: Denoise,
    operator: Operator,
    y: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    label: Tensor | None = None,
    *,
    eta: float = 0.85,
    eta_b: float = 1.0,
) -> Tensor:
    """DDRM (Kawar et al. 2022, arXiv 2201.11793, eq. 7 and 8).

    With A = sum_i s_i u_i v_i^T, r = sigma_y/s_i the noise of A^+ y along v_i, and e = (x - x0)/t, from t to s:

        unknown         x0 + s (eta z + sqrt(1 - eta^2) e)
        known, s >= r   (1 - eta_b) x0 + eta_b A^+ y + sqrt(s^2 - eta_b^2 r^2) z
               s <  r   x0 + s sqrt(1 - eta^2) (A^+ y - x0)/r + s eta z

    Directions with r above the first level start as unknown ones, as in the released code.

    Known bias: 1.12 (1.63) | .065 with 20, .18 (.57) | .024 with 100, .007 | .018 with 1000 levels. With a consistency
    model in the place of D: 2.7 | .12 with 20.

    With sigma_y = 0.1, 20 levels: .68 (.92) | .071 (.072); bicubic by 2 .12 (.12), without noise .078 (.076); a blur of
    1 pixel .30 (.32), where more levels do not help: .80 with 100.

    Args:
        denoise: a posterior mean.
        operator: A, linear.
        y: the measurement, its noise operator.sigma_y.
        sigmas: descending levels, the first above the least r.
        noise: called len(sigmas) + 1 times.
        label: (B,) or None.
        eta: share of fresh noise; 0.85 is the paper's.
        eta_b: weight of the measurement; 1 is the paper's.

    Raises:
        ValueError: the operator is not linear, or the first level is below every r.
    """
    projector = linear(operator, "DDRM")
    steps, known = steps_of(sigmas), projector.pseudo_inverse(y)
    x = start(projector, y, sigmas[0], noise())
    for t, s in steps:
        x0 = denoise(x, t, label)
        z = noise()
        unknown = x0 + s * fresh_noise(x0, x, t, z, eta)
        pull, spread = (partial(weight, s=s, eta=eta, eta_b=eta_b) for weight in (_ddrm_pull, _ddrm_spread))
        in_range = projector.weighted(known - x0, pull) + projector.weighted(z, spread)
        x = unknown + projector.known_part(x0 - unknown) + in_range
    return x


def _ddrm_pull(r: Tensor, s: float, eta: float, eta_b: float) -> Tensor:
    """The factor of A^+ y - x0 at level s."""
    return torch.where(s >= r, eta_b, s * math.sqrt(1 - eta**2) / r)


def _ddrm_spread(r: Tensor, s: float, eta: float, eta_b: float) -> Tensor:
    """The factor of z at level s."""
    return torch.where(s >= r, (s**2 - (eta_b * r) ** 2).clamp(min=0).sqrt(), s * eta)


def ddnm(
    denoise: Denoise,
    operator: Operator,
    y: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    label: Tensor | None = None,
    *,
    eta: float = 0.85,
    repeats: int = 1,
) -> Tensor:
    """DDNM, and DDNM+ where sigma_y > 0 (Wang et al. 2023, arXiv 2212.00490, algorithms 1 to 3).

    With r = sigma_y/s_i, s_i the singular values, e = (x - x0)/t, w = eta z + sqrt(1 - eta^2) e, from t to s:

        x0' = x0 - lambda A^+ (A x0 - y),          lambda = min(1, s/r)
        x   = x0' + (I - P) s w + P sqrt(s^2 - lambda^2 r^2) w

    e is the noise that the network saw, from x0 and not from x0'. `repeats` > 1 goes back up to t by fresh noise and
    repeats every step (time travel of length 1): `repeats` evaluations a level. It starts as DDRM does.

    Known bias: .64 (1.19) | .061 with 20, .049 (.29) | .023 with 100, .010 | .018 with 1000 levels.

    With sigma_y = 0.1, 20 levels: .58 (.85) | .11 (.11); bicubic by 2 .41 (.42), without noise .068 (.068); a blur of 1
    pixel 1.27 (1.37), where more levels do not help: 2.5 with 100.

    Args:
        denoise: a posterior mean.
        operator: A. With noise it must be linear; without, JPEG will do, by x0 - J(x0) + y.
        y: the measurement.
        sigmas: descending levels.
        noise: called len(sigmas) + 1 times, and twice more for each repetition.
        label: (B,) or None.
        eta: share of fresh noise; 0.85 is the paper's.
        repeats: evaluations a level, >= 1.

    Raises:
        ValueError: noise with an operator that is not linear; repeats below 1.
    """
    check_repeats(repeats)
    noisy = linear(operator, "DDNM+") if operator.sigma_y > 0 else None
    steps, z = steps_of(sigmas), noise()
    x = operator.pseudo_inverse(y) + sigmas[0] * z if noisy is None else start(noisy, y, sigmas[0], z)
    for t, s in steps:
        for again in range(repeats, 0, -1):
            x0 = denoise(x, t, label)
            w = fresh_noise(x0, x, t, noise(), eta)
            x = operator.project(x0, y) + s * w if noisy is None else _ddnm_plus_step(noisy, y, x0, w, s)
            if again > 1:
                x = x + math.sqrt(t**2 - s**2) * noise()
    return x


def _ddnm_plus_step(operator: LinearOperator, y: Tensor, x0: Tensor, w: Tensor, s: float) -> Tensor:
    """To the level s with the noise w. As lambda r = min(r, s), the noise that is left is sqrt(max(0, s^2 - r^2))."""
    pull = operator.weighted(operator.pseudo_inverse(y) - x0, lambda r: torch.where(s >= r, 1.0, s / r))
    less = operator.weighted(w, lambda r: (s**2 - r**2).clamp(min=0).sqrt() - s)
    return x0 + pull + s * w + less


def repaint(
    denoise: Denoise,
    operator: Operator,
    y: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    label: Tensor | None = None,
    *,
    repeats: int = 10,
) -> Tensor:
    """RePaint (Lugmayr et al. 2022, arXiv 2201.09865, algorithm 1), for any linear operator in the place of a mask.

    `repeats` times from t to s, going back up by x + sqrt(t^2 - s^2) z in between:

        x <- (I - P) x_u + P(A^+ y + s z),     x_u ~ q(x_s | x_t, x0 = D(x, t))

    The released code has other jumps (10 levels, 10 times: 2410 evaluations of a schedule of 250), replaces what is
    known before an evaluation, and clips x0.

    Known bias: without repeats 1.14 (1.65) | .063 with 20, .91 (1.43) | .010 with 100, .89 | .009 with 1000 levels, so
    that more levels do not help; .02 | .007 with 10 repeats of 100 levels.

    Args:
        denoise: a posterior mean.
        operator: A, linear.
        y: the measurement; it is met exactly, its noise too.
        sigmas: descending levels.
        noise: called 1 + len(sigmas) (3 repeats - 1) times.
        label: (B,) or None.
        repeats: evaluations a level, >= 1. With 1 it is badly biased, however many levels there are.

    Raises:
        ValueError: the operator is not linear; repeats below 1.
    """
    check_repeats(repeats)
    projector = linear(operator, "RePaint")
    steps, known = steps_of(sigmas), operator.pseudo_inverse(y)
    x = known + sigmas[0] * noise()
    for t, s in steps:
        for again in range(repeats, 0, -1):
            unknown = ancestral_from(denoise(x, t, label), x, t, s, noise, eta=1.0)
            x = unknown + projector.known_part(s * noise() - unknown) + known
            if again > 1:
                x = x + math.sqrt(t**2 - s**2) * noise()
    return x


def check_repeats(repeats: int) -> None:
    """Raise ValueError unless `repeats` is at least 1."""
    if repeats < 1:
        raise ValueError(f"repeats={repeats}: every level is visited at least once")
