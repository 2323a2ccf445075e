"""What every run does beside its method: count images and time, average weights, skip steps that are not finite.

A method's module gives `images_seen`, `total_images`, `seed` and `update_averages`, and returns `run_callbacks()`
from `configure_callbacks`. Lightning runs these before it writes a checkpoint, so a checkpoint is always of one moment.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any, NotRequired, TypedDict

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from diffusion.denoisers import Denoiser
from diffusion.rng import Draws, has_dropout
from diffusion.sharding import whole
from lightning_modules.checkpoint import CheckpointError


class StepOutput(TypedDict):
    """What a training_step returns: the mean loss, and for the dashboard the levels and terms of each image (B,).

    A method with a discriminator adds the levels at which it judged, and its terms.
    """

    loss: Tensor
    sigma: Tensor
    terms: dict[str, Tensor]
    judged: NotRequired[Tensor]
    judged_terms: NotRequired[dict[str, Tensor]]


def optimizer_and_schedule(
    module: Any,
    parameters: Iterable[nn.Parameter],
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
    lr_factor: Callable[[float], float] | None,
) -> OptimizerLRScheduler:
    """Build an optimizer whose learning rate is multiplied by `lr_factor(module.progress)`.

    Note: Lightning asks for it after a step, when that step's images are not yet counted; so it lags by one step.
    """
    built = optimizer(parameters)
    if lr_factor is None:
        return built
    schedule = torch.optim.lr_scheduler.LambdaLR(built, lambda _: lr_factor(module.progress))
    return {"optimizer": built, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def compiled(objective: Callable[..., Any], denoiser: Denoiser) -> Callable[..., Any]:
    """Compile a loss as one graph; with dropout, whose seeding cannot be traced, the denoiser's network instead.

    Without dropout the loss is told the seed 0, since PyTorch up to 2.11 compiles anew for every number it is given.
    """
    if has_dropout(denoiser):
        denoiser.network.compile(fullgraph=True, dynamic=False)
        return objective
    graph = torch.compile(objective, fullgraph=True, dynamic=False)
    return lambda *args: graph(*map(without_seed, args))


def without_seed(argument: Any) -> Any:
    """An argument of a loss with 0 in the place of a seed: a number, or the `dropout_seed` of draws."""
    if isinstance(argument, int):
        return 0
    return argument._replace(dropout_seed=0) if hasattr(argument, "dropout_seed") else argument


def check_budget(total_images: int) -> None:
    """Raise ValueError for a run of no images."""
    if total_images < 1:
        raise ValueError(f"total_images={total_images}: a run sees at least one image")


def step_draws(module: Any, x0: Tensor, position: int | None = None) -> Draws:
    """The random numbers of a step for the slice x0 (B, ...) of the global batch that this process holds.

    `position` stands in the place of the images seen, so that a validation batch always meets the same noise.
    """
    trainer = getattr(module, "_trainer", None)  # without a Trainer, this process holds the whole batch
    rank, world_size = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
    return Draws(module.seed, module.images_seen if position is None else position, x0.device, rank, world_size)


def log_loss(module: Any, name: str, batch: tuple[Tensor, Tensor | None], position: int) -> None:
    """Log the mean loss of a batch over all processes, at the random draws of `position`."""
    loss = module.loss(*batch, position=position).mean()
    module.log(name, loss, batch_size=len(batch[0]), sync_dist=True, logger=False)


class CountImages(Callback):
    """Counts the images of the global batch, keeps the count in the checkpoint, stops at `total_images`.

    Steps are no measure: with two optimizers `trainer.global_step` counts both, and a step's size is the batch's.
    """

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.world_size > 1:  # a shared folder may show a new file to some hosts before the others
            first = trainer.strategy.broadcast(pl_module.images_seen)
            if trainer.strategy.reduce_boolean_decision(first != pl_module.images_seen, all=False):
                raise CheckpointError("the processes go on from different checkpoints: name one by --ckpt_path")
        if pl_module.images_seen >= pl_module.total_images:
            rank_zero_info(f"The run is complete: {pl_module.images_seen:,} of {pl_module.total_images:,} images seen.")
            trainer.should_stop = True  # the loop asks before its first step

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        pl_module.images_seen += len(batch[0]) * trainer.world_size
        if pl_module.images_seen >= pl_module.total_images:
            trainer.should_stop = True

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["images_seen"] = pl_module.images_seen

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        pl_module.images_seen = checkpoint["images_seen"]


class MeasureTime(Callback):
    """Keeps the seconds spent in training in the checkpoint, over all its resumed parts.

    It is rank 0's wall clock since the first step was asked for, without validation and what is drawn then. What comes
    before the first step is not in it: reading a teacher, or making pairs with it in advance. Checkpoints from before
    it was measured count as 0 seconds.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.since: float | None = None
        """When the clock was started; None while it stands still."""

    @property
    def total(self) -> float:
        """Seconds until now."""
        return self.seconds + (0.0 if self.since is None else time.perf_counter() - self.since)

    def _pause(self) -> None:
        self.seconds, self.since = self.total, None

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.since = time.perf_counter()  # again, after the sanity check

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._pause()

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.since = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._pause()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["training_seconds"] = self.total

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self.seconds = checkpoint.get("training_seconds", 0.0)


class UpdateAverages(Callback):
    """Updates the averaged weights after every optimizer step, before any checkpoint is written."""

    def __init__(self) -> None:
        self.step, self.images = 0, 0

    @staticmethod
    def steps(trainer: Trainer, pl_module: Any) -> int:
        """Optimizer steps of the network that is averaged: global_step would count a discriminator's too."""
        return getattr(pl_module, "generator_steps", trainer.global_step)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.step, self.images = self.steps(trainer, pl_module), 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.images += len(batch[0]) * trainer.world_size
        step = self.steps(trainer, pl_module)
        if step > self.step:  # not in the middle of an accumulation
            pl_module.update_averages(pl_module.images_seen // self.images, self.images)
            self.step, self.images = step, 0


class SkipNonFinite(Callback):
    """Skips a step whose gradient is not finite, on all ranks, and stops the run after `patience` in a row.

    The gradient is the same on all ranks after DDP's reduction, so every rank takes the same decision. A fused
    optimizer (Adam, AdamW, SGD with fused: true) and `lightning_modules.RAdam` skip by a flag that never leaves the
    device (`found_inf`, torch's own mechanism under a GradScaler); for others the host waits for the flag each step.
    Of two networks each is counted by itself, and `grad_norm` is the first one's, the generator's.

    Args:
        patience: skipped steps in a row after which the run stops.
        every_n_steps: how often the host reads the counts.
    """

    def __init__(self, patience: int = 20, every_n_steps: int = 20):
        if patience < 1 or every_n_steps < 1:
            raise ValueError(f"patience={patience}, every_n_steps={every_n_steps}: both must be at least 1")
        self.patience, self.every_n_steps = patience, every_n_steps
        self.reported = 0
        self.grad_norm = torch.zeros(())
        self.skipped = torch.zeros(2, dtype=torch.int64)  # in all, and in a row by optimizer
        self.optimizers: list[torch.optim.Optimizer] = []

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.optimizers = trainer.optimizers
        rows = self.skipped.new_zeros(len(self.optimizers) - 1)
        self.skipped = torch.cat([self.skipped[:2], rows]).to(pl_module.device)  # spawned processes share the old one

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms = torch._foreach_norm([p.grad for p in parameters])
        norm = whole(torch.linalg.vector_norm(torch.stack(norms)))
        place = next((i for i, known in enumerate(self.optimizers) if known is optimizer), 0)
        if place == 0:
            self.grad_norm = norm
        bad = ~norm.isfinite()
        self.skipped[0] += bad
        self.skipped[1 + place] = torch.where(bad, self.skipped[1 + place] + 1, 0)
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            optimizer.found_inf, optimizer.grad_scale = bad.float(), None  # type: ignore[attr-defined]
        elif bool(bad):
            for parameter in parameters:
                parameter.grad = None  # an optimizer leaves a parameter without gradient, and its state, alone

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (batch_idx + 1) % self.every_n_steps == 0:
            self._read_counts(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._read_counts(pl_module)

    def _read_counts(self, pl_module: Any) -> None:
        total, *rows = self.skipped.tolist()
        row = max(rows)
        if total > self.reported:
            rank_zero_warn(f"{total - self.reported} steps with a non-finite gradient were skipped ({total} in all).")
            self.reported = total
        if row >= self.patience:
            raise FloatingPointError(
                f"{row} steps in a row had a non-finite gradient, at {pl_module.images_seen} images; "
                f"the last checkpoint is whole, since no such step was taken"
            )


class ChannelsLast(Callback):
    """In float32 on a CPU, the weights of convolutions in the memory format that oneDNN computes in.

    A U-Net's training step is then about 1.15 times as fast; under bfloat16 autocast it would be slower
    (docs/results.md).
    """

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        if trainer.strategy.root_device.type == "cpu" and trainer.precision == "32-true":
            pl_module.to(memory_format=torch.channels_last)


def run_callbacks() -> list[Callback]:
    """What `configure_callbacks` of every method returns."""
    return [ChannelsLast(), SkipNonFinite(), UpdateAverages(), CountImages(), MeasureTime()]
