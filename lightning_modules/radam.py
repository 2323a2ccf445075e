"""RAdam that can skip a step on the device."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor


class RAdam(torch.optim.Optimizer):
    """Rectified Adam (Liu et al. 2020, arXiv 1908.03265, algorithm 2), equal to `torch.optim.RAdam`.

    torch's own can leave a step out only if the host looks at the gradient first. This one reads `found_inf`, a number
    on the device that the guard against non-finite gradients (or a GradScaler) sets: where it is not 0, parameters and
    state stay as they are, and the host never waits.

    Args:
        params: parameters or groups.
        lr: learning rate, >= 0.
        betas: decay of the first and second moment, in [0, 1).
        eps: added to the root of the second moment, > 0.
    """

    _step_supports_amp_scaling = True  # torch's name for: reads found_inf and grad_scale itself

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ):
        if lr < 0 or not all(0 <= beta < 1 for beta in betas) or eps <= 0:
            raise ValueError(f"lr={lr}, betas={tuple(betas)}, eps={eps}: lr >= 0, betas in [0, 1), eps > 0 are needed")
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step; `closure`, if given, recomputes the loss and the gradient first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                beta1, beta2 = group["betas"]
                self._step_group(parameters, group["lr"], beta1, beta2, group["eps"])
        return loss

    def _step_group(self, parameters: list[Tensor], lr: float, beta1: float, beta2: float, eps: float) -> None:
        for p in parameters:
            if not self.state[p]:
                self.state[p] = {
                    "step": torch.zeros((), dtype=torch.float32, device=p.device),
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.zeros_like(p),
                }
        found_inf, scale = getattr(self, "found_inf", None), getattr(self, "grad_scale", None)
        on_cpu = parameters[0].device.type == "cpu"
        if on_cpu and found_inf is not None:  # nothing waits for a look at it
            if found_inf.item() > 0:
                return
            found_inf = None
        taken: Any = 1.0 if found_inf is None else 1.0 - found_inf.reshape(())
        steps = [self.state[p]["step"] for p in parameters]
        torch._foreach_add_(steps, taken)

        # every parameter of a group has taken the same steps; the factors in float64, since beta2^k is close to 1
        k = steps[0].double()
        bias1, bias2 = 1 - beta1**k, 1 - beta2**k
        rho_inf = 2 / (1 - beta2) - 1
        rho = rho_inf - 2 * k * beta2**k / bias2
        rectified = rho > 5
        root = ((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)).clamp(min=0).sqrt()
        adaptive = torch.where(rectified, lr * root * bias2.sqrt() / bias1, 0.0).float() * taken
        plain = torch.where(rectified, 0.0, lr / bias1).float() * taken

        # all at once on a GPU, in few kernels; part by part on a CPU, whose cache then holds what comes between
        for some in _parts(parameters, 2**18) if on_cpu else [parameters]:
            m = [self.state[p]["exp_avg"] for p in some]
            v = [self.state[p]["exp_avg_sq"] for p in some]
            gradients: Any = [p.grad for p in some]
            if found_inf is not None:
                gradients = [torch.where(taken > 0, g, 0.0) for g in gradients]  # 0 * NaN would be NaN
            if scale is not None:
                gradients = torch._foreach_div(gradients, scale.reshape(()))
            torch._foreach_mul_(m, 1 - taken * (1 - beta1))
            torch._foreach_add_(m, gradients, alpha=1 - beta1)  # of a skipped step the gradient is 0
            torch._foreach_mul_(v, 1 - taken * (1 - beta2))
            torch._foreach_addcmul_(v, gradients, gradients, 1 - beta2)

            rates = torch._foreach_sqrt(v)  # adaptive/(sqrt(v) + eps) + plain
            torch._foreach_add_(rates, eps)
            torch._foreach_reciprocal_(rates)
            torch._foreach_mul_(rates, adaptive)
            torch._foreach_add_(rates, plain)
            torch._foreach_addcmul_(some, m, rates, -1)


def _parts(parameters: list[Tensor], size: int) -> Iterator[list[Tensor]]:
    """Consecutive parameters of `size` numbers together, or one alone that has more."""
    part: list[Tensor] = []
    for p in parameters:
        if part and sum(q.numel() for q in part) + p.numel() > size:
            yield part
            part = []
        part.append(p)
    yield part
