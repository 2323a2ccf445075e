"""Dividing work among processes without padding: process r takes items r, r + W, r + 2W, ..."""

import torch
import torch.distributed as dist
from torch import Tensor


def place() -> tuple[int, int]:
    """This process's rank and the number of processes; (0, 1) without torch.distributed."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def strided(items: Tensor) -> Tensor:
    """This process's share of the items (N, ...), every process getting the same number.

    The last item is repeated where N is no multiple of the number of processes; `gather_strided` drops the copies.
    """
    rank, world_size = place()
    missing = -len(items) % world_size
    return torch.cat([items, items[-1:].expand(missing, *items.shape[1:])])[rank::world_size]


def everywhere(flag: bool) -> bool:
    """Whether a flag is set on every process: what all must agree on before they work together."""
    _, world_size = place()
    if world_size == 1:
        return flag
    flags = [False] * world_size
    dist.all_gather_object(flags, flag)
    return all(flags)


def gather_strided(share: Tensor, n: int) -> Tensor:
    """The n results in the order of the items that `strided` divided, on every process."""
    _, world_size = place()
    if world_size == 1:
        return share[:n]
    shares = [torch.empty_like(share) for _ in range(world_size)]
    dist.all_gather(shares, share.contiguous())
    return torch.stack(shares, dim=1).flatten(0, 1)[:n]
