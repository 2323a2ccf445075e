"""Edits with a diffusion model: SDEdit, and inversion by DDIM.

Both are derived for a posterior mean D(x, sigma) = E[x0 | x]. The few-step forms are `image_to_image` in
`diffusion/samplers.py` and `tasks/bidirectional.py`.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diffusion.denoisers import Denoise
from diffusion.grids import check_ascending
from diffusion.samplers import add_initial_noise
from diffusion.solvers import Step, euler_step, solve
from tasks.null_space import ancestral_from, steps_of
from tasks.operators import Operator, linear

Noise = Callable[[], Tensor]


def sdedit(
    denoise: Denoise,
    x0: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    label: Tensor | None = None,
    *,
    keep: Operator | None = None,
) -> Tensor:
    """SDEdit (Meng et al. 2022, arXiv 2108.01073, algorithms 2 and 3): noise a guide to sigmas[0], generate from there.

        x = x0 + sigmas[0] e;   from t to s:  x ~ q(x_s | x_t, D(x, t));   with `keep`:  x <- (I - P) x + P(x0 + s e)

    With `keep` = `Inpainting(mask)`, what the mask keeps stays the guide's. As in the released code e is one draw, the
    same at every level. Without `keep` it is `diffusion.sde_samplers.DDPM` from the noised guide.

    Known bias: with `keep` it is no sampler of the posterior, 1.26 (1.76) with 20 and 1.07 (1.59) with 100 levels in
    inpainting of a box from level 80 (figures as in `tasks/null_space.py`).

    Args:
        denoise: a posterior mean.
        x0: the guide (B, C, H, W), strokes for instance.
        sigmas: descending levels, one evaluation each; the first decides between the guide and realism.
        noise: called len(sigmas) + 1 times.
        label: (B,) or None.
        keep: what of the guide is kept, by a linear operator; None for nothing.

    Raises:
        ValueError: `keep` is not linear.
    """
    kept = None if keep is None else linear(keep, "SDEdit's keep")
    steps, e = steps_of(sigmas), noise()
    x = x0 + sigmas[0] * e
    for t, s in steps:
        x = ancestral_from(denoise(x, t, label), x, t, s, noise, eta=1.0)
        if kept is not None:
            x = kept.project(x, kept.measure(add_initial_noise(x0, s, lambda: e)))
    return x


def ddim_inversion(
    denoise: Denoise,
    x0: Tensor,
    sigmas: Sequence[float],
    label: Tensor | None = None,
    *,
    step: Step = euler_step,
) -> Tensor:
    """The noise of an image: the ODE followed upwards (Song et al. 2021, arXiv 2010.02502, sec. 4.3).

    x0 counts as a point at the level sigmas[0], and no noise is added.

    Args:
        denoise: a posterior mean.
        x0: images (B, C, H, W).
        sigmas: ascending levels; len(sigmas) - 1 steps.
        label: (B,) or None.
        step: `euler_step` is DDIM, one evaluation; `heun_step` takes two, and inverts far better.

    Returns:
        (B, C, H, W) at level sigmas[-1].
    """
    check_ascending(sigmas)
    return follow(denoise, x0, sigmas, label, step)


def ddim_edit(
    denoise: Denoise,
    x0: Tensor,
    sigmas: Sequence[float],
    source: Tensor | None = None,
    target: Tensor | None = None,
    *,
    step: Step = euler_step,
) -> Tensor:
    """`ddim_inversion` with one class and the way back down the same levels with another; x at level sigmas[0].

    With the same class twice it is the reconstruction, whose error is that of the solver: on the Gaussian prior of
    `tasks/null_space.py`, .055 of the variance with 20 levels and .0025 with 100 (`heun_step`: 4e-5 and 2e-9).
    Evaluations: twice those of `ddim_inversion`.

    Args:
        source, target: (B,) or None, the class of the image and the class to be made.
        others: as in `ddim_inversion`.
    """
    inverted = ddim_inversion(denoise, x0, sigmas, source, step=step)
    return follow(denoise, inverted, sigmas[::-1], target, step)


def follow(denoise: Denoise, x: Tensor, sigmas: Sequence[float], label: Tensor | None, step: Step) -> Tensor:
    """From sigmas[0] to sigmas[-1], up or down, along the ODE, in the precision of x (B, C, H, W)."""
    path = torch.tensor(sigmas, dtype=x.dtype, device=x.device)[:, None].expand(-1, len(x))
    return solve(step, denoise, x, path, label)
