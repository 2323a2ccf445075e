"""Distances between images: (B, ...), (B, ...) -> (B,)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class SquaredL2:
    """Mean over the elements of (a - b)^2."""

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).square().flatten(1).mean(1)


@dataclass(frozen=True)
class L1:
    """Mean over the elements of |a - b|."""

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).abs().flatten(1).mean(1)


@dataclass(frozen=True)
class PseudoHuber:
    """d(a, b) = sqrt(||a - b||^2 + c^2) - c on the norm of the whole image (iCT, arXiv 2310.14189, sec. 3.3).

    Args:
        c_factor: c = c_factor sqrt(dim); the paper's 0.00054 gives 0.030 for CIFAR-10. It must be > 0: at c = 0 the
            gradient at a = b is not a number.
        per_root_dim: divide by sqrt(dim), as BCM's released code does and iCT does not.
    """

    c_factor: float = 0.00054
    per_root_dim: bool = False

    def __post_init__(self) -> None:
        if self.c_factor <= 0:
            raise ValueError(f"c_factor={self.c_factor}: it must be > 0, or the gradient at zero distance is NaN")

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        difference = (a - b).flatten(1)
        root_dim = math.sqrt(difference.shape[1])
        c = self.c_factor * root_dim
        # s/(sqrt(s + c^2) + c) is sqrt(s + c^2) - c without cancellation at small s
        square = difference.square().sum(1)
        distance = square / (torch.sqrt(square + c * c) + c)
        return distance / root_dim if self.per_root_dim else distance


class LPIPS:
    """Learned perceptual distance of images in [-1, 1] (Zhang et al. 2018, arXiv 1801.03924, eq. 1), in float32.

    d(a, b) = sum_l mean_hw w_l . (y_l(a) - y_l(b))^2, y_l the features of layer l scaled to norm 1 over the channels.

    The images are brought to `size` pixels by bilinear interpolation. In bfloat16, so under autocast, the rounding of
    the features would drown the difference of neighbouring points of a trajectory.

    Args:
        net_type: "vgg", "alex" or "squeeze": torchmetrics' network and w, and torchvision's weights of it, which are
            downloaded to $TORCH_HOME/hub/checkpoints unless they are there.
        size: side in pixels at which images are compared.

    Raises:
        ValueError: the weights are neither there nor to be downloaded.

    Note: not quite the loss of openai/consistency_models at e32b69e (arXiv 2303.01469): that is piq's LPIPS, with
    average pooling in the place of VGG's max pooling (replace_pooling=True), and it leaves images of 256 pixels and
    above as they are, which here are brought to `size` as well.
    """

    def __init__(self, net_type: Literal["vgg", "alex", "squeeze"] = "vgg", size: int = 224):
        from torchmetrics.functional.image.lpips import _NoTrainLpips
        from torchvision.models import get_model_weights

        backbones = {"vgg": "vgg16", "alex": "alexnet", "squeeze": "squeezenet1_1"}
        if net_type not in backbones:
            raise ValueError(f"net_type={net_type}: it is one of {', '.join(backbones)}")
        try:
            self.net = _NoTrainLpips(net=net_type)
        except OSError as error:
            url = get_model_weights(backbones[net_type]).DEFAULT.url
            file = f"{torch.hub.get_dir()}/checkpoints/{url.rpartition('/')[2]}"
            raise ValueError(
                f"LPIPS needs {file}, which is not there and could not be downloaded ({error}); "
                f"diffusion.distances.SquaredL2 is a distance that needs no weights"
            ) from error
        # Its own forward pass defines a class, which torch.compile refuses.
        self.layers = [part for part in self.net.net.modules() if isinstance(part, nn.Sequential)]
        self.size = size

    @torch.compiler.assume_constant_result  # so that the weights are moved while a graph is made, and not by the graph
    def _moved_to(self, device: torch.device) -> bool:
        self.net.to(device)
        return True

    def _features(self, x: Tensor) -> Iterator[Tensor]:
        """y_l for every l, of images (B, 1 or 3, H, W)."""
        x = F.interpolate(x.float(), size=(self.size, self.size), mode="bilinear").expand(-1, 3, -1, -1)
        x = self.net.scaling_layer(x)
        for layer in self.layers:
            x = layer(x)
            yield x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt()

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        self._moved_to(a.device)
        distance = torch.zeros(len(a), device=a.device)
        with torch.autocast(a.device.type, enabled=False):
            for w, p, q in zip(self.net.lins, self._features(a), self._features(b), strict=True):
                distance = distance + w((p - q).square()).mean((1, 2, 3))
        return distance
