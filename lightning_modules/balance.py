"""A weight that keeps one term of a loss as strong as another, by their gradients at the network's last layer."""

import torch
import torch.distributed as dist
from torch import Tensor, nn


def last_weight(network: nn.Module) -> nn.Parameter:
    """The weight of the layer that gives a network's output: the last matrix or kernel that was registered.

    Raises:
        ValueError: the network has no parameter with two axes or more.
    """
    weights = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    if not weights:
        raise ValueError(f"{type(network).__name__} has no weight of two axes or more whose gradient could be measured")
    return weights[-1]


def gradient_ratio(first: Tensor, second: Tensor, weight: Tensor, limit: float = 1e4) -> Tensor:
    """min(|d first/d weight| / (|d second/d weight| + 1e-4), limit), without gradient.

    Esser et al. 2021 (VQGAN, arXiv 2012.09841, eq. 7), with the constants of sony/ctm at 87cca3b. The gradients are
    averaged over all processes before their norms are taken, so that the ratio is that of the global batch, the same
    for any number of processes.

    Args:
        first, second: means over this process's images, scalars; their graphs are kept.
        weight: what both depend on.
        limit: the largest ratio.
    """
    gradients = torch.stack([torch.autograd.grad(term, weight, retain_graph=True)[0] for term in (first, second)])
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(gradients)
        gradients /= dist.get_world_size()
    one, other = gradients.flatten(1).norm(dim=1)
    return (one / (other + 1e-4)).clamp(max=limit)
