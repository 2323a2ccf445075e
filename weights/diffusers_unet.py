"""diffusers' UNet2DModel in its ADM shape, as ConsistencyModelPipeline has it, and what of our U-Net it can be.

Its blocks stand by level, `down_blocks.1.resnets.0`; a block that changes the resolution is the last of the level that
it leaves. Attention has three linear maps, `to_q`, `to_k` and `to_v`, whose rows are our convolution's in that order.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from networks.blocks import Attended, SelfAttention
from networks.unet import UNet
from weights.official import Shape, channel_mult
from weights.table import Row, Table, WeightsError, block_rows, layer

RESIDUAL = {
    "norm_in": "norm1",
    "conv_in": "conv1",
    "embed": "time_emb_proj",
    "norm_out": "norm2",
    "conv_out": "conv2",
    "skip": "conv_shortcut",
}
AROUND = {
    "embedding.noise_mlp.0": "time_embedding.linear_1",
    "embedding.noise_mlp.2": "time_embedding.linear_2",
    "conv_in": "conv_in",
    "norm_out": "conv_norm_out",
    "conv_out": "conv_out",
}
BLOCKS = {
    False: ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D"),
    True: ("AttnDownBlock2D", "AttnUpBlock2D"),
}
"""Names of a level's class on the way down and up, without and with attention."""

FIXED: dict[str, Any] = {
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "mid_block_type": "UNetMidBlock2D",
    "mid_block_scale_factor": 1,
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "act_fn": "silu",
    "class_embed_type": None,
}
"""What of a configuration must be so; the values are those of `UNet2DModel` where it does not say."""
DEFAULTS: dict[str, Any] = {
    **FIXED,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "add_attention": True,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "num_class_embeds": None,
    "time_embedding_dim": None,
    "dropout": 0.0,
}
REQUIRED = (
    "in_channels",
    "out_channels",
    "block_out_channels",
    "layers_per_block",
    "down_block_types",
    "up_block_types",
)


def places(unet: UNet) -> dict[str, str]:
    """Where each of our blocks is in their state dict."""
    found: dict[str, str] = {}

    def put(ours: str, block: object, level: str, j: int) -> None:
        if isinstance(block, Attended):
            found[f"{ours}.residual"], found[f"{ours}.attention"] = f"{level}.resnets.{j}", f"{level}.attentions.{j}"
        else:
            found[ours] = f"{level}.resnets.{j}"

    level, j = 0, 0
    for i, block in enumerate(unet.down):
        if getattr(block, "resample", 1) != 1:
            found[f"down.{i}"] = f"down_blocks.{level}.downsamplers.0"
            level, j = level + 1, 0
        else:
            put(f"down.{i}", block, f"down_blocks.{level}", j)
            j += 1
    for j, block in enumerate(unet.middle):
        put(f"middle.{j}", block, "mid_block", j)
    level, j = 0, 0
    for i, (block, takes_skip) in enumerate(zip(unet.up, unet.takes_skip, strict=True)):
        if takes_skip:
            put(f"up.{i}", block, f"up_blocks.{level}", j)
            j += 1
        else:
            found[f"up.{i}"] = f"up_blocks.{level}.upsamplers.0"
            level, j = level + 1, 0
    return found


def table(unet: UNet) -> Table:
    """Our tensors beside theirs."""
    rows = [row for ours, theirs in AROUND.items() for row in layer(ours, theirs)]
    if unet.embedding.num_classes:
        rows.extend(layer("embedding.label", "class_embedding", ["weight"]))
    return [*rows, *block_rows(unet, places(unet), RESIDUAL, _attention)]


def _attention(ours: str, theirs: str, attention: SelfAttention) -> Iterator[Row]:
    yield from layer(f"{ours}.norm", f"{theirs}.group_norm")
    maps = [f"{theirs}.to_{letter}" for letter in "qkv"]
    yield Row(
        f"{ours}.qkv.weight",
        tuple(f"{name}.weight" for name in maps),
        lambda given: torch.cat(list(given))[:, :, None, None],
        lambda tensor: tensor[:, :, 0, 0].chunk(3),
    )
    yield Row(
        f"{ours}.qkv.bias",
        tuple(f"{name}.bias" for name in maps),
        lambda given: torch.cat(list(given)),
        lambda tensor: tensor.chunk(3),
    )
    out = f"{theirs}.to_out.0"
    yield Row(
        f"{ours}.out.weight",
        (f"{out}.weight",),
        lambda given: given[0][:, :, None, None],
        lambda tensor: [tensor[:, :, 0, 0]],
    )
    yield from layer(f"{ours}.out", out, ["bias"])


def shape_of(config: Mapping[str, Any], resolution: int | None = None) -> Shape:
    """The network that a `config.json` of theirs tells.

    Args:
        config: theirs.
        resolution: of the images where it does not tell one.

    Raises:
        WeightsError: it is no such network, or one that ours cannot be.
    """
    if config.get("_class_name") != "UNet2DModel":
        raise WeightsError(f"config.json is of a {config.get('_class_name')}, not of a UNet2DModel")
    if lacking := [key for key in REQUIRED if not config.get(key)]:
        raise WeightsError(f"config.json does not tell {', '.join(lacking)}")
    told = {**DEFAULTS, **config}
    if len(told["block_out_channels"]) == 1:  # a single level resamples nowhere
        told |= {"downsample_type": "resnet", "upsample_type": "resnet"}
    if faults := [f"{key}={told[key]!r}" for key, value in FIXED.items() if told[key] != value]:
        raise WeightsError(f"config.json has {faults[0]}, where our U-Net has {FIXED[faults[0].split('=')[0]]!r}")
    wide, side = told["block_out_channels"], told.get("sample_size") or resolution
    if not isinstance(side, int):
        raise WeightsError(f"config.json has sample_size={side}: give the resolution of square images by --resolution")
    kinds = {name: attends for attends, names in BLOCKS.items() for name in names}
    down, up = told["down_block_types"], told["up_block_types"][::-1]
    if unknown := [kind for kind in [*down, *up] if kind not in kinds and len(wide) > 1]:
        raise WeightsError(f"config.json has a {unknown[0]}, which our U-Net cannot be")
    attends = [kind.startswith("Attn") for kind in down]
    if attends != [kind.startswith("Attn") for kind in up]:
        raise WeightsError("config.json has attention on the way up where it has none on the way down")
    adaptive = told["resnet_time_scale_shift"] == "scale_shift"
    groups = told["attn_norm_num_groups"] or (None if adaptive else told["norm_num_groups"])
    if told["add_attention"] and groups != told["norm_num_groups"]:
        raise WeightsError(f"config.json has {groups} groups in the middle attention's norm, and ours must be alike")
    arguments = {
        "channels": wide[0],
        "channel_mult": channel_mult(wide, wide[0]),
        "num_blocks": told["layers_per_block"],
        "attention_resolutions": [side >> i for i, has in enumerate(attends) if has],
        "channels_per_head": told["attention_head_dim"],
        "attend_middle": told["add_attention"],
        "adaptive_scale": adaptive,
        "dropout": told["dropout"],
        "embedding_mult": (told["time_embedding_dim"] or 4 * wide[0]) // wide[0],
        "embedding_scale": 1000.0,
        "norm_groups": told["norm_num_groups"],
        "norm_eps": told["norm_eps"],
        "out_channels": told["out_channels"],
    }
    return Shape((told["in_channels"], side, side), told["num_class_embeds"] or 0, arguments)
