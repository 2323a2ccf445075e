"""FSDP2: a network that is too large for one device, its weights, gradients and optimizer divided among the processes.

Lightning's own strategy for it (`ModelParallelStrategy`) wants the sharding in every module's `configure_model`, reads
and writes checkpoints past the `CheckpointIO`, and keys optimizer states by name; this one is DDP's with the weights
divided in the place of copied, and its checkpoints are those of one process.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from diffusion.denoisers import Denoiser
from diffusion.sharding import divided_like, gathered, whole


class FullySharded(DDPStrategy):
    """Divides every denoiser's weights among all processes (FSDP2, `torch.distributed.fsdp.fully_shard`) while it fits.

    Of the student, its averages and its target a process holds 1/W; a block's weights are put together for its pass and
    for the backward pass. A teacher that is read from a path is not divided. A checkpoint holds whole tensors and is
    the one that DDP or a single process would write: either goes on from the other's. While validation runs, every
    process holds all weights, and while samples are drawn those of the averages. `validate` and `test` divide nothing.

    Raises:
        ValueError: two networks that play against each other; a compiled loss; or CTM's adaptive weight.
    """

    def configure_ddp(self) -> None:
        """In the place of DDP's wrapper, before the optimizers are built."""
        module = self.lightning_module
        assert module is not None
        check_divisible(module)
        divide(module, self.root_device.type)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Whole tensors; on the CPU of the first process alone."""
        assert self.lightning_module is not None
        return self._whole(self.lightning_module.state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Whole tensors, by the number of the parameter as in any checkpoint."""
        return self._whole(super().optimizer_state(optimizer))

    def _whole(self, state: dict[str, Any]) -> dict[str, Any]:
        """Tensor by tensor, so that no device holds all of them at once."""

        def put_together(x: Tensor) -> Tensor:
            together = whole(x.detach())
            return together.cpu() if self.is_global_zero else torch.empty(0)

        return tree_map_only(Tensor, put_together, state)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Divide what a checkpoint holds as the weights are."""
        states = []
        for optimizer, held in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            numbers = [i for group in held["param_groups"] for i in group["params"]]
            of = dict(zip(numbers, parameters, strict=True))
            parts = {
                i: {name: divided_like(x, of[i]) if isinstance(x, Tensor) else x for name, x in values.items()}
                for i, values in held["state"].items()
            }
            states.append({**held, "state": parts})
        super().load_optimizer_state_dict({**checkpoint, "optimizer_states": states})

    def on_validation_start(self) -> None:
        """From here every process has all weights: the processes may have different numbers of batches."""
        assert self.lightning_module is not None
        self._validating = gathered(self.lightning_module)
        self._validating.__enter__()

    def on_validation_end(self) -> None:
        self._validating.__exit__(None, None, None)


def check_divisible(module: LightningModule) -> None:
    """Refuse what computes otherwise where no process has all weights.

    Raises:
        ValueError: two networks that play against each other; a compiled loss; or CTM's adaptive weight.
    """
    if not module.automatic_optimization:
        raise ValueError(
            f"FullySharded takes methods of one network, and a {type(module).__name__} has two: use "
            f"--trainer.strategy ddp"
        )
    if module.hparams.get("compile"):
        raise ValueError("FullySharded: set --model.init_args.compile false: a loss is compiled as one graph")
    if getattr(module, "adaptive", False):
        raise ValueError(
            "FullySharded: set --model.init_args.adaptive false: no process has the last layer's whole gradient"
        )


def divide(module: LightningModule, device_type: str) -> None:
    """Divide the weights of every denoiser in a module among all processes: block by block, then what is left."""
    mesh = init_device_mesh(device_type, (dist.get_world_size(),))
    for denoiser in [part for part in module.modules() if isinstance(part, Denoiser)]:
        network = denoiser.network.to(memory_format=torch.contiguous_format)
        for weights in network.state_dict().values():
            dist.broadcast(weights, 0)
        blocks = [block for part in network.modules() if isinstance(part, nn.ModuleList) for block in part]
        for part in (*reversed(blocks), network):  # the inner ones first
            if any(True for _ in part.parameters()):
                fully_shard(part, mesh=mesh, reshard_after_forward=True)
