"""Networks: `Net(image_shape, num_classes, *, ...)` with `forward(x, c_noise, label=None, ...)`.

Of generators and diffusion models the output is an image, and `c_target` and `latent` may be given as well; of
discriminators the output is logits.
"""

from networks.conv_discriminator import ConvDiscriminator
from networks.encoder_discriminator import UNetEncoderDiscriminator
from networks.mlp import MLP
from networks.mlp_discriminator import MLPDiscriminator
from networks.unet import UNet
from networks.unet_discriminator import UNetDiscriminator

__all__ = ["MLP", "ConvDiscriminator", "MLPDiscriminator", "UNet", "UNetDiscriminator", "UNetEncoderDiscriminator"]
