"""The curves of a training run: loss, loss by noise level, gradient norm, learning rate, curricula, speed."""

import math
import time
from itertools import pairwise
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from evaluation.dashboard_writer import Interval, Method, tensorboard_of


class TrainingCurves(Callback):
    """Writes a run's curves to TensorBoard, each point the mean since the last, at the number of images seen.

    | tag | meaning |
    |---|---|
    | `train/loss`, `train/<term>` | mean of the loss and of each of its terms |
    | `train_<term>_by_level/<k>_<low>-<high>` | mean of a term where its level lies in bin k |
    | `train/grad_norm` | of the whole gradient, before clipping; of a diffusion-GAN, of its generator's |
    | `train/skipped_steps` | steps with a non-finite gradient, since the start |
    | `train/images_per_second` | by the clock, with all that happened in the interval |
    | `train/lr` | with several groups `train/lr_<optimizer>_<group>` |
    | `train/N` | number of intervals of the grid, where levels lie on one |
    | `train/gap` | (t - s)/t at t = sigma_data, where levels are continuous |
    | `train/mu` | rate of the target network, where there is one |
    | `val/...`, `test/...` | what the module logs with `logger=False` in validation and test |

    A module's `training_step` returns {"loss": mean, "sigma": levels (B,), "terms": {name: (B,)}}, and one with a
    discriminator the terms {"judged": levels (B,), "judged_terms": {name: (B,)}} beside them. The sums are kept
    on the device, so that no step waits for the host; the host reads them once per point, and only then do the
    processes exchange them. Values that are not finite count in no mean; their steps count as skipped. The sums are
    saved in checkpoints, so a resumed run writes the points of an unbroken one.

    Args:
        every_n_images: images between two points; by default a 400th of the run, at most 50,000.
        levels: number of bins of ln sigma, of equal width between the denoiser's sigma_min and sigma_max.
    """

    def __init__(self, every_n_images: int | None = None, levels: int = 8):
        if levels < 1:
            raise ValueError(f"levels={levels}: at least one bin is needed")
        self.interval = Interval(every_n_images, share=400, longest=50_000)
        self.levels = levels
        self.terms: tuple[str, ...] = ()
        self.means = torch.zeros(2, 2)
        """Sum and count (rows) of the loss and of the gradient norm."""
        self.by_level = torch.zeros(2, 0, levels)
        """Sum and count of each term in each bin."""
        self.edges = torch.zeros(levels + 1)
        """Of the bins, in ln sigma."""
        self.last_norm: Tensor | None = None
        self.charted: tuple[str, ...] | None = None
        self.clock = (0.0, 0)

    @property
    def state_key(self) -> str:
        """Sums over other bins are not restored."""
        return self._generate_state_key(levels=self.levels)

    def state_dict(self) -> dict[str, Any]:
        """Note: with several processes, the first one's sums; the part of a point before a resumption is then its."""
        sums = {"means": self.means.cpu().clone(), "by_level": self.by_level.cpu().clone()}
        return {"last": self.interval.last, "terms": list(self.terms), **sums}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.interval.last, self.terms = state_dict["last"], tuple(state_dict["terms"])
        self.means, self.by_level = state_dict["means"], state_dict["by_level"]

    def on_train_start(self, trainer: Trainer, pl_module: Method) -> None:
        self.interval.resume(trainer, pl_module)
        device, denoiser = pl_module.device, pl_module.denoiser
        # copies: spawned processes get the tensors of a callback in memory that they share
        self.means, self.by_level = self.means.to(device, copy=True), self.by_level.to(device, copy=True)
        low, high = math.log(denoiser.sigma_min), math.log(denoiser.sigma_max)
        self.edges = torch.linspace(low, high, self.levels + 1, device=device)
        self.charted = None
        self.last_norm = getattr(self._guard(trainer), "grad_norm", None)  # of no step of this run
        self.clock = (time.perf_counter(), pl_module.images_seen)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Method, outputs: Any, batch: Any, batch_idx: int) -> None:
        if tensorboard_of(trainer) is None:
            return
        # Lightning divides the loss of a training step by the number of steps whose gradients it accumulates
        self._add(self.means[:, 0], outputs["loss"] * trainer.accumulate_grad_batches)
        guard = self._guard(trainer)
        if guard is not None and guard.grad_norm is not self.last_norm:
            self.last_norm = guard.grad_norm
            self._add(self.means[:, 1], guard.grad_norm)
        if "terms" in outputs:
            pairs = [(outputs["terms"], outputs["sigma"])]
            if "judged" in outputs:
                pairs.append((outputs["judged_terms"], outputs["judged"]))
            self._add_terms(pairs)

    @staticmethod
    def _add(mean: Tensor, value: Tensor) -> None:
        """Count a value in a mean (2,) of sum and count, if it is finite."""
        value = value.detach().float()
        finite = value.isfinite()
        mean += torch.stack([torch.where(finite, value, 0.0), finite.float()])

    def _add_terms(self, pairs: list[tuple[dict[str, Tensor], Tensor]]) -> None:
        """Add groups of terms {name: (B,)}, each at the levels (B,) of its group."""
        names = tuple(name for terms, _ in pairs for name in terms)
        if names != self.terms:
            self.terms = names
            self.by_level = torch.zeros(2, len(names), self.levels, device=pairs[0][1].device)
        first = 0
        for terms, sigma in pairs:
            values = torch.stack(list(terms.values())).float()
            finite = values.isfinite()
            bins = torch.bucketize(sigma.float().log(), self.edges[1:-1])
            rows = self.by_level[:, first : first + len(terms)]
            rows[0].index_add_(1, bins, torch.where(finite, values, 0.0))
            rows[1].index_add_(1, bins, finite.float())
            first += len(terms)

    @staticmethod
    def _guard(trainer: Trainer) -> Any:
        """The callback that watches the gradient: it has `grad_norm`, a tensor on the device, and `skipped`."""
        return next((c for c in trainer.callbacks if hasattr(c, "grad_norm")), None)  # type: ignore[attr-defined]

    def on_train_batch_start(self, trainer: Trainer, pl_module: Method, batch: Any, batch_idx: int) -> None:
        # not at the end of the batch, where the order of callbacks decides whether it is already counted
        if self.interval.due(pl_module):
            self._write_point(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: Method) -> None:
        if pl_module.images_seen > self.interval.last:
            self._write_point(trainer, pl_module)

    def _write_point(self, trainer: Trainer, pl_module: Method) -> None:
        self.interval.last = pl_module.images_seen
        writer = tensorboard_of(trainer)
        if writer is None:
            return
        sums = torch.cat([self.means.flatten(), self.by_level.flatten()])
        sums = trainer.strategy.reduce(sums, reduce_op="sum").cpu()
        self.means.zero_()
        self.by_level.zero_()
        if not trainer.is_global_zero:
            return
        values = self._means(sums) | self._state(trainer, pl_module)
        for tag, value in values.items():
            writer.add_scalar(tag, value, pl_module.images_seen)
        if self.charted != self.terms:
            self.charted = self.terms
            self._write_layout(writer)
        writer.flush()

    def _means(self, sums: Tensor) -> dict[str, float]:
        """Tags and means of the sums over the processes; what has no value has no point."""
        totals, levels = sums[:4].view(2, 2), sums[4:].view(2, len(self.terms), self.levels)
        tags = ["train/loss", "train/grad_norm"] + [f"train/{term}" for term in self.terms]
        tags += [f"train_{term}_by_level/{name}" for term in self.terms for name in self.level_names()]
        total, count = torch.cat([totals, levels.sum(-1), levels.flatten(1)], dim=1)
        return {tag: s / n for tag, s, n in zip(tags, total.tolist(), count.tolist(), strict=True) if n}

    def level_names(self) -> list[str]:
        """A bin's number and range, in an order that a dashboard keeps."""
        edges = self.edges.exp().tolist()
        return [f"{k}_{low:.2g}-{high:.2g}" for k, (low, high) in enumerate(pairwise(edges))]

    def _state(self, trainer: Trainer, pl_module: Method) -> dict[str, float]:
        """Tags and values of what the host knows."""
        images, now = pl_module.images_seen, time.perf_counter()
        values = {}
        if images > self.clock[1]:  # not where a run resumes at a point that was due
            values["train/images_per_second"] = (images - self.clock[1]) / (now - self.clock[0])
        self.clock = (now, images)
        guard = self._guard(trainer)
        if guard is not None:
            values["train/skipped_steps"] = float(guard.skipped[0])
        groups = {(i, j): g["lr"] for i, o in enumerate(trainer.optimizers) for j, g in enumerate(o.param_groups)}
        for (i, j), lr in groups.items():
            values["train/lr" if len(groups) == 1 else f"train/lr_{i}_{j}"] = float(lr)
        return values | self._curricula(pl_module)

    @staticmethod
    def _curricula(pl_module: Method) -> dict[str, float]:
        """Tags and values of what the method changes with progress."""
        progress = pl_module.images_seen / pl_module.total_images
        pairs: Any = getattr(pl_module, "pairs", None) or getattr(pl_module, "paths", None)
        values = {}
        if callable(getattr(pairs, "steps", None)):
            values["train/N"] = float(pairs.steps(progress))
        if callable(getattr(pairs, "gap", None)):
            t = torch.tensor([pl_module.denoiser.sigma_data])
            values["train/gap"] = float(1 - pairs.gap(t, progress) / t)
        if callable(getattr(pl_module, "target_rate", None)):  # a distillation's is a constant
            values["train/mu"] = float(pl_module.target_rate(progress))
        return values

    def _write_layout(self, writer: SummaryWriter) -> None:
        """One chart of all levels for each term."""
        charts = {f"{term} by noise level": ["Multiline", [f"^train_{term}_by_level/.*"]] for term in self.terms}
        writer.add_custom_scalars({"Loss": charts})

    def on_validation_end(self, trainer: Trainer, pl_module: Method) -> None:
        writer = tensorboard_of(trainer)
        if writer is None or trainer.sanity_checking or not trainer.is_global_zero:
            return
        for tag, value in trainer.callback_metrics.items():
            if tag.startswith(("val/", "test/")) and tag not in trainer.logged_metrics:
                writer.add_scalar(tag, float(value), pl_module.images_seen)

    on_test_end = on_validation_end
