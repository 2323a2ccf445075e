"""Exponential moving averages of a denoiser: the weights that are evaluated."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def average_in(average: nn.Module, model: nn.Module, rate: float) -> None:
    """theta_average <- rate theta_average + (1 - rate) theta, in place; buffers are copied."""
    mine: list[Tensor] = list(average.parameters())
    theirs: list[Tensor] = list(model.parameters())
    torch._foreach_lerp_(mine, theirs, 1 - rate)
    for buffer, source in zip(average.buffers(), model.buffers(), strict=True):
        buffer.copy_(source)


class EMA(nn.Module):
    """Frozen copies of `model` at several averaging rates.

    theta_ema <- rate_k theta_ema + (1 - rate_k) theta,   rate_k = min(rate, (1 + k)/(10 + k)) with warm-up

    The number of updates k is an argument, so nothing but the weights is saved. Buffers are copied, not averaged.

    Args:
        model: the denoiser in training; its copies start equal to it.
        rates: averaging rates per step in [0, 1), the first is the one that is evaluated.
        batch: images of the step that the rates (and k) are of; a step of n images then averages at rate^(n/batch), so
            that the half-life in images is the same at any batch size. None: per step, whatever its size.
        warmup: let the rate grow with k, so that a short run does not keep its random start.
    """

    def __init__(
        self, model: nn.Module, rates: Sequence[float] = (0.9999,), warmup: bool = True, batch: int | None = None
    ):
        super().__init__()
        if batch is not None and batch < 1:
            raise ValueError(f"batch={batch}: the rates are of a step of at least one image")
        if not rates or not all(0 <= rate < 1 for rate in rates):
            raise ValueError(f"rates={list(rates)}: at least one rate, each in [0, 1), is needed")
        self.rates, self.warmup, self.batch = tuple(rates), warmup, batch
        self.models = nn.ModuleList(copy.deepcopy(model).eval().requires_grad_(False) for _ in rates)

    def train(self, mode: bool = True) -> "EMA":
        """Stay in evaluation mode."""
        return super().train(False)

    @property
    def evaluated(self) -> Any:
        """The copy at the first rate, a denoiser of the same class as the one in training."""
        return self.models[0]

    def rate(self, rate: float, k: float) -> float:
        """The rate in use at update k = 0, 1, ..."""
        return min(rate, (1 + k) / (10 + k)) if self.warmup else rate

    def update(self, model: nn.Module, k: int, images: int | None = None) -> None:
        """Average in the weights of `model` after its k-th step, k = 0, 1, ..., which took `images` images."""
        share = 1.0 if self.batch is None or images is None else images / self.batch
        for rate, average in zip(self.rates, self.models, strict=True):
            average_in(average, model, self.rate(rate, k * share) ** share)

    @torch.no_grad()
    def reset(self, model: nn.Module) -> None:
        """Make every copy equal to `model`, e.g. after it was initialised from a checkpoint."""
        for average in self.models:
            average.load_state_dict(model.state_dict())
