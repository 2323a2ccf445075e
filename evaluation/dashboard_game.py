"""How a game of two networks goes, and a warning where it goes wrong."""

from collections import deque
from inspect import signature
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from diffusion.pixels import from_uint8, to_uint8
from diffusion.rng import ImageNoise
from evaluation.dashboard_grids import evaluations, is_planar
from evaluation.dashboard_writer import Interval, Method, tensorboard_of
from evaluation.features import FeatureNetwork, feature_network_for

KEPT = 20
"""Batches whose logits make one histogram."""


class GameWatch(Callback):
    """Watches a method with a discriminator; of other methods it does nothing.

    | tag | meaning |
    |---|---|
    | `logits_<k>_<sigma>/real`, `/fake` | histograms of the discriminator's logits by the level at which it judged |
    | `val/diversity_<n>_evaluations` | mean distance between two samples over that between two images of the data |
    | `val/classes_<n>_evaluations` | classes that a classifier reads in at least 1 % of the samples |

    Distances are between images of the same class where the model is told classes, Euclidean in pixels, so 1 is as
    diverse as the data and 0 is one image. Loss, logits, sign accuracy, penalty and gradients by level are curves of
    `TrainingCurves`. A warning is given when the samples with the method's own number of evaluations have collapsed.
    Only the first process draws, from generators of its own, so that a run is the same with and without.

    Args:
        every_n_images: images between two looks; by default a 20th of the run, at most 1,000,000.
        samples: how many are drawn for each look, >= 2.
        steps: numbers of network evaluations.
        collapse: warn of a diversity below this, after the first quarter of the run; 0 for no warning.
    """

    def __init__(
        self,
        every_n_images: int | None = None,
        samples: int = 250,
        steps: tuple[int, ...] = (1, 4),
        collapse: float = 0.5,
    ):
        if samples < 2 or not steps or min(steps) < 1:
            raise ValueError(f"samples={samples}, steps={list(steps)}: at least 2 samples and 1 step are needed")
        if not 0 <= collapse < 1:
            raise ValueError(f"collapse={collapse}: a share of the data's diversity lies in [0, 1)")
        self.interval = Interval(every_n_images, share=20, longest=1_000_000)
        self.samples, self.steps, self.collapse = samples, tuple(steps), collapse
        self.outputs: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self.warned = False
        self.real_distance = 0.0
        self.judge: FeatureNetwork | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"last": self.interval.last, "warned": self.warned}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.interval.last, self.warned = state_dict["last"], state_dict["warned"]

    def on_train_start(self, trainer: Trainer, pl_module: Method) -> None:
        if not hasattr(pl_module, "critic"):
            return
        self.interval.resume(trainer, pl_module)
        self.outputs.clear()
        self.real_distance, self.judge = 0.0, None
        if tuple(pl_module.image_shape) in ((1, 8, 8), (1, 28, 28)):  # their judge is always a classifier
            self.judge = feature_network_for(pl_module.image_shape)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Method, outputs: Any, batch: Any, batch_idx: int) -> None:
        if isinstance(outputs, dict) and "judged_terms" in outputs:
            self.outputs.append(outputs)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Method, batch: Any, batch_idx: int) -> None:
        if not hasattr(pl_module, "critic") or not trainer.is_global_zero:
            return
        if not self.real_distance:
            self.real_distance = self._distance_of_data(trainer, pl_module, batch)
        if self.interval.due(pl_module):
            self._look(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: Method) -> None:
        last = pl_module.images_seen > self.interval.last
        if hasattr(pl_module, "critic") and trainer.is_global_zero and last:
            self._look(trainer, pl_module)

    @torch.no_grad()
    def _look(self, trainer: Trainer, pl_module: Method) -> None:
        self.interval.last = pl_module.images_seen
        writer = tensorboard_of(trainer)
        found: dict[str, float] = {}
        for steps in self.steps:
            found |= self._sampled(pl_module, steps)
        if writer is not None:
            for tag, value in found.items():
                writer.add_scalar(tag, value, pl_module.images_seen)
            for tag, logits in self._logits(pl_module):
                writer.add_histogram(tag, logits, pl_module.images_seen)
            writer.flush()
        self._warn(pl_module, found)

    def _sampled(self, pl_module: Method, steps: int) -> dict[str, float]:
        """Diversity and classes of samples with so many evaluations; nothing if the method has no sampler for them."""
        noise, label = ImageNoise(range(self.samples), pl_module.image_shape, pl_module.device), None
        if pl_module.num_classes:
            label = torch.arange(self.samples, device=pl_module.device) % pl_module.num_classes
        try:
            x0 = pl_module.sample(noise, steps, label)
        except ValueError:
            return {}
        name, values = evaluations(steps), {}
        if self.real_distance:  # 0 of equal images, and before the first batch, which a complete run never has
            values[f"val/diversity_{name}"] = mean_distance(x0, label) / self.real_distance
        if self.judge is not None and x0.isfinite().all():
            # not `extract`, which divides the work among all processes: only this one is here
            read = self.judge.to(x0.device).extract(to_uint8(x0)).logits.argmax(1)
            values[f"val/classes_{name}"] = float((torch.bincount(read) >= 0.01 * len(read)).sum())
        return values

    def _distance_of_data(self, trainer: Trainer, pl_module: Method, batch: Any) -> float:
        data: Any = getattr(trainer, "datamodule", None)
        x0, label = batch
        if hasattr(data, "uint8_images") and not is_planar(pl_module):
            images, label = data.uint8_images("train")
            rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:1000]
            x0, label = from_uint8(images[rows]), None if label is None else label[rows]
        return mean_distance(x0, label if pl_module.num_classes else None)

    def _logits(self, pl_module: Method) -> list[tuple[str, Tensor]]:
        """Tags and logits of the last batches, by level: the ladder's, or those next to them."""
        if not self.outputs:
            return []
        denoiser = pl_module.denoiser
        levels = pl_module.ladder.levels(denoiser.sigma_min, denoiser.sigma_max).float()
        levels = levels[:: pl_module.ladder.substeps]
        judged = torch.cat([o["judged"] for o in self.outputs]).cpu()
        nearest = (judged.log()[:, None] - levels.log()).abs().argmin(1)
        tagged = []
        for side in ("real", "fake"):
            logits = torch.cat([o["judged_terms"][f"logit_{side}"] for o in self.outputs]).float().cpu()
            for k in nearest.unique().tolist():
                here = logits[(nearest == k) & logits.isfinite()]
                if len(here):
                    tagged.append((f"logits_{k}_{levels[k]:.2g}/{side}", here))
        return tagged

    def _warn(self, pl_module: Method, found: dict[str, float]) -> None:
        name = evaluations(signature(pl_module.sample).parameters["steps"].default)  # of what it is made for
        diversity = found.get(f"val/diversity_{name}")
        if diversity is None or pl_module.images_seen < pl_module.total_images / 4:
            return
        if diversity >= self.collapse:
            self.warned = False
        elif not self.warned:
            self.warned = True
            rank_zero_warn(collapse_text(name, diversity, found.get(f"val/classes_{name}"), self._accuracy()))

    def _accuracy(self) -> float:
        """Share of pairs that the discriminator tells apart, in the last batches; NaN if it played in none."""
        values = [o["judged_terms"]["sign_accuracy"] for o in self.outputs]
        return float(torch.cat(values).nanmean()) if values else float("nan")


def mean_distance(x: Tensor, label: Tensor | None = None) -> float:
    """Mean Euclidean distance between two different images (B, ...), of the same class where classes (B,) are given."""
    flat = x.detach().double().flatten(1).cpu()
    pairs = ~torch.eye(len(flat), dtype=torch.bool)
    if label is not None:
        pairs &= label.cpu()[:, None] == label.cpu()
    return float(torch.cdist(flat, flat)[pairs].mean()) if pairs.any() else 0.0


def collapse_text(name: str, diversity: float, classes: float | None, accuracy: float) -> str:
    """A warning in one line: what was seen, and what to try."""
    read = "" if classes is None else f", {classes:.0f} classes are read in them"
    remedy = "a smaller batch, or a lower learning rate of the generator"
    if accuracy > 0.9:
        remedy = "a larger gamma of the penalty, or a lower learning rate of the discriminator"
    elif accuracy < 0.55:
        remedy = "a smaller gamma of the penalty, or a higher learning rate of the discriminator"
    return (
        f"Samples of {name.replace('_', ' ')} have collapsed: the mean distance between two is {diversity:.2f} of the "
        f"data's{read}, and the discriminator tells {accuracy:.0%} of the pairs apart. Try {remedy}; judged: "
        f"AnyLevelBelow with a discriminator that is told the source (source_level: true); or a latent of the "
        f"generator (latent_size)."
    )
