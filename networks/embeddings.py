"""Embeddings of noise levels and classes."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PositionalEmbedding(nn.Module):
    """cos and sin of `scale * c` at frequencies falling geometrically from 1 to 1/max_period.

    Vaswani et al. 2017 (arXiv 1706.03762) as DDPM++ uses it; a small frequency range trains consistency models stably,
    a Fourier embedding of scale 16 does not (Lu & Song 2024, arXiv 2410.11081, sec. 4.1).

    Args:
        channels: size of the embedding, even.
        scale: factor of the input; 1000 where a network was trained on 250 ln(sigma), as OpenAI's and BCM's.
        max_period: the slowest frequency is 1/max_period.
    """

    def __init__(self, channels: int, scale: float = 1.0, max_period: float = 10_000.0):
        super().__init__()
        if channels < 2 or channels % 2:
            raise ValueError(f"channels={channels}: cos and sin need an even number")
        frequencies = torch.arange(channels // 2, dtype=torch.float32) / (channels // 2)
        self.register_buffer("frequencies", scale * max_period**-frequencies, persistent=False)

    def forward(self, c: Tensor) -> Tensor:
        """c (B,) -> (B, channels)."""
        angle = c.float()[:, None] * self.frequencies
        return torch.cat([angle.cos(), angle.sin()], dim=1)


def _mlp(channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels, out_channels), nn.SiLU(), nn.Linear(out_channels, out_channels))


class LevelEmbedding(nn.Module):
    """Embedding of one noise level, or of two for a bidirectional network, and of a class.

    e = MLP_t(pos(c_noise)), or W [MLP_t(pos(c_noise)); MLP_u(pos(c_target))] with W without bias, starting as [I; 0]:
    so the target level has no effect at first, and a network tuned from a consistency model starts exactly at it
    (BCM, Li & He 2024, arXiv 2403.18035, as in its official code). The class's embedding is added.

    Args:
        channels: size of the positional embedding.
        out_channels: size of the result.
        num_classes: 0 for none.
        bidirectional: whether there is a target level.
        scale, max_period: of the positional embedding.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        num_classes: int = 0,
        bidirectional: bool = False,
        scale: float = 1.0,
        max_period: float = 10_000.0,
    ):
        super().__init__()
        self.num_classes, self.bidirectional = num_classes, bidirectional
        self.position = PositionalEmbedding(channels, scale, max_period)
        self.noise_mlp = _mlp(channels, out_channels)
        if bidirectional:
            self.target_mlp = _mlp(channels, out_channels)
            self.join = nn.Linear(2 * out_channels, out_channels, bias=False)
            self.reset_join()
        if num_classes:
            self.label_weight = nn.Linear(num_classes, out_channels, bias=False)

    @torch.no_grad()
    def reset_join(self) -> None:
        """W = [I; 0]."""
        eye = torch.eye(self.join.out_features, device=self.join.weight.device)
        self.join.weight.copy_(torch.cat([eye, torch.zeros_like(eye)], dim=1))

    def forward(self, c_noise: Tensor, label: Tensor | None, c_target: Tensor | None) -> Tensor:
        """c_noise, c_target and label (B,) -> (B, out_channels)."""
        if self.bidirectional != (c_target is not None):
            need = "needs" if self.bidirectional else "takes no"
            raise ValueError(f"this network {need} c_target: it was built with bidirectional={self.bidirectional}")
        if bool(self.num_classes) != (label is not None):
            raise ValueError(
                f"this network was built with num_classes={self.num_classes}: "
                f"{'a label is needed' if self.num_classes else 'it takes no label'}"
            )
        embedding = self.noise_mlp(self.position(c_noise))
        if c_target is not None:
            embedding = self.join(torch.cat([embedding, self.target_mlp(self.position(c_target))], dim=1))
        if label is not None:
            embedding = embedding + self.label_weight(F.one_hot(label, self.num_classes).to(embedding.dtype))
        return embedding


def load_unidirectional(network: nn.Module, state: dict[str, Tensor]) -> None:
    """Load a one-level network's weights into the bidirectional `network` of the same shape.

    MLP_u becomes a copy of MLP_t and W = [I; 0], as BCM's tuning does: the outputs are then the one-level network's.

    Raises:
        ValueError: keys or shapes other than those of the second level differ.
    """
    embedding = next(m for m in network.modules() if isinstance(m, LevelEmbedding))
    prefix = next(name for name, m in network.named_modules() if m is embedding)
    own = network.state_dict()
    added = {key for key in own if key.startswith((f"{prefix}.target_mlp.", f"{prefix}.join."))}
    wrong = sorted((set(own) - added) ^ set(state)) or sorted(k for k in state if own[k].shape != state[k].shape)
    if wrong:
        raise ValueError(f"the one-level weights do not fit this network at {', '.join(wrong[:4])}")
    network.load_state_dict(state, strict=False)
    embedding.target_mlp.load_state_dict(embedding.noise_mlp.state_dict())
    embedding.reset_join()
