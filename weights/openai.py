"""OpenAI's ADM U-Net (openai/consistency_models, cm/unet.py) and BCM's of two noise levels, which is made from it.

Their state dicts name blocks by their place in one list for the way down and one for the way up, where a block that
doubles the resolution stands behind the last of its level. Blocks that halve the resolution have no weights of their
own kind, so the levels are read off the way up. Queries, keys and values are in our order ("three h d"), which is
not that of openai/guided-diffusion; its attention has weights of three axes, and so does not fit.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from diffusion.denoisers import BidirectionalDenoiser, ConsistencyDenoiser
from lightning_modules.checkpoint import reason_of
from networks.blocks import Attended, SelfAttention
from networks.unet import UNet
from weights.official import Official, Shape, channel_mult
from weights.table import Row, Table, WeightsError, block_rows, layer, to_ours

RESIDUAL = {
    "norm_in": "in_layers.0",
    "conv_in": "in_layers.2",
    "embed": "emb_layers.1",
    "norm_out": "out_layers.0",
    "conv_out": "out_layers.3",
    "skip": "skip_connection",
}
AROUND = {
    "embedding.noise_mlp.0": "time_embed.0",
    "embedding.noise_mlp.2": "time_embed.2",
    "embedding.target_mlp.0": "time_embed_end.0",
    "embedding.target_mlp.2": "time_embed_end.2",
    "embedding.join": "time_embed_align",
    "embedding.label": "label_emb",
    "conv_in": "input_blocks.0.0",
    "norm_out": "out.0",
    "conv_out": "out.2",
}
RESOLUTIONS = {(1, 2, 3, 4): 64, (1, 1, 2, 3, 4): 128, (1, 1, 2, 2, 4, 4): 256}
"""What their scripts build for each image size (cm/script_util.py); the weights do not tell it."""


def places(unet: UNet) -> dict[str, str]:
    """Where each of our blocks is in their state dict."""
    found: dict[str, str] = {}

    def put(ours: str, block: object, theirs: str, first: int = 0) -> None:
        if isinstance(block, Attended):
            found[f"{ours}.residual"], found[f"{ours}.attention"] = f"{theirs}.{first}", f"{theirs}.{first + 1}"
        else:
            found[ours] = f"{theirs}.{first}"

    for i, block in enumerate(unet.down):
        put(f"down.{i}", block, f"input_blocks.{i + 1}")
    put("middle.0", unet.middle[0], "middle_block")
    put("middle.1", unet.middle[1], "middle_block", first=2)
    n = -1
    for i, (block, takes_skip) in enumerate(zip(unet.up, unet.takes_skip, strict=True)):
        n += takes_skip
        behind = 0 if takes_skip else 1 + isinstance(unet.up[i - 1], Attended)
        put(f"up.{i}", block, f"output_blocks.{n}", first=behind)
    return found


def table(unet: UNet) -> Table:
    """Our tensors beside theirs."""
    modules = dict(unet.named_modules())
    rows: Table = []
    for ours, theirs in AROUND.items():
        if ours in modules:
            leaves = [leaf for leaf, _ in modules[ours].named_parameters()]
            rows.extend(layer(ours, theirs, leaves))
    return [*rows, *block_rows(unet, places(unet), RESIDUAL, _attention)]


def _attention(ours: str, theirs: str, attention: SelfAttention) -> Iterator[Row]:
    for mine, name in {"norm": "norm", "qkv": "qkv", "out": "proj_out"}.items():
        yield from layer(f"{ours}.{mine}", f"{theirs}.{name}")


def shape_of(
    state: Mapping[str, Tensor],
    *,
    resolution: int | None = None,
    channels_per_head: int | None = 64,
    qk_norm: bool = False,
) -> Shape:
    """The network that a state dict of theirs belongs to.

    Args:
        state: theirs.
        resolution: of the images, which the weights do not tell; by default what their scripts build it for.
        channels_per_head: of the attention, which they do not tell either; None for one head.
        qk_norm: whether queries, keys and values are normalised, as in BCM's networks.

    Raises:
        WeightsError: it is no such state dict, or one of a network that ours cannot be.
    """
    for key in ("input_blocks.0.0.weight", "time_embed.0.weight", "time_embed.2.weight", "out.2.weight"):
        if key not in state:
            raise WeightsError(f"there is no {key}: this is not a state dict of openai/consistency_models")
    if any(key.endswith(".op.weight") for key in state):
        raise WeightsError("this network resamples by strided convolutions (resblock_updown=False), and ours does not")
    stem = state["input_blocks.0.0.weight"]
    channels, ups = state["time_embed.0.weight"].shape[1], _ups(state)
    if stem.shape[0] != channels:
        raise WeightsError(f"the first level has {stem.shape[0]} channels and the embedding {channels}: ours are equal")
    count = 1 + max(int(match[1]) for key in state if (match := re.match(r"output_blocks\.(\d+)\.", key)))
    per_level = 1 + min(ups, default=count - 1)
    if sorted(ups) != list(range(per_level - 1, count - per_level, per_level)) or count % per_level:
        raise WeightsError(f"the way up doubles the resolution behind the blocks {sorted(ups)}: not in equal levels")
    wide = [state[f"output_blocks.{n}.0.out_layers.3.weight"].shape[0] for n in range(0, count, per_level)][::-1]
    mult = tuple(channel_mult(wide, channels))
    side = RESOLUTIONS.get(mult) if resolution is None else resolution
    if side is None:
        raise WeightsError(f"the weights do not tell the resolution of {len(mult)} levels {mult}: give --resolution")
    attended = [f"output_blocks.{n}.1.qkv.weight" in state for n in range(0, count, per_level)][::-1]
    embed = state["input_blocks.1.0.emb_layers.1.weight"]
    arguments = {
        "channels": channels,
        "channel_mult": list(mult),
        "num_blocks": per_level - 1,
        "attention_resolutions": [side >> i for i, has in enumerate(attended) if has],
        "channels_per_head": channels_per_head,
        "adaptive_scale": embed.shape[0] == 2 * state["input_blocks.1.0.out_layers.3.weight"].shape[0],
        "qk_norm": qk_norm,
        "bidirectional": "time_embed_align.weight" in state,
        "embedding_mult": state["time_embed.2.weight"].shape[0] // channels,
        "embedding_scale": 1000.0,
        "norm_groups": 32,
        "out_channels": state["out.2.weight"].shape[0],
    }
    classes = state["label_emb.weight"].shape[0] if "label_emb.weight" in state else 0
    return Shape((stem.shape[1], side, side), classes, arguments)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors in a .pt of theirs, by name; nothing in it is executed.

    Raises:
        WeightsError: it is no state dict.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch raises many kinds for a damaged file
        raise WeightsError(f"{path} cannot be read: {reason_of(error)}") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path} is not a state dict, which is tensors by name")
    return state


def _ups(state: Mapping[str, Tensor]) -> set[int]:
    """The places in the way up behind whose blocks the resolution doubles."""
    behind = (re.match(r"output_blocks\.(\d+)\.[12]\.in_layers\.", key) for key in state)
    return {int(match[1]) for match in behind if match}


def read(state: Mapping[str, Tensor], shape: Shape) -> Official:
    """A consistency model, or a bidirectional one where there are two noise levels, of a state dict of theirs.

    Raises:
        WeightsError: the weights are not those of a network of this shape.
    """
    unet = shape.outline()
    kind = BidirectionalDenoiser if shape.arguments["bidirectional"] else ConsistencyDenoiser
    return Official(shape, to_ours(table(unet), state, unet), kind)
