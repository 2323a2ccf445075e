"""What a run says at its start and at its end."""

import shlex
import time
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer

from cli.checkpoints import KeepCheckpoints, program
from cli.restore_operators import task_of
from cli.sample import default_steps
from diffusion.denoisers import BesideChannels
from evaluation.dashboard_writer import Method


class RunReport(Callback):
    """Prints where and with what a run trains, and at its end where the checkpoint is and what can be done with it.

    Args:
        directory: of the run, None if it keeps nothing.
        checkpoints: the callback that writes them.
    """

    def __init__(self, directory: Path | None, checkpoints: KeepCheckpoints):
        self.directory, self.checkpoints = directory, checkpoints
        self.start = (0.0, 0)

    def on_fit_start(self, trainer: Trainer, pl_module: Method) -> None:
        if trainer.is_global_zero:
            network = pl_module.denoiser.network
            parameters = sum(p.numel() for p in network.parameters())
            network = network.network if isinstance(network, BesideChannels) else network
            print(f"device:   {describe_device(trainer)}, precision {trainer.precision}")
            print(f"network:  {type(network).__name__}, {parameters:,} parameters, in {type(pl_module).__name__}")
            if hasattr(pl_module, "critic"):
                judge = pl_module.critic.network
                print(f"against:  {type(judge).__name__}, {sum(p.numel() for p in judge.parameters()):,} parameters")
            print(f"run:      {self.directory or 'nothing is kept'}", flush=True)

    def on_train_start(self, trainer: Trainer, pl_module: Method) -> None:
        self.start = (time.monotonic(), pl_module.images_seen)

    def on_fit_end(self, trainer: Trainer, pl_module: Method) -> None:
        then, images = self.start
        seconds, new = time.monotonic() - then, pl_module.images_seen - images
        if not trainer.is_global_zero or new == 0:
            return
        print(f"trained on {new:,} images in {duration(seconds)}, {new / seconds:,.0f} images/s")
        if last := self.checkpoints.last:
            steps = default_steps(pl_module)
            commands = ["test --ckpt_path {}", f"sample --ckpt_path {{}} --seeds 0-63 --steps {steps} --out samples/"]
            if hasattr(pl_module, "restore"):
                commands = [f"restore --ckpt_path {{}} --task {task_of(pl_module.operator) or 'TASK'}"]
            if hasattr(pl_module, "invert"):
                commands.append("invert --ckpt_path {} --seeds 0-15")
            print(f"checkpoint: {last}\nnext:")
            for command in commands:
                print(f"  {program()} {command.format(shlex.quote(str(last)))}")
            print(f"  tensorboard --logdir {shlex.quote(str(trainer.default_root_dir))}", flush=True)


def duration(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def describe_device(trainer: Trainer) -> str:
    """The device's kind and name, and how many processes there are."""
    device = trainer.strategy.root_device
    name = f"{torch.cuda.get_device_name(device)} (cuda)" if device.type == "cuda" else device.type
    if device.type == "cpu":
        name += f" ({torch.get_num_threads()} threads)"
    return f"{trainer.world_size} x {name}" if trainer.world_size > 1 else name
