"""A table of which of our tensors is which of another project's, read in both directions."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_modules.checkpoint import some
from networks.blocks import ResidualBlock, SelfAttention


class WeightsError(ValueError):
    """Weights that cannot be taken in or given out; the message is one line."""


class Row(NamedTuple):
    """One tensor of ours and those of theirs that it is made of.

    `join` makes ours of theirs, `split` theirs of ours; where nothing else is said the values are the same.
    """

    ours: str
    theirs: tuple[str, ...]
    join: Callable[[Sequence[Tensor]], Tensor] = lambda given: given[0]
    split: Callable[[Tensor], Sequence[Tensor]] = lambda tensor: [tensor]


Table = list[Row]


def layer(ours: str, theirs: str, leaves: Sequence[str] = ("weight", "bias")) -> Iterator[Row]:
    """The rows of a layer whose weight and bias are the same on both sides."""
    for leaf in leaves:
        yield Row(f"{ours}.{leaf}", (f"{theirs}.{leaf}",))


def block_rows(
    unet: nn.Module,
    places: Mapping[str, str],
    residual: Mapping[str, str],
    attention: Callable[[str, str, SelfAttention], Iterable[Row]],
) -> Iterator[Row]:
    """The rows of all residual blocks and attentions.

    Args:
        unet: ours.
        places: name of each block of ours -> where theirs is.
        residual: our name of a residual block's layer -> theirs.
        attention: (our name, their place, block) -> rows; every project orders queries, keys and values anew.
    """
    for name, module in unet.named_modules():
        if isinstance(module, ResidualBlock):
            for mine, theirs in residual.items():
                if not isinstance(getattr(module, mine), nn.Identity):
                    yield from layer(f"{name}.{mine}", f"{places[name]}.{theirs}")
        elif isinstance(module, SelfAttention):
            yield from attention(name, places[name], module)


def to_ours(table: Table, state: Mapping[str, Tensor], unet: nn.Module, ignored: Iterable[str] = ()) -> dict:
    """Our state dict (float32) of theirs.

    Args:
        table: see `Row`.
        state: theirs.
        unet: ours, for names and shapes; it may be on the meta device.
        ignored: keys of theirs that mean nothing to us.

    Raises:
        WeightsError: theirs are not the weights of such a network.
    """
    wanted = [key for row in table for key in row.theirs]
    if lacking := [key for key in wanted if key not in state]:
        raise WeightsError(f"the weights lack {some(lacking)}")
    if beside := sorted(set(state) - set(wanted) - set(ignored)):
        raise WeightsError(f"the weights have {some(beside)} beside those of the network that their shapes tell")
    own = unet.state_dict()
    ours = {}
    for row in table:
        tensor = row.join([state[key].detach().to(torch.float32) for key in row.theirs])
        if tensor.shape != own[row.ours].shape:
            raise WeightsError(f"{row.theirs[0]} is {tuple(tensor.shape)} where {tuple(own[row.ours].shape)} is needed")
        ours[row.ours] = tensor.contiguous()
    buffers = {key for key, _ in unet.named_buffers()}
    if unset := sorted(set(own) - set(ours) - buffers):
        raise WeightsError(f"nothing in the weights tells {some(unset)}")
    return ours


def to_theirs(table: Table, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their state dict of ours."""
    theirs = {}
    for row in table:
        for key, tensor in zip(row.theirs, row.split(state[row.ours]), strict=True):
            theirs[key] = tensor.contiguous()
    return theirs
