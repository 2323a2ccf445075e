"""Networks: `Net(image_shape, num_classes, *, ...)` with `forward(x, c_noise, label=None, c_target=None)`."""

from networks.mlp import MLP
from networks.unet import UNet

__all__ = ["MLP", "UNet"]
