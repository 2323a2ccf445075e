"""What methods share that are trained on pairs of clean and damaged images, `i2sb.py` and `palette.py`.

They restore what one operator does to images, the one of their training: a module's `restore(y, noise, steps, label)`
takes a measurement. They have no images of their own, so that `sample` refuses.
"""

from collections.abc import Callable
from typing import NoReturn, Protocol

from torch import Tensor, nn

from diffusion.denoisers import BesideChannels, Denoise
from diffusion.rng import Draws


class Operator(Protocol):
    """What is done to images, as `tasks.operators.Operator`; images (B, C, H, W) in [-1, 1], y (B, ...)."""

    def observe(self, x: Tensor, noise: Callable[[], Tensor]) -> Tensor:
        """The measurement y of x, with its noise, for which `noise` gives standard normal numbers like x."""

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """An image (B, C, H, W) of a measurement."""

    def shown(self, y: Tensor) -> Tensor:
        """A measurement as an image (B, C, H, W) to look at."""

    def unknown_part(self, x: Tensor) -> Tensor:
        """The part of noise x that no measurement tells."""

    def project(self, x0: Tensor, y: Tensor) -> Tensor:
        """x0 with what is known replaced."""


class NetworkFactory(Protocol):
    """A network whose output has fewer channels than its input."""

    def __call__(
        self, image_shape: tuple[int, int, int], num_classes: int, *, out_channels: int
    ) -> nn.Module: ...  # fmt: skip


def beside(network: NetworkFactory, image_shape: tuple[int, int, int], num_classes: int) -> BesideChannels:
    """A network for images of a shape (C, H, W) that is shown another such image beside."""
    channels, height, width = image_shape
    return BesideChannels(network((2 * channels, height, width), num_classes, out_channels=channels))


def damaged(operator: Operator, x0: Tensor, draws: Draws) -> Tensor:
    """What images x0 (B, C, H, W) become by an operator and its pseudo-inverse, at the noise of a training step."""
    return operator.pseudo_inverse(operator.observe(x0, lambda: draws.normal_like(x0, "measurement")))


def keeping_known(denoise: Denoise, operator: Operator, y: Tensor) -> Denoise:
    """`denoise` with what is known of y replaced in every estimate of x0."""
    return lambda x, sigma, label=None: operator.project(denoise(x, sigma, label), y)


def refuse_sampling(module: nn.Module) -> NoReturn:
    """Raise ValueError: such a model restores, and makes no images of its own."""
    raise ValueError(f"{type(module).__name__} makes no images of its own: it restores (python main.py restore)")
