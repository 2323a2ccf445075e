"""The mapping network of a generator's latent variable."""

from torch import Tensor, nn


class MappingNetwork(nn.Module):
    """z / sqrt(mean z^2 + 1e-8), then `layers + 1` times a linear layer and SiLU.

    StyleGAN's mapping (Karras et al. 2019, arXiv 1812.04948) as in DDGAN's released code (Xiao et al. 2022, arXiv
    2112.07804).

    Note: the weights start as He et al.'s (2015, arXiv 1502.01852), so that z moves the result by 0.1 to 0.6 for one to
    eight layers; a fresh level embedding varies by 0.1. With DDGAN's Xavier weights SiLU shrinks it to a few hundredths
    after four layers.

    Args:
        latent_size: numbers in z, >= 1.
        out_channels: of every layer.
        layers: after the first, >= 0.

    Raises:
        ValueError: an argument outside these ranges.
    """

    def __init__(self, latent_size: int, out_channels: int, layers: int = 4):
        super().__init__()
        if latent_size < 1:
            raise ValueError(f"latent_size={latent_size}: 0 for a network without a latent, else at least 1")
        if layers < 0:
            raise ValueError(f"mapping_layers={layers}: it must be >= 0")
        linear = [nn.Linear(out_channels if i else latent_size, out_channels) for i in range(layers + 1)]
        for layer in linear:
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        self.layers = nn.ModuleList(linear)

    def forward(self, latent: Tensor) -> Tensor:
        """latent (B, latent_size), standard normal -> (B, out_channels)."""
        h = latent * (latent.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        for layer in self.layers:
            h = nn.functional.silu(layer(h))
        return h
