"""Timing that holds on a busy machine: cases take turns in one process, and only what shares a run is compared."""

import gc
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Times:
    """Seconds of one case in every round: on the wall, and of this process's CPU over all its threads."""

    wall: np.ndarray
    cpu: np.ndarray

    def of(self, clock: str) -> np.ndarray:
        """The seconds on the clock "wall" or "cpu"."""
        return self.wall if clock == "wall" else self.cpu

    def summary(self, clock: str) -> dict[str, float]:
        """Median, quartiles and minimum in seconds."""
        low, middle, high = np.percentile(self.of(clock), [25, 50, 75])
        return {"median": middle, "q1": low, "q3": high, "min": self.of(clock).min()}


def interleave(
    cases: Mapping[Name, Callable[[], Any]], repeats: int, warmup: int = 1, device: torch.device | None = None
) -> dict[Name, Times]:
    """Run all cases in turn, `repeats` rounds after `warmup` rounds that are not counted.

    Args:
        cases: what is timed, by name.
        repeats: rounds, >= 1.
        warmup: rounds before, in which memory is first taken and kernels are chosen.
        device: a GPU, for which the clock waits.

    Raises:
        ValueError: repeats is below 1.
    """
    if repeats < 1:
        raise ValueError(f"repeats={repeats}: at least 1 round is needed")
    seconds: dict[Name, list[tuple[float, float]]] = {name: [] for name in cases}
    for _ in range(warmup + repeats):
        gc.collect()
        gc.disable()  # not in the middle of a case
        try:
            for name, case in cases.items():
                seconds[name].append(_once(case, device))
        finally:
            gc.enable()
    timed = {name: np.array(rows[warmup:]) for name, rows in seconds.items()}
    return {name: Times(rows[:, 0], rows[:, 1]) for name, rows in timed.items()}


def _once(case: Callable[[], Any], device: torch.device | None) -> tuple[float, float]:
    _wait(device)
    wall, cpu = time.perf_counter(), time.process_time()
    case()
    _wait(device)
    return time.perf_counter() - wall, time.process_time() - cpu


def _wait(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


def speedup(reference: Times, times: Times, clock: str) -> dict[str, float]:
    """How many times faster than the reference: median and quartiles of the rounds' own ratios."""
    low, middle, high = np.percentile(reference.of(clock) / times.of(clock), [25, 50, 75])
    return {"median": middle, "q1": low, "q3": high}


def matrix_product(device: torch.device) -> tuple[Callable[[], Any], int]:
    """A product of square matrices and its operations: the rate that a network's are measured by.

    In float32 of 1,024 rows on a CPU, in bfloat16 of 8,192 rows on a GPU.
    """
    size, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (1024, torch.float32)
    a, b = torch.randn(2, size, size, device=device, dtype=dtype)
    return lambda: a @ b, 2 * size**3
