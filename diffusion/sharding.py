"""Weights that are divided among processes by FSDP2: whole numbers of them, and all of them for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.func import functional_call


def whole(x: Tensor) -> Tensor:
    """A tensor that is divided among processes, put together on each of them; any other as it is.

    All processes call it together.
    """
    return x.full_tensor() if isinstance(x, DTensor) else x


def divided_like(x: Tensor, held: Tensor) -> Tensor:
    """This process's part of `x`, which every process has, where `held` is divided; else `x` as it is."""
    if not isinstance(held, DTensor) or isinstance(x, DTensor) or x.shape != held.shape:
        return x
    x = x.to(held.device)
    return distribute_tensor(x, held.device_mesh, held.placements, src_data_rank=None)  # nothing is sent


def is_divided(model: nn.Module) -> bool:
    """Whether weights of `model` are divided among processes."""
    return any(isinstance(part, FSDPModule) for part in model.modules())


def frozen_pass(model: nn.Module, *inputs: Tensor | None) -> Tensor:
    """`model(*inputs)`, whose weights get no gradient, while its inputs do."""
    if not is_divided(model):
        return functional_call(
            model, {name: parameter.detach() for name, parameter in model.named_parameters()}, inputs
        )
    with _frozen(model):
        return model(*inputs)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """FSDP puts the whole weights of a part in the place of any others for its pass: these are frozen then."""
    held: dict[nn.Module, list[nn.Parameter]] = {}

    def freeze(part: nn.Module, inputs: object) -> None:
        held[part] = [p for p in part.parameters() if p.requires_grad and not isinstance(p, DTensor)]
        for p in held[part]:
            p.requires_grad_(False)

    def release(part: nn.Module, inputs: object, output: object) -> None:
        for p in held.pop(part):
            p.requires_grad_(True)

    handles = []
    for part in model.modules():
        if isinstance(part, FSDPModule):  # after FSDP's own hook, which puts the weights together
            handles += [part.register_forward_pre_hook(freeze), part.register_forward_hook(release)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Inside the block every process holds all weights of `model`, and a pass through it waits for no other process.

    All processes enter together, and none trains inside. Where nothing is divided it does nothing.
    """
    parts = [part for part in model.modules() if isinstance(part, FSDPModule)]
    with torch.inference_mode(False):  # the weights take part in training afterwards
        for part in parts:
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(True, recurse=False)
            part.reshard()
