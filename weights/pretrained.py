"""A denoiser of ours as a folder: `model.safetensors` with its weights and `config.json` with how to build it.

Nothing in such a folder is code: the classes that `config.json` names are those that a checkpoint may name.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from diffusion.denoisers import Denoiser
from lightning_modules.allowed import restricted_imports
from lightning_modules.checkpoint import build_module, check_class_paths, some, told_in_a_line
from weights.checkpoint import checkpoint_around
from weights.files import read_json, read_safetensors, write_json
from weights.table import WeightsError

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def network_of(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Class path and arguments of the network of a checkpoint.

    Raises:
        WeightsError: its module was built in Python, so that it does not tell.
    """
    told = checkpoint.get("hyper_parameters", {})
    if not isinstance(told.get("network"), dict):
        raise WeightsError("the checkpoint does not tell how its network was built (its module was built in Python)")
    shape = {"image_shape": list(told["image_shape"]), "num_classes": told["num_classes"]}
    return {"class_path": told["network"]["class_path"], "init_args": {**told["network"].get("init_args", {}), **shape}}


def save_pretrained(
    denoiser: Denoiser,
    folder: str | Path,
    network: Mapping[str, Any],
    checkpoint: Mapping[str, Any] | None = None,
) -> None:
    """Write a denoiser's folder.

    Args:
        denoiser: any of `diffusion.denoisers`.
        folder: to write to; missing folders are made.
        network: how the denoiser's network is built: `class_path` and `init_args`, which hold image_shape and
            num_classes too.
        checkpoint: that it is from, of which the hyper-parameters and the count of images are kept, so that
            `import --from hub` makes a checkpoint again.

    Raises:
        WeightsError: what `network` tells is not the denoiser's network.
        CheckpointError: nothing can be built of it.
    """
    levels = {name: getattr(denoiser, name) for name in ("sigma_data", "sigma_min", "sigma_max")}
    kind = type(denoiser)
    config: dict[str, Any] = {
        "library_name": "fewstep",
        "denoiser": {
            "class_path": f"{kind.__module__}.{kind.__qualname__}",
            "init_args": {"network": deepcopy(dict(network)), **levels},
        },
    }
    if checkpoint is not None:
        told = checkpoint["hyper_parameters"]
        config["module"] = {key: value for key, value in told.items() if key != "_instantiator"}
        config["images_seen"] = checkpoint["images_seen"]
    with torch.device("meta"):
        outline = build(config["denoiser"], "the network that was told")
    _check(outline, denoiser.state_dict(), "the network that was told")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.detach().cpu().contiguous() for key, value in denoiser.state_dict().items()}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    write_json(folder / CONFIG, config)


def from_pretrained(folder: str | Path, allow: Sequence[str] = ()) -> Denoiser:
    """The denoiser in a folder, frozen and in evaluation mode on the CPU.

    Args:
        folder: of `save_pretrained`, or a local copy of such a repository on the Hub.
        allow: packages beside this project's, torch and Lightning that it may name.

    Raises:
        WeightsError: it is no such folder.
        CheckpointError: it names a class outside the allowed packages, or none that can be built.
    """
    folder = Path(folder)
    config, state = _read(folder)
    denoiser = build(config["denoiser"], str(folder / CONFIG), allow)
    _check(denoiser, state, str(folder / WEIGHTS))
    denoiser.load_state_dict(state)
    return denoiser.eval().requires_grad_(False)


def build(config: Mapping[str, Any], where: str, allow: Sequence[str] = ()) -> Denoiser:
    """A denoiser of its class path and arguments, which may name the allowed packages alone.

    Raises:
        CheckpointError: they name something else, or nothing can be built of them.
    """
    from jsonargparse import ArgumentParser

    check_class_paths(config, where, allow)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Denoiser, "denoiser")
    with restricted_imports(allow), told_in_a_line(f"{where} does not tell how to build its denoiser"):
        return parser.instantiate_classes(parser.parse_object({"denoiser": deepcopy(dict(config))})).denoiser


def checkpoint_in(folder: Path, allow: Sequence[str] = ()) -> dict[str, Any]:
    """A checkpoint of a folder that holds its module's hyper-parameters; a discriminator in it starts anew.

    Raises:
        WeightsError: it is no such folder.
        CheckpointError: as `from_pretrained`.
    """
    config, state = _read(folder)
    told = config.get("module")
    if not isinstance(told, dict) or "_class_path" not in told:
        raise WeightsError(f"{folder / CONFIG} does not tell the module around its denoiser: use from_pretrained")
    module = build_module(told, str(folder / CONFIG), allow)
    _check(module.denoiser, state, str(folder / WEIGHTS))
    module.denoiser.load_state_dict(state)
    module.ema.reset(module.denoiser)
    if getattr(module, "target", None) is not None:
        module.target.load_state_dict(state)
    return checkpoint_around(told, module.state_dict(), int(config.get("images_seen", 0)))


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    if not (folder / CONFIG).is_file():
        raise WeightsError(f"there is no file {folder / CONFIG}")
    config = read_json(folder / CONFIG)
    if not isinstance(config.get("denoiser"), dict):
        raise WeightsError(f"{folder / CONFIG} is not of a folder of `export --to hub`")
    return config, read_safetensors(folder / WEIGHTS)


def _check(denoiser: Denoiser, state: Mapping[str, torch.Tensor], what: str) -> None:
    """Raise WeightsError unless a state dict is one of the denoiser's."""
    own = {key: tuple(value.shape) for key, value in denoiser.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in state.items()}
    if differing := sorted(key for key in own.keys() | given.keys() if own.get(key) != given.get(key)):
        raise WeightsError(f"{what} does not fit the denoiser: {some(differing)}")
