"""Exponential moving averages of a denoiser: the weights that are evaluated."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class EMA(nn.Module):
    """Frozen copies of `model` at several averaging rates.

    theta_ema <- rate_k theta_ema + (1 - rate_k) theta,   rate_k = min(rate, (1 + k)/(10 + k)) with warm-up

    The number of updates k is an argument, so nothing but the weights is saved. Buffers are copied, not averaged.

    Args:
        model: the denoiser in training; its copies start equal to it.
        rates: averaging rates per step in [0, 1), the first is the one that is evaluated.
        warmup: let the rate grow with k, so that a short run does not keep its random start.
    """

    def __init__(self, model: nn.Module, rates: Sequence[float] = (0.9999,), warmup: bool = True):
        super().__init__()
        if not rates or not all(0 <= rate < 1 for rate in rates):
            raise ValueError(f"rates={list(rates)}: at least one rate, each in [0, 1), is needed")
        self.rates, self.warmup = tuple(rates), warmup
        self.models = nn.ModuleList(copy.deepcopy(model).eval().requires_grad_(False) for _ in rates)

    def train(self, mode: bool = True) -> "EMA":
        """Stay in evaluation mode."""
        return super().train(False)

    def rate(self, rate: float, k: int) -> float:
        """The rate in use at update k = 0, 1, ..."""
        return min(rate, (1 + k) / (10 + k)) if self.warmup else rate

    @torch.no_grad()
    def update(self, model: nn.Module, k: int) -> None:
        """Average in the weights of `model` after its k-th step, k = 0, 1, ..."""
        parameters: list[Tensor] = list(model.parameters())
        for rate, average in zip(self.rates, self.models, strict=True):
            torch._foreach_lerp_(list(average.parameters()), parameters, 1 - self.rate(rate, k))
            for mine, theirs in zip(average.buffers(), model.buffers(), strict=True):
                mine.copy_(theirs)

    @torch.no_grad()
    def reset(self, model: nn.Module) -> None:
        """Make every copy equal to `model`, e.g. after it was initialised from a checkpoint."""
        for average in self.models:
            average.load_state_dict(model.state_dict())
