"""Embeddings of noise levels and classes."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from networks.latent import MappingNetwork
from networks.loading import load_parts


class PositionalEmbedding(nn.Module):
    """cos and sin of `scale * c` at frequencies falling geometrically from 1 to 1/max_period.

    Vaswani et al. 2017 (arXiv 1706.03762) as DDPM++ uses it; with scale 1 it varies slowly, which consistency training
    wants (Lu & Song 2024, arXiv 2410.11081, sec. 4.1).

    Args:
        channels: size of the embedding, even.
        scale: factor of the input; 1000 where a network was trained on 250 ln(sigma), as OpenAI's and BCM's.
        max_period: the slowest frequency is 1/max_period; >= 1.
        endpoint: the last frequency is 1/max_period, as in EDM's DDPM++, and not one step above it.

    Raises:
        ValueError: `channels` is odd, or 2 with `endpoint`; or `max_period` is below 1.
    """

    def __init__(self, channels: int, scale: float = 1.0, max_period: float = 10_000.0, endpoint: bool = False):
        super().__init__()
        if channels < 2 or channels % 2:
            raise ValueError(f"channels={channels}: cos and sin need an even number of them, at least 2")
        if max_period < 1:
            raise ValueError(f"max_period={max_period}: it must be >= 1")
        if endpoint and channels < 4:
            raise ValueError(f"channels={channels}: two frequencies with their ends need at least 4")
        self.channels, self.scale, self.max_period, self.endpoint = channels, scale, max_period, endpoint

    def forward(self, c: Tensor) -> Tensor:
        """c (B,) -> (B, channels) in the precision of c, float32 at least."""
        half = self.channels // 2
        steps = half - self.endpoint
        dtype = torch.promote_types(c.dtype, torch.float32)
        exponents = torch.arange(half, device=c.device, dtype=dtype) * (-math.log(self.max_period) / steps)
        angle = c.to(dtype)[:, None] * (self.scale * exponents.exp())
        return torch.cat([angle.cos(), angle.sin()], dim=1)


class FourierEmbedding(nn.Module):
    """cos and sin of `2 pi b c` at fixed random frequencies b ~ N(0, scale^2) (Tancik et al. 2020, arXiv 2006.10739).

    NCSN++ has scale 16, which makes consistency training unstable; 0.02 does not (arXiv 2410.11081, sec. 4.1).

    Args:
        channels: size of the embedding, even.
        scale: standard deviation of the frequencies.

    Raises:
        ValueError: `channels` is odd.
    """

    frequencies: Tensor

    def __init__(self, channels: int, scale: float = 0.02):
        super().__init__()
        if channels < 2 or channels % 2:
            raise ValueError(f"channels={channels}: cos and sin need an even number of them, at least 2")
        self.register_buffer("frequencies", 2 * math.pi * scale * torch.randn(channels // 2))

    def forward(self, c: Tensor) -> Tensor:
        """c (B,) -> (B, channels) in the precision of c, float32 at least."""
        angle = c.to(torch.promote_types(c.dtype, torch.float32))[:, None] * self.frequencies
        return torch.cat([angle.cos(), angle.sin()], dim=1)


def _mlp(channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels, out_channels), nn.SiLU(), nn.Linear(out_channels, out_channels))


class LevelEmbedding(nn.Module):
    """Embedding of one noise level, or of two for a bidirectional network, of a class and of a latent.

    e = MLP_t(pos(c_noise)), or W [MLP_t(pos(c_noise)); MLP_u(pos(c_target))] with W without bias, starting as [I; 0]:
    so the target level has no effect at first, and a network tuned from a consistency model starts exactly at it
    (BCM, Li & He 2024, arXiv 2403.18035, as in its official code). The class's embedding is added;
    no class, label -1 as guidance needs it, adds nothing. A latent z is added by way of its mapping network: in DDGAN
    (Xiao et al. 2022, arXiv 2112.07804) z alone gives scale and shift, here level, class and z share them.

    Args:
        channels: size of the positional embedding.
        out_channels: size of the result.
        num_classes: 0 for none.
        bidirectional: whether there is a target level.
        scale, max_period: of the positional embedding.
        fourier_scale: of a random Fourier embedding in its place; None for the positional one.
        latent_size: numbers in the latent; 0 for none.
        mapping_layers: of the latent's `MappingNetwork`, after its first.
        endpoint: of the positional embedding.
        label_first: the class's embedding is added before MLP_t, as in EDM's DDPM++.

    Raises:
        ValueError: an argument outside these ranges.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        num_classes: int = 0,
        bidirectional: bool = False,
        scale: float = 1.0,
        max_period: float = 10_000.0,
        fourier_scale: float | None = None,
        latent_size: int = 0,
        mapping_layers: int = 4,
        endpoint: bool = False,
        label_first: bool = False,
    ):
        super().__init__()
        if num_classes < 0:
            raise ValueError(f"num_classes={num_classes}: 0 for an unconditional network, else the number of classes")
        if label_first and bidirectional:
            raise ValueError("label_first: a network with two noise levels takes its class after them")
        self.num_classes, self.bidirectional, self.latent_size = num_classes, bidirectional, latent_size
        self.label_first = label_first
        self.position: nn.Module = (
            PositionalEmbedding(channels, scale, max_period, endpoint)
            if fourier_scale is None
            else FourierEmbedding(channels, fourier_scale)
        )
        self.noise_mlp = _mlp(channels, out_channels)
        if bidirectional:
            self.target_mlp = _mlp(channels, out_channels)
            self.join = nn.Linear(2 * out_channels, out_channels, bias=False)
            self.reset_join()
        if num_classes:
            self.label = nn.Embedding(num_classes, channels if label_first else out_channels)
            # near the size of a fresh MLP_t's output, so that neither drowns the other
            nn.init.normal_(self.label.weight, std=0.2)
        if latent_size:
            self.mapping = MappingNetwork(latent_size, out_channels, mapping_layers)

    @torch.no_grad()
    def reset_join(self) -> None:
        """W = [I; 0]."""
        held = self.join.weight
        eye = torch.eye(self.join.out_features, device=held.device)
        weight = torch.cat([eye, torch.zeros_like(eye)], dim=1)
        if isinstance(held, DTensor):  # of a network whose weights are divided among processes
            weight = distribute_tensor(weight, held.device_mesh, held.placements, src_data_rank=None)
        held.copy_(weight)

    def forward(
        self, c_noise: Tensor, label: Tensor | None, c_target: Tensor | None, latent: Tensor | None = None
    ) -> Tensor:
        """c_noise, c_target and label (B,), latent (B, latent_size) -> (B, out_channels); label -1 is no class.

        Raises:
            ValueError: something is missing that the network was built for, or given that it was not.
        """
        if self.bidirectional != (c_target is not None):
            need = "needs" if self.bidirectional else "takes no"
            raise ValueError(f"this network {need} c_target: it was built with bidirectional={self.bidirectional}")
        if bool(self.num_classes) != (label is not None):
            raise ValueError(
                f"this network was built with num_classes={self.num_classes}: "
                f"{'a label is needed' if self.num_classes else 'it takes no label'}"
            )
        if bool(self.latent_size) != (latent is not None):
            raise ValueError(
                f"this network was built with latent_size={self.latent_size}: "
                f"{'a latent is needed' if self.latent_size else 'it takes no latent'}"
            )
        of_class = None if label is None else self.label(label.clamp(min=0)) * (label >= 0)[:, None]
        position = self.position(c_noise)
        embedding = self.noise_mlp(position + of_class if self.label_first and of_class is not None else position)
        if c_target is not None:
            embedding = self.join(torch.cat([embedding, self.target_mlp(self.position(c_target))], dim=1))
        if of_class is not None and not self.label_first:
            embedding = embedding + of_class
        if latent is not None:
            embedding = embedding + self.mapping(latent)
        return embedding


def load_unidirectional(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a one-level network's weights into the bidirectional `network` of the same shape.

    MLP_u becomes a copy of MLP_t and W = [I; 0], as BCM's tuning does: the outputs are then the one-level network's.

    Args:
        network: with `bidirectional=True`.
        state: the state dict of the same network with `bidirectional=False`.

    Raises:
        ValueError: `network` has one level only; or keys or shapes other than those of the second level differ.
    """
    prefix, embedding = next((name, m) for name, m in network.named_modules() if isinstance(m, LevelEmbedding))
    if not embedding.bidirectional:
        raise ValueError("this network was built with bidirectional=False: use load_state_dict")
    load_parts(network, state, "one-level", own=(f"{prefix}.target_mlp.", f"{prefix}.join."))
    embedding.target_mlp.load_state_dict(embedding.noise_mlp.state_dict())
    embedding.reset_join()
