"""EDM's two U-Nets (NVlabs/edm, training/networks.py): SongUNet as DDPM++, and DhariwalUNet, ADM.

Their state dicts name blocks by resolution, `model.enc.16x16_block0`, with attention in the block's own module. Each
head has its queries, keys and values interleaved; ours have all queries, then all keys, then all values. DDPM++ puts
sin before cos and adds the class, a linear map of sqrt(n) times its one-hot vector, before the first layer.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion.denoisers import EDMDenoiser
from networks.blocks import Attended, SelfAttention
from networks.unet import UNet
from weights.edm_pickle import read_pickle
from weights.official import Levels, Official, Shape, channel_mult
from weights.table import Row, Table, WeightsError, block_rows, layer, to_ours

RESIDUAL = {
    "norm_in": "norm0",
    "conv_in": "conv0",
    "embed": "affine",
    "norm_out": "norm1",
    "conv_out": "conv1",
    "skip": "skip",
}


def places(unet: UNet, side: int) -> dict[str, str]:
    """Where each of our blocks is in their state dict; a block and its attention are one module there."""
    found: dict[str, str] = {}

    def put(ours: str, block: object, theirs: str) -> None:
        if isinstance(block, Attended):
            found[f"{ours}.residual"] = found[f"{ours}.attention"] = theirs
        else:
            found[ours] = theirs

    level, j = 0, 0
    for i, block in enumerate(unet.down):
        resamples = getattr(block, "resample", 1) != 1
        level, j = (level + 1, -1) if resamples else (level, j)
        name = f"{side >> level}x{side >> level}"
        put(f"down.{i}", block, f"model.enc.{name}_{'down' if resamples else f'block{j}'}")
        j += 1
    for i, block in enumerate(unet.middle):
        put(f"middle.{i}", block, f"model.dec.{side >> level}x{side >> level}_in{i}")
    j = 0
    for i, (block, takes_skip) in enumerate(zip(unet.up, unet.takes_skip, strict=True)):
        level, j = (level, j) if takes_skip else (level - 1, -1)
        name = f"{side >> level}x{side >> level}"
        put(f"up.{i}", block, f"model.dec.{name}_{f'block{j}' if takes_skip else 'up'}")
        j += 1
    return found


def table(unet: UNet, side: int, song: bool) -> Table:
    """Our tensors beside theirs; it is read into ours alone."""
    first, last = f"model.enc.{side}x{side}_conv", f"model.dec.{side}x{side}_aux"
    rows = [*layer("conv_in", first), *layer("embedding.noise_mlp.2", "model.map_layer1")]
    rows += layer("norm_out", f"{last}_norm" if song else "model.out_norm")
    rows += layer("conv_out", f"{last}_conv" if song else "model.out_conv")
    rows += _song_embedding(unet) if song else _dhariwal_embedding(unet)
    return [*rows, *block_rows(unet, places(unet, side), RESIDUAL, _attention)]


def _dhariwal_embedding(unet: UNet) -> Iterator[Row]:
    yield from layer("embedding.noise_mlp.0", "model.map_layer0")
    if unet.embedding.num_classes:
        yield Row("embedding.label.weight", ("model.map_label.weight",), lambda given: given[0].T)


def _song_embedding(unet: UNet) -> Iterator[Row]:
    """cos and sin change places; the bias of the class's map, which is there without a class too, goes into ours."""
    weight, bias = "model.map_layer0.weight", "model.map_layer0.bias"
    yield Row("embedding.noise_mlp.0.weight", (weight,), lambda given: _swapped(given[0]))
    if not unet.embedding.num_classes:
        yield Row("embedding.noise_mlp.0.bias", (bias,))
        return
    of_class = "model.map_label.weight", "model.map_label.bias"
    yield Row(
        "embedding.noise_mlp.0.bias",
        (bias, weight, of_class[1]),
        lambda given: (given[0].double() + given[1].double() @ given[2].double()).float(),
    )
    root = math.sqrt(unet.embedding.num_classes)
    yield Row("embedding.label.weight", (of_class[0],), lambda given: root * _swapped(given[0].T))


def _swapped(matrix: Tensor) -> Tensor:
    """The matrix whose columns' two halves have changed places."""
    return torch.cat(matrix.chunk(2, dim=1)[::-1], dim=1)


def _attention(ours: str, theirs: str, attention: SelfAttention) -> Iterator[Row]:
    def sorted_rows(given: Sequence[Tensor]) -> Tensor:
        by_head = given[0].unflatten(0, (attention.heads, -1, 3))
        return by_head.movedim(2, 0).flatten(0, 2)

    join: Callable[[Sequence[Tensor]], Tensor] = sorted_rows
    yield from layer(f"{ours}.norm", f"{theirs}.norm2")
    for leaf in ("weight", "bias"):
        yield Row(f"{ours}.qkv.{leaf}", (f"{theirs}.qkv.{leaf}",), join)
    yield from layer(f"{ours}.out", f"{theirs}.proj")


def shape_of(state: Mapping[str, Tensor]) -> tuple[Shape, bool]:
    """The network that a state dict of theirs belongs to, and whether it is a SongUNet.

    Raises:
        WeightsError: it is no such state dict, or one of a network that ours cannot be.
    """
    convs = [match for key in state if (match := re.fullmatch(r"model\.enc\.(\d+)x\1_conv\.weight", key))]
    if len(convs) != 1 or "model.map_layer0.weight" not in state:
        raise WeightsError("there is no model.enc.*_conv and model.map_layer0: this is not a network of NVlabs/edm")
    side, song = int(convs[0][1]), "model.out_conv.weight" not in state
    _refuse_ncsnpp(state)
    stem = state[convs[0][0]]
    first = f"model.enc.{side}x{side}_block0"
    embed, channels = state["model.map_layer0.weight"].shape
    if stem.shape[0] != channels:
        raise WeightsError(f"the first level has {stem.shape[0]} channels and the embedding {channels}: ours are equal")
    sides = [side >> i for i in range(32) if f"model.enc.{side >> i}x{side >> i}_block0.conv0.weight" in state]
    blocks = sum(re.fullmatch(rf"model\.enc\.{side}x{side}_block\d+\.conv0\.weight", key) is not None for key in state)
    wide = [state[f"model.enc.{s}x{s}_block0.conv1.weight"].shape[0] for s in sides]
    conv = state[f"{first}.conv1.weight"]
    arguments: dict[str, Any] = {
        "channels": channels,
        "channel_mult": channel_mult(wide, channels),
        "num_blocks": blocks,
        "attention_resolutions": [s for s in sides if f"model.enc.{s}x{s}_block0.qkv.weight" in state],
        "channels_per_head": None if song else 64,
        "attend_all_up": not song,
        "adaptive_scale": state[f"{first}.affine.weight"].shape[0] == 2 * conv.shape[0],
        "skip_scale": math.sqrt(0.5) if song else 1.0,
        "skip_projection": song,
        "embedding_mult": embed // channels,
        "norm_eps": 1e-6 if song else 1e-5,
        "embedding_endpoint": song,
        "label_first": song,
    }
    label = state.get("model.map_label.weight")
    return Shape((stem.shape[1], side, side), 0 if label is None else label.shape[1], arguments), song


def _refuse_ncsnpp(state: Mapping[str, Tensor]) -> None:
    """Raise WeightsError for NCSN++, whose parts are Fourier features, a second encoder and wider filters."""
    wide = any(key.endswith("resample_filter") and value.shape[-1] != 2 for key, value in state.items())
    if "model.map_noise.freqs" in state or wide or any(re.search(r"_aux_(residual|skip|up)", key) for key in state):
        raise WeightsError("this is NCSN++, and our U-Net has DDPM++ and ADM alone")


def read(state: Mapping[str, Tensor], levels: Levels) -> Official:
    """The diffusion model of a state dict of an EDMPrecond.

    Raises:
        WeightsError: it is not such a state dict.
    """
    shape, song = shape_of(state)
    unet, side = shape.outline(), shape.image_shape[1]
    return Official(shape, to_ours(table(unet, side, song), state, unet, ignored=_ignored(state)), EDMDenoiser, levels)


def read_file(path: Path) -> Official:
    """The diffusion model in a .pkl of theirs; none of the code in it is run.

    Raises:
        WeightsError: it is no such file, or holds a network with other scalings than EDM's.
    """
    state, levels, precond = read_pickle(path)
    if precond != "EDMPrecond":
        raise WeightsError(f"{path} holds a {precond}, whose scalings are not those of an EDMPrecond")
    return read(state, levels)


def _ignored(state: Mapping[str, Tensor]) -> Iterable[str]:
    """Box filters, and the map of augmentation labels, which are zero when images are made."""
    return [key for key in state if key.endswith("resample_filter") or key == "model.map_augment.weight"]
