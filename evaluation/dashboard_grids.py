"""Pictures of a training run: samples from fixed seeds, real data, and data inverted and regenerated."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from diffusion.denoisers import BidirectionalDenoiser
from diffusion.pixels import from_uint8, to_uint8
from diffusion.rng import ImageNoise
from diffusion.sharding import gathered
from evaluation.dashboard_writer import Interval, Method, tensorboard_of
from evaluation.grids import Picture, image_grid, scatter_plot
from evaluation.inversion import squared_error

COLUMNS = 8
POINTS = 1000
"""Samples of 2-D data, which are drawn as points."""


class SampleGrids(Callback):
    """Draws what the averaged weights make of the same seeds, again and again, so that one can watch them learn.

    | tag | meaning |
    |---|---|
    | `real/training_data` | the first batch of this start, as the network is given it |
    | `ema_samples/<n>_evaluations` | images of the seeds; with up to 16 classes, each column is a class |
    | `restored/<n>_evaluations` | of a model that restores: rows of test images, damaged images, restored ones |
    | `inversion/<n>_evaluations` | of a bidirectional model: rows of test images, their noise, regenerated images |
    | `val/inversion_error_<n>_evaluations` | mean squared error per pixel on [0, 1] |
    | `val/inversion_noise_ratio_<n>_evaluations` | standard deviation of the noise over its level |

    The inversions are of `seeds` test images, with one evaluation on the way back. 2-D data are drawn as points. Only
    the first process draws, from generators of its own, so that a run is the same with and without.

    Args:
        every_n_images: images between two drawings; by default an eighth of the run, at most 5,000,000.
        seeds: number of images; the seeds are 0, 1, ...
        steps: numbers of network evaluations; those that a method has no sampler for are left out.
        min_side: smaller images are enlarged to at least this many pixels.
    """

    def __init__(
        self, every_n_images: int | None = None, seeds: int = 64, steps: Sequence[int] = (1, 2, 4), min_side: int = 40
    ):
        if seeds < 1 or min_side < 1 or len(steps) == 0 or min(steps) < 1:
            raise ValueError(f"seeds={seeds}, steps={list(steps)}, min_side={min_side}: each must be at least 1")
        self.interval = Interval(every_n_images, share=8, longest=5_000_000)
        self.seeds, self.steps, self.min_side = seeds, tuple(steps), min_side
        self.refused: set[int] = set()
        self.known: tuple[Tensor, Tensor | None] | None = None
        """Real data (N, ...) to invert, and their classes (N,)."""

    def state_dict(self) -> dict[str, Any]:
        return {"last": self.interval.last}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.interval.last = state_dict["last"]

    def on_train_start(self, trainer: Trainer, pl_module: Method) -> None:
        self.interval.resume(trainer, pl_module)
        self.refused, self.known = set(), None

    def on_train_batch_start(self, trainer: Trainer, pl_module: Method, batch: Any, batch_idx: int) -> None:
        writer = tensorboard_of(trainer)
        if writer is None:
            return
        if self.known is None and trainer.is_global_zero:
            self.known = self._known(trainer, pl_module, batch)
            show(writer, pl_module, "real/training_data", self._picture(pl_module, batch[0]))
        # not at the end of the batch, where the order of callbacks decides whether the averages are updated already
        if self.interval.due(pl_module):
            self._draw(trainer, writer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: Method) -> None:
        writer = tensorboard_of(trainer)
        if writer is not None and pl_module.images_seen > self.interval.last:
            self._draw(trainer, writer, pl_module)

    def _known(self, trainer: Trainer, pl_module: Method, batch: Any) -> tuple[Tensor, Tensor | None]:
        """Images spread over the test split; without one, and for 2-D data, the first batch."""
        data: Any = getattr(trainer, "datamodule", None)
        if not hasattr(data, "uint8_images") or is_planar(pl_module):
            n = POINTS if is_planar(pl_module) else self.seeds
            return batch[0][:n].clone(), None if batch[1] is None else batch[1][:n].clone()
        images, labels = data.uint8_images("test")
        rows = torch.linspace(0, len(images) - 1, min(self.seeds, len(images))).long()
        x0 = from_uint8(images[rows].to(pl_module.device))
        return x0, None if labels is None else labels[rows].to(pl_module.device)

    def _draw(self, trainer: Trainer, writer: SummaryWriter, pl_module: Method) -> None:
        self.interval.last = pl_module.images_seen
        with gathered(pl_module.ema_denoiser), torch.no_grad():  # all processes, if their weights are divided
            if trainer.is_global_zero:
                self._draw_all(writer, pl_module)

    def _draw_all(self, writer: SummaryWriter, pl_module: Method) -> None:
        for steps in self.steps:
            if steps not in self.refused:
                self._draw_samples(writer, pl_module, steps)
        if isinstance(pl_module.ema_denoiser, BidirectionalDenoiser) and self.known is not None:
            for levels in pl_module.inversions:
                self._draw_inversion(writer, pl_module, levels)
        writer.flush()

    def _draw_samples(self, writer: SummaryWriter, pl_module: Method, steps: int) -> None:
        if hasattr(pl_module, "restore"):
            self._draw_restored(writer, pl_module, steps)
            return
        n, device, label = POINTS if is_planar(pl_module) else self.seeds, pl_module.device, None
        if pl_module.num_classes:
            label = torch.arange(n, device=device) % pl_module.num_classes
        try:
            x0 = pl_module.sample(ImageNoise(range(n), pl_module.image_shape, device), steps, label)
        except ValueError as reason:
            self.refused.add(steps)
            rank_zero_info(f"No samples with {steps} evaluations on the dashboard: {reason}")
            return
        show(writer, pl_module, f"ema_samples/{evaluations(steps)}", self._picture(pl_module, x0, label))

    def _draw_restored(self, writer: SummaryWriter, pl_module: Method, steps: int) -> None:
        if self.known is None:  # before the first batch, which a complete run never has
            return
        x0, label = self.known
        noise = ImageNoise(range(len(x0)), pl_module.image_shape, x0.device)
        y = pl_module.operator.observe(x0, noise)
        restored = pl_module.restore(y, noise, steps, label if pl_module.num_classes else None)
        thrice = torch.stack([x0, pl_module.operator.shown(y), restored])[:, : 2 * COLUMNS]
        rows = [row for some in thrice.split(COLUMNS, dim=1) for row in some]
        picture = image_grid(torch.cat(rows), min(COLUMNS, len(x0)), self.min_side)
        show(writer, pl_module, f"restored/{evaluations(steps)}", picture)

    def _picture(self, pl_module: Method, x0: Tensor, label: Tensor | None = None) -> Picture:
        if is_planar(pl_module):
            return scatter_plot([("", x0[:POINTS], label)], limit=self._limit())
        columns = pl_module.num_classes if label is not None and 2 <= pl_module.num_classes <= 16 else COLUMNS
        return image_grid(x0[: self.seeds], columns, self.min_side)

    def _limit(self) -> float:
        """Half the width of the axes on which 2-D data are drawn."""
        assert self.known is not None  # nothing is drawn before the first batch is there
        return 1.2 * float(self.known[0].abs().amax())

    def _draw_inversion(self, writer: SummaryWriter, pl_module: Method, levels: Sequence[float]) -> None:
        assert self.known is not None  # checked by the caller
        x0, label = self.known
        label = label if pl_module.num_classes else None
        steps, name = len(levels) - 1, evaluations(len(levels) - 1)
        inverted = pl_module.invert(x0, ImageNoise(range(len(x0)), pl_module.image_shape, x0.device), steps, label)
        regenerated = pl_module.ema_denoiser(inverted, levels[-1], label)
        unit = inverted / levels[-1]
        writer.add_scalar(f"val/inversion_noise_ratio_{name}", float(unit.std(correction=0)), pl_module.images_seen)
        if is_planar(pl_module):
            panels = [("real", x0, label), ("regenerated", regenerated, label)]
            picture = scatter_plot(panels, limit=self._limit())
        else:
            if regenerated.isfinite().all():
                error = squared_error(to_uint8(regenerated), to_uint8(x0)).mean()
                writer.add_scalar(f"val/inversion_error_{name}", float(error), pl_module.images_seen)
            shown = 2 * COLUMNS if len(x0) >= 2 * COLUMNS else COLUMNS
            thrice = torch.stack([x0, unit / 3, regenerated])[:, :shown]  # 3 standard deviations: white
            rows = [row for some in thrice.split(COLUMNS, dim=1) for row in some]
            picture = image_grid(torch.cat(rows), min(COLUMNS, len(x0)), self.min_side)
        show(writer, pl_module, f"inversion/{name}", picture)


def is_planar(pl_module: Method) -> bool:
    """Whether the data are points in the plane."""
    return tuple(pl_module.image_shape) == (2, 1, 1)


def evaluations(n: int) -> str:
    """A tag's part for n network evaluations."""
    return f"{n}_evaluation{'s' * (n > 1)}"


def show(writer: SummaryWriter, pl_module: Method, tag: str, picture: Picture) -> None:
    """Write a picture at the number of images seen."""
    writer.add_image(tag, picture, pl_module.images_seen, dataformats="HWC")
