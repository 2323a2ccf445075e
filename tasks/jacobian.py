"""x0 moved towards what is known through the denoiser's Jacobian; PiGDM and CM+VJP differ in its factor alone."""

import torch
from torch import Tensor

from diffusion.denoisers import Denoise
from diffusion.noise import expand
from tasks.operators import Operator


def levels_of(sigma: float | Tensor, x: Tensor) -> Tensor:
    """`sigma`, a number or (B,), as (B, 1, 1, 1) in the precision of x (B, C, H, W)."""
    return expand(torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x)), x)


def jacobian_correction(
    denoise: Denoise,
    operator: Operator,
    y: Tensor,
    x: Tensor,
    sigma: float | Tensor,
    label: Tensor | None,
    gain: float | Tensor,
    ratio: float | Tensor,
) -> Tensor:
    """x0 + gain J^T A^T (A A^T + ratio I)^-1 (y - A x0),  x0 = D(x, sigma),  J = dD/dx: one evaluation, one backward.

    Works under `torch.inference_mode` and `no_grad` too; nothing passes backward through the result. For a measurement
    that is no linear operator (JPEG), A^T (...)^-1 is what the operator puts there; no derivative of it is taken.

    Args:
        denoise: a denoiser whose images do not look at each other.
        operator: A.
        y: the measurement.
        x: (B, C, H, W) at level `sigma`.
        sigma: a number or (B,).
        label: (B,) or None.
        gain, ratio: numbers or (B, 1, 1, 1).
    """
    with torch.inference_mode(False), torch.enable_grad():
        point = x.clone().detach().requires_grad_()
        x0 = denoise(point, sigma, label)
        pull = operator.ridge_inverse(y - operator.measure(x0.detach()), ratio)
        (transposed,) = torch.autograd.grad(x0, point, pull.to(x0).clone())
        return x0.detach() + gain * transposed
