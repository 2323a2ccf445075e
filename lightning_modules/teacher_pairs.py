"""Pairs of a noise and the image that a teacher's solver makes of it, what KD and reflow learn from.

    x0 = Solve_phi(sigma_max z, sigma_max -> 0)          z standard normal, the solver deterministic

(Luhman & Luhman 2021, arXiv 2101.02388; Liu et al. 2022, arXiv 2209.03003, algorithm 1). A config says how they are
made (`FreshPairs`, `CachedPairs`), a module of what (`TeacherODE`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from diffusion.levels import draw_index
from diffusion.ode_samplers import Sampler
from diffusion.rng import Draws, ImageNoise, derive_seed
from lightning_modules.checkpoint import file_sha256
from lightning_modules.pairs_file import Pairs, pairs_path, read_pairs, write_pairs
from lightning_modules.teacher import Teacher

PairLaw = Callable[[Draws, Tensor, Tensor | None], Pairs]
"""The pairs of a training step: (its random draws, the data's images (B, ...), their labels) -> B pairs."""


@dataclass(frozen=True)
class TeacherODE:
    """What pairs are solutions of.

    Args:
        teacher: a diffusion model or rectified flow.
        image_shape: (C, H, W).
        num_classes: 0 for pairs without classes.
        sigma_min, sigma_max: the range of levels that the solver's grid is laid on.
    """

    teacher: Teacher
    image_shape: tuple[int, int, int]
    num_classes: int
    sigma_min: float
    sigma_max: float


@dataclass(frozen=True)
class TeacherPairs(ABC):
    """A way to get pairs.

    Args:
        sampler: a deterministic one; `Heun` and `Euler` are.
        steps: the teacher's evaluations for one pair.
    """

    sampler: Sampler
    steps: int

    def __post_init__(self) -> None:
        self.sampler.levels(self.steps)  # raises if it cannot take so many

    @abstractmethod
    def open(self, ode: TeacherODE, device: torch.device | str = "cpu") -> PairLaw:
        """Get ready to draw; `device` is where pairs that are made in advance are made."""

    @torch.no_grad()
    def solve(self, ode: TeacherODE, noise: Tensor, label: Tensor | None) -> Tensor:
        """The images (B, C, H, W) that the teacher makes of standard normal noise (B, C, H, W)."""
        given = iter([noise])

        def first() -> Tensor:
            for z in given:
                return z
            raise ValueError(f"{self.sampler}: this sampler adds noise; pairs need a deterministic one, such as Heun's")

        return self.sampler.sample(ode.teacher, first, self.steps, label, ode.sigma_min, ode.sigma_max)

    def fresh(self, ode: TeacherODE, draws: Draws, x0: Tensor, label: Tensor | None) -> Pairs:
        """Pairs of new noise like the data's images x0 (B, C, H, W), of the data's labels."""
        noise = draws.normal_like(x0, "noise")
        return Pairs(noise, self.solve(ode, noise, label), label)


@dataclass(frozen=True)
class FreshPairs(TeacherPairs):
    """Every training step solves the teacher's ODE from noise never seen before, for the labels of its data."""

    def open(self, ode: TeacherODE, device: torch.device | str = "cpu") -> PairLaw:
        return partial(self.fresh, ode)


@dataclass(frozen=True)
class CachedPairs(TeacherPairs):
    """Pairs made once, before training, of which every step draws some with equal probability; their classes too.

    Pair i is a function of (seed, i) alone; so neither the size of a batch nor the number of processes matters, but for
    the rounding of a network's arithmetic.

    Args:
        count: how many pairs, >= 1. In memory (mapped from the file) each takes 8 bytes for every element of an image.
        cache: folder of the file, which is named by what made it (the teacher's SHA-256, sampler, steps, seed, ...), so
            that another teacher's pairs are never taken for this one's; None makes them anew in every process and run.
        batch_size: images per forward pass of the teacher.
        seed: of the pairs' noise and classes.
    """

    count: int = 20_000
    cache: str | None = "runs/pairs"
    batch_size: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count < 1 or self.batch_size < 1:
            raise ValueError(f"count={self.count}, batch_size={self.batch_size}: both must be at least 1")

    def made_by(self, ode: TeacherODE) -> dict[str, str]:
        """What determines the pairs.

        Raises:
            ValueError: the teacher is not a file, and so cannot be told from another.
        """
        if ode.teacher.path is None:
            raise ValueError(f"cache={self.cache}: pairs of a teacher that is not given by path are kept by cache=None")
        return {
            "teacher": file_sha256(ode.teacher.path),
            "sampler": repr(self.sampler),
            "steps": str(self.steps),
            "sigma_min": repr(ode.sigma_min),
            "sigma_max": repr(ode.sigma_max),
            "image_shape": str(tuple(ode.image_shape)),
            "num_classes": str(ode.num_classes),
            "count": str(self.count),
            "seed": str(self.seed),
        }

    def make(self, ode: TeacherODE, device: torch.device | str = "cpu") -> Pairs:
        """All pairs, on the CPU."""
        seeds = [derive_seed(self.seed, "pair", i) for i in range(self.count)]
        label = _labels(seeds, ode.num_classes)
        noise, x0 = (torch.empty(self.count, *ode.image_shape) for _ in range(2))
        for rows in torch.arange(self.count).split(self.batch_size):
            # filled to the size of the others, of which a network's rounding is a function
            batch = torch.cat([rows, rows[-1:].expand(min(self.batch_size, self.count) - len(rows))])
            z = ImageNoise([seeds[i] for i in batch.tolist()], ode.image_shape, device)()
            solved = self.solve(ode, z, None if label is None else label[batch].to(device))
            noise[rows], x0[rows] = z[: len(rows)].cpu(), solved[: len(rows)].cpu()
        return Pairs(noise, x0, label)

    def open(self, ode: TeacherODE, device: torch.device | str = "cpu") -> PairLaw:
        """Read the pairs, or make them and write them to their file where there is none.

        Raises:
            ValueError: the file is damaged, or its content is not what its name says.
            CheckpointError: there is no teacher.
        """
        _ = ode.teacher.denoise
        if self.cache is None:
            return StoredPairs(self.make(ode, device))
        made_by = self.made_by(ode)
        path = pairs_path(self.cache, made_by)
        if not path.is_file():
            rank_zero_info(f"making {self.count:,} pairs by {self.steps} evaluations of the teacher, kept in {path}")
            write_pairs(path, self.make(ode, device), made_by)
        return StoredPairs(read_pairs(path, made_by))


def _labels(seeds: list[int], num_classes: int) -> Tensor | None:
    """A class (N,) for each seed, uniformly distributed, as `evaluation.generate.draw_labels` draws them."""
    if num_classes == 0:
        return None
    u = torch.tensor([derive_seed(seed, "label") / 2**63 for seed in seeds], dtype=torch.float64)
    return draw_index(u, torch.ones(num_classes))


@dataclass(frozen=True)
class StoredPairs:
    """A law that draws from finitely many pairs, with replacement; the data give the number alone."""

    pairs: Pairs

    def __call__(self, draws: Draws, x0: Tensor, label: Tensor | None) -> Pairs:
        # on the CPU, where the pairs are: otherwise the host would wait for the device's numbers
        here = Draws(draws.seed, draws.images_seen, "cpu", draws.rank, draws.world_size)
        index = (here.uniform(len(x0), "pairs") * len(self.pairs.x0)).long()
        pairs, device = self.pairs, x0.device
        noise, solved = (rows[index].to(device, non_blocking=True) for rows in (pairs.noise, pairs.x0))
        return Pairs(noise, solved, None if pairs.label is None else pairs.label[index].to(device, non_blocking=True))


class PairSource:
    """The pairs that a module trains on: how they are made, of what, and the law of the training steps once it is open.

    Args:
        pairs: how they are made.
        ode: what they are solutions of.
    """

    def __init__(self, pairs: TeacherPairs, ode: TeacherODE):
        self.pairs, self.ode = pairs, ode
        self._law: PairLaw | None = None

    def open(self, device: torch.device | str) -> PairLaw:
        """Read the pairs, made now if there are none; once."""
        if self._law is None:
            self._law = self.pairs.open(self.ode, device)
        return self._law

    def draw(self, draws: Draws, x0: Tensor, label: Tensor | None, fresh: bool) -> Pairs:
        """The pairs of a step; `fresh`, as in validation, solves pairs that no training has seen."""
        if fresh:
            return self.pairs.fresh(self.ode, draws, x0, label)
        return self.open(x0.device)(draws, x0, label)
