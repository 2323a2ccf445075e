"""What is read of a file of weights, whoever wrote it: a U-Net of ours and the levels that it was trained for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from diffusion.denoisers import Denoiser
from networks.unet import UNet
from weights.table import WeightsError


@dataclass(frozen=True)
class Levels:
    """sigma_data, sigma_min and sigma_max of a denoiser; None where a file does not tell."""

    sigma_data: float | None = None
    sigma_min: float | None = None
    sigma_max: float | None = None

    def known(self) -> dict[str, float]:
        """Those that are not None."""
        return {name: value for name, value in vars(self).items() if value is not None}


def channel_mult(wide: Sequence[int], channels: int) -> list[int]:
    """The factor of each level's channels.

    Raises:
        WeightsError: they are not multiples of the first level's.
    """
    if any(width % channels for width in wide):
        raise WeightsError(f"the levels have {list(wide)} channels: not multiples of the first {channels}")
    return [width // channels for width in wide]


@dataclass(frozen=True)
class Shape:
    """A U-Net of ours, told but not built.

    Args:
        image_shape: (C, H, W).
        num_classes: 0 for an unconditional network.
        arguments: the others of `UNet`.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def outline(self) -> UNet:
        """The network without memory for its weights.

        Raises:
            WeightsError: the arguments do not go together.
        """
        try:
            with torch.device("meta"):
                return UNet(self.image_shape, self.num_classes, **self.arguments)
        except ValueError as error:
            raise WeightsError(str(error)) from None


@dataclass(frozen=True)
class Official:
    """A denoiser read from another project's file.

    Args:
        shape: of its network.
        state: the network's state dict, by our names.
        denoiser: the class whose scalings it was trained with.
        levels: as far as the file tells them.
    """

    shape: Shape
    state: dict[str, Tensor]
    denoiser: type[Denoiser]
    levels: Levels = field(default_factory=Levels)
