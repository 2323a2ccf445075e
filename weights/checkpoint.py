"""A checkpoint of ours around a network that was trained elsewhere."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from lightning.pytorch import __version__ as lightning_version
from torch import Tensor

from diffusion.denoisers import BidirectionalDenoiser, ConsistencyDenoiser, Denoiser, EDMDenoiser
from weights.official import Official
from weights.table import WeightsError

LEVELS = {"sigma_data": 0.5, "sigma_min": 0.002, "sigma_max": 80.0}
"""Of every published model here, where a file does not tell."""

_GAP = {"class_path": "diffusion.weightings.InverseGap"}
_PAIRS = {
    "class_path": "diffusion.pairs.GridPairs",
    "init_args": {
        "steps": {"class_path": "diffusion.curricula.ConstantSteps", "init_args": {"n": 320}},
        "levels": {"class_path": "diffusion.levels.LogNormal", "init_args": {"mean": -1.1, "std": 2.0}},
    },
}
_CONSISTENCY = {"pairs": _PAIRS, "distance": {"class_path": "diffusion.distances.PseudoHuber"}, "weight": _GAP}
TRAINING: dict[type[Denoiser], tuple[str, dict[str, Any]]] = {
    ConsistencyDenoiser: ("lightning_modules.CTModule", _CONSISTENCY),
    BidirectionalDenoiser: ("lightning_modules.BCMModule", {**_CONSISTENCY, "target_weight": _GAP}),
    EDMDenoiser: (
        "lightning_modules.DiffusionModule",
        {"levels": {"class_path": "diffusion.levels.LogNormal", "init_args": {"mean": -1.2, "std": 1.2}}},
    ),
}
"""Denoiser -> the module that holds it, and what that needs for its loss: iCT's, BCM's and EDM's numbers. The loss of
an imported checkpoint is of these, however its model was trained."""


def checkpoint_of(
    official: Official,
    denoiser: type[Denoiser] | None = None,
    schedules: Sequence[Sequence[float]] = (),
    **levels: float | None,
) -> dict[str, Any]:
    """A checkpoint that our commands take like one of a run; it holds no state of an optimizer.

    Args:
        official: the network.
        denoiser: the class of its scalings in the place of what was read.
        schedules: of a consistency model, the levels to visit by more than one evaluation.
        levels: sigma_data, sigma_min and sigma_max in the place of what was read; None leaves it.

    Raises:
        WeightsError: the network is not one of such a denoiser.
    """
    kind = official.denoiser if denoiser is None else denoiser
    two = bool(official.shape.arguments.get("bidirectional"))
    if two != (kind is BidirectionalDenoiser):
        raise WeightsError(f"a network with {1 + two} noise level{'s' * two} is not one of a {kind.__name__}")
    if official.shape.arguments.get("out_channels", official.shape.image_shape[0]) != official.shape.image_shape[0]:
        raise WeightsError("the network gives other channels than it is given, as one that learns a variance")
    class_path, training = TRAINING[kind]
    numbers = {**LEVELS, **official.levels.known(), **{k: v for k, v in levels.items() if v is not None}}
    arguments = {
        "network": {"class_path": "networks.UNet", "init_args": dict(official.shape.arguments)},
        **training,
        "total_images": 1,
        **numbers,
    }
    if kind is ConsistencyDenoiser:
        arguments["schedules"] = [[numbers["sigma_max"]], *map(list, schedules)]
    elif schedules:
        raise WeightsError(f"levels of a schedule are of a consistency model, and this is a {kind.__name__}")
    shape = {"image_shape": list(official.shape.image_shape), "num_classes": official.shape.num_classes}
    # the tensors are the same, and so are stored once
    state = {f"{at}.network.{k}": v for at in ("denoiser", "ema.models.0") for k, v in official.state.items()}
    return checkpoint_around({"_class_path": class_path, **shape, **arguments}, state)


def checkpoint_around(told: Mapping[str, Any], state: Mapping[str, Tensor], images_seen: int = 0) -> dict[str, Any]:
    """A checkpoint of a module's hyper-parameters and state dict.

    Its configuration, which `test` reads, names no data: these are the caller's to name.
    """
    linked = ("_class_path", "image_shape", "num_classes", "seed")
    arguments = {key: value for key, value in told.items() if key not in linked}
    config = {"model": {"class_path": told["_class_path"], "init_args": arguments}}
    return {
        "state_dict": dict(state),
        "hyper_parameters": dict(told),
        "config": yaml.safe_dump(config, sort_keys=False),
        "images_seen": images_seen,
        "pytorch-lightning_version": lightning_version,
        "callbacks": {},
    }
