"""What started the processes of a run, and whether the Trainer knows of all of them."""

import os

from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch import Trainer

from cli.errors import UsageError

TORCHRUN, SLURM = "torchrun", "SLURM"


def started_by() -> str | None:
    """torchrun, also inside a SLURM job; SLURM, by `srun`; or None for a process that a user started."""
    if TorchElasticEnvironment.detect():
        return TORCHRUN
    if "SLURM_PROCID" in os.environ and SLURMEnvironment.detect():
        return SLURM
    return None


def slurm_environment() -> SLURMEnvironment:
    """SLURM's without Lightning's handler of SIGUSR1, which saves in the middle of a step and goes on training.

    Raises:
        UsageError: the job names its tasks in a way that does not tell how many there are on a host.
    """
    try:
        return SLURMEnvironment(auto_requeue=False)
    except RuntimeError as error:
        raise UsageError(str(error)) from None


def check_launch(trainer: Trainer) -> None:
    """See that a Trainer takes as many processes as were started: else each would train by itself, in one directory.

    Raises:
        UsageError: naming the options that it needs.
    """
    launcher = started_by()
    if launcher is None:
        return
    variable, on_host = {
        TORCHRUN: ("WORLD_SIZE", "LOCAL_WORLD_SIZE"),
        SLURM: ("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE"),
    }[launcher]
    started = int(os.environ[variable])
    if started == trainer.world_size:
        return
    devices = int(os.environ.get(on_host, started))
    raise UsageError(
        f"{launcher} started {started} processes, and the Trainer takes {trainer.world_size}: add --trainer.devices "
        f"{devices} --trainer.num_nodes {started // devices} --trainer.strategy ddp"
    )
