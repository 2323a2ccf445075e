"""A consistency model of ours as diffusers' ConsistencyModelPipeline, where its network can be a UNet2DModel.

The pipeline visits levels of a grid alone, sigma_max the first, and tells the network 250 ln(sigma); where ours is told
its level otherwise, the first layer of the embedding is solved for the levels of the grid (`weights.grid`).
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from diffusion.denoisers import ConsistencyDenoiser, Denoiser
from networks.unet import UNet
from weights.diffusers_folder import WEIGHTS
from weights.diffusers_unet import BLOCKS, FIXED, table
from weights.files import write_json
from weights.grid import LEVELS, first_layer, is_theirs
from weights.table import WeightsError, to_theirs

PLAIN: dict[str, Any] = {
    "patch_size": 1,
    "skip_scale": 1.0,
    "skip_projection": False,
    "qk_norm": False,
    "bidirectional": False,
    "latent_size": 0,
    "label_first": False,
}
"""What our U-Net must be built with, since a UNet2DModel has no other."""


def unet_config(unet: UNet, network: Mapping[str, Any]) -> dict[str, Any]:
    """The `config.json` of a UNet2DModel that is our network.

    Args:
        unet: the network.
        network: its class path and arguments.

    Raises:
        WeightsError: it cannot be one.
    """
    parameters = inspect.signature(UNet).parameters.values()
    told = {p.name: p.default for p in parameters} | dict(network["init_args"])
    for name, value in PLAIN.items():
        if told[name] != value:
            raise WeightsError(
                f"diffusers' UNet2DModel cannot be this network: it has {name}={told[name]}, not {value}"
            )
    channels, height, width = told["image_shape"]
    if height != width:
        raise WeightsError(f"diffusers' pipeline makes square images, and this model's are {height}x{width}")
    if told["out_channels"] not in (None, channels):
        raise WeightsError("the network gives other channels than it is given")
    wide = [told["channels"] * mult for mult in told["channel_mult"]]
    attends = [(height >> i) in told["attention_resolutions"] for i in range(len(wide))]
    if any(attends) and not told["attend_all_up"]:
        raise WeightsError("diffusers' UNet2DModel cannot be this network: it has attend_all_up=False, not True")
    if wide[0] != told["channels"]:
        raise WeightsError("diffusers' UNet2DModel cannot be this network: its first level is wider than its input")
    norms = [module for module in unet.modules() if isinstance(module, nn.GroupNorm)]
    groups = sorted({norm.num_groups for norm in norms})
    if len(groups) > 1:
        raise WeightsError(
            f"diffusers' UNet2DModel cannot be this network: its norms have {groups} groups, not all alike"
        )
    down, up = ([BLOCKS[has][side] for has in attends] for side in (0, 1))
    return {
        "_class_name": "UNet2DModel",
        **FIXED,
        "sample_size": height,
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": wide,
        "layers_per_block": told["num_blocks"],
        "down_block_types": down,
        "up_block_types": up[::-1],
        "add_attention": told["attend_middle"],
        "attention_head_dim": told["channels_per_head"],
        "norm_num_groups": groups[0],
        "attn_norm_num_groups": groups[0],
        "norm_eps": told["norm_eps"],
        "resnet_time_scale_shift": "scale_shift" if told["adaptive_scale"] else "default",
        "num_class_embeds": told["num_classes"] or None,
        "time_embedding_dim": told["channels"] * told["embedding_mult"],
        "dropout": told["dropout"],
    }


def save_pipeline(denoiser: Denoiser, folder: Path, network: Mapping[str, Any]) -> bool:
    """Write the folder of a ConsistencyModelPipeline; whether it is the model at levels off the grid too.

    Args:
        denoiser: a consistency model.
        folder: to write to; missing folders are made.
        network: class path and arguments of its network.

    Raises:
        WeightsError: it cannot be one.
    """
    unet: Any = denoiser.network
    if type(unet) is not UNet:
        raise WeightsError(f"diffusers has no network like a {type(unet).__name__}: a UNet can be exported")
    if type(denoiser) is not ConsistencyDenoiser:
        raise WeightsError(f"ConsistencyModelPipeline has the scalings of a ConsistencyDenoiser, and this model is a "
                           f"{type(denoiser).__name__}")  # fmt: skip
    config = unet_config(unet, network)
    state = {key: value.detach().cpu() for key, value in unet.state_dict().items()}
    if not (everywhere := is_theirs(unet)):
        state["embedding.noise_mlp.0.weight"] = first_layer(unet, denoiser.sigma_min, denoiser.sigma_max)
    write_json(folder / "unet" / "config.json", config)
    save_file(to_theirs(table(unet), state), folder / "unet" / WEIGHTS, metadata={"format": "pt"})
    scheduler = {
        "_class_name": "CMStochasticIterativeScheduler",
        "num_train_timesteps": LEVELS,
        **{name: getattr(denoiser, name) for name in ("sigma_min", "sigma_max", "sigma_data")},
        "s_noise": 1.0,
        "rho": 7.0,
        "clip_denoised": False,  # our samplers do not clip between steps
    }
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    index = {
        "_class_name": "ConsistencyModelPipeline",
        "scheduler": ["diffusers", "CMStochasticIterativeScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    write_json(folder / "model_index.json", index)
    return everywhere
