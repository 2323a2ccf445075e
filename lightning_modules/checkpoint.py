"""From a checkpoint back to a model. Checkpoints hold tensors and plain values only and load with weights_only=True."""

import hashlib
import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from diffusion.adversarial import Critic
from diffusion.denoisers import Denoiser, FlowDenoiser
from diffusion.ema import EMA
from diffusion.sharding import divided_like
from lightning_modules.allowed import ALLOWED_PACKAGES, check_size, class_paths, restricted_imports


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or used; the message is one line."""


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint's dictionary onto the CPU.

    Where a file `path + ".sha256"` stands beside it, the content is verified against it, and otherwise against the
    archive's own checksums, which torch does not look at: a flipped byte would load without a word.

    Raises:
        CheckpointError: the file is missing, damaged, or holds more than tensors and plain values. The message names
            the newest other checkpoint beside it, by name.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    digest = path.with_name(path.name + ".sha256")
    try:
        if digest.is_file() and file_sha256(path) != digest.read_text().partition(" ")[0]:
            raise CheckpointError("its content does not match its .sha256")
        _check_archive(path, checksums=not digest.is_file())
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
            raise CheckpointError("it is not a checkpoint of a training run")
        _check_values(checkpoint)
    except Exception as error:  # torch raises many kinds for a damaged file
        files = [p for p in path.parent.glob("*.ckpt") if p.exists()]
        others = [p for p in files if not p.samefile(path)]  # last.ckpt may be a link
        previous = max(others, key=lambda p: p.name, default=None)  # clocks differ, and images are counted
        hint = f"; the previous one is {previous}" if previous else ""
        raise CheckpointError(f"checkpoint {path} cannot be read: {reason_of(error)}{hint}") from None
    return checkpoint


def reason_of(error: Exception) -> str:
    """The first line of what went wrong, at most 200 characters."""
    return str(error).split("\n")[0][:200] or type(error).__name__


def some(keys: Sequence[str]) -> str:
    """The first three of some names."""
    return f"{', '.join(keys[:3])}{' ...' * (len(keys) > 3)}"


def _check_archive(path: Path, checksums: bool) -> None:
    """Refuse an archive that torch would unpack to any size, or read in spite of a checksum that does not match.

    Raises:
        CheckpointError: naming the fault.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(m.compress_type != zipfile.ZIP_STORED or m.file_size != m.compress_size for m in members):
            raise CheckpointError("it is compressed, as torch never writes it")
        if sum(m.file_size for m in members) > path.stat().st_size:
            raise CheckpointError("its parts overlap")
        if checksums and (damaged := archive.testzip()):
            raise CheckpointError(f"{damaged} in it does not match its checksum")


def _check_values(checkpoint: dict[str, Any]) -> None:
    """Refuse a checkpoint whose parts are not what a run writes, before anything is made of them.

    Raises:
        CheckpointError: naming the part.
    """
    state, arguments = checkpoint["state_dict"], checkpoint.get("hyper_parameters", {})
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise CheckpointError("its state_dict holds no weights by name")
    if other := next((k for k, v in state.items() if not (isinstance(v, Tensor) or k.endswith("_extra_state"))), None):
        raise CheckpointError(f"its state_dict holds no tensor as {other}")
    if not isinstance(arguments, dict) or not all(isinstance(key, str) for key in arguments):
        raise CheckpointError("its hyper_parameters are no arguments by name")
    if not isinstance(checkpoint.get("config", ""), str):
        raise CheckpointError("its config is no text")
    for name, kind in (("images_seen", int), ("training_seconds", int | float)):
        if not isinstance(value := checkpoint.get(name, 0), kind) or isinstance(value, bool) or not 0 <= value < 2**63:
            raise CheckpointError(f"its {name} is no number from 0")
    check_size(arguments)


def file_sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_module(
    path: str | os.PathLike[str], allow: tuple[str, ...] = (), arguments: Mapping[str, Any] | None = None
) -> LightningModule:
    """Rebuild the module that wrote a checkpoint, with its weights, in evaluation mode on the CPU.

    It knows its `images_seen` and its `training_seconds`, which are 0.0 in checkpoints from before they were measured.

    Args:
        path: a checkpoint of a run started by `main.py fit`.
        allow: further packages whose classes the checkpoint may name.
        arguments: of the module, in the place of those that the checkpoint holds, such as other levels to sample by.

    Raises:
        CheckpointError: as `read_checkpoint`; or the checkpoint does not say how to build its module, or names a class
            outside the allowed packages.
    """
    return module_of(read_checkpoint(path), path, allow, arguments)


def module_of(
    checkpoint: Mapping[str, Any],
    path: str | os.PathLike[str],
    allow: Sequence[str] = (),
    arguments: Mapping[str, Any] | None = None,
) -> LightningModule:
    """As `load_module`, of what `read_checkpoint` gave; `path` is for messages."""
    config = checkpoint.get("hyper_parameters", {})
    if "_class_path" not in config:
        raise CheckpointError(
            f"checkpoint {path} does not hold its configuration (its module was built in Python): build the module and "
            f"call load_state_dict"
        )
    module = build_module({**config, **(arguments or {})}, f"checkpoint {path}", allow)
    if not hasattr(module, "ema_denoiser"):
        raise CheckpointError(f"checkpoint {path} is of a {type(module).__name__}, which is no method of this project")
    try:
        module.load_state_dict(checkpoint["state_dict"])
    except (TypeError, KeyError, AttributeError) as error:  # of what is no tensor in it; weights are a RuntimeError
        raise CheckpointError(f"checkpoint {path} does not fit its module: {error}") from None
    module.images_seen = checkpoint.get("images_seen", 0)
    module.training_seconds = checkpoint.get("training_seconds", 0.0)
    return module.eval()


def build_module(config: dict[str, Any], where: str, allow: Sequence[str] = ()) -> Any:
    """A module of its hyper-parameters, as a checkpoint holds them, with fresh weights.

    Args:
        config: the hyper-parameters, with `_class_path`.
        where: they stand, for the messages.
        allow: further packages whose classes they may name.

    Raises:
        CheckpointError: they do not tell how to build it, or name a class outside the allowed packages.
    """
    from lightning.pytorch.cli import instantiate_module

    # the parser changes what it is given
    config = deepcopy({key: value for key, value in config.items() if key != "_instantiator"})
    check_class_paths(config, where, allow)
    with restricted_imports(allow), told_in_a_line(f"{where} does not tell how to build its module"):
        return instantiate_module(LightningModule, config)


def check_class_paths(config: Any, where: str, allow: Sequence[str] = ()) -> None:
    """Raise CheckpointError if a configuration names a class outside the allowed packages."""
    for class_path in class_paths(config):
        if class_path.split(".")[0] not in (*ALLOWED_PACKAGES, *allow):
            raise CheckpointError(f"{where} names the class {class_path}, which is outside the allowed packages")


@contextmanager
def told_in_a_line(what: str) -> Iterator[None]:
    """What jsonargparse or a constructor refuses inside the block becomes a CheckpointError that begins with `what`."""
    try:
        yield
    except Exception as error:  # arguments from a file: whatever a constructor makes of them
        reason: BaseException = error
        while reason.__cause__ is not None:
            reason = reason.__cause__
        said = " ".join(str(reason).split()) or type(reason).__name__
        fault = re.search(r"Errors: - (.*?) - Expected a ", said)  # of what jsonargparse says, which repeats the config
        raise CheckpointError(f"{what}: {fault[1] if fault else said[:300]}") from None


def load_denoiser(path: str | os.PathLike[str], allow: tuple[str, ...] = ()) -> Denoiser:
    """The frozen EMA denoiser of any checkpoint; arguments and errors as `load_module`."""
    return frozen_denoiser(load_module(path, allow))


def frozen_denoiser(module: Any) -> Denoiser:
    """The EMA denoiser of a method, frozen and in evaluation mode."""
    return module.ema_denoiser.eval().requires_grad_(False)


def _load_network(network: Any, source: dict[str, Tensor], path: str | os.PathLike[str]) -> None:
    own = network.state_dict()
    source = {key: divided_like(value, own[key]) if key in own else value for key, value in source.items()}
    latent = {key for key in own if ".mapping." in key}  # a diffusion model has none: that part starts anew
    faults = {
        "it lacks": sorted(set(own) - set(source) - latent),
        "it has beside them": sorted(set(source) - set(own)),
        "of another shape": sorted(key for key in set(own) & set(source) if own[key].shape != source[key].shape),
    }
    said = [f"{fault} {some(keys)}" for fault, keys in faults.items() if keys]
    try:
        if any(".target_mlp." in key for key in faults["it lacks"]):
            network.load_unidirectional(source)
        elif said:
            raise ValueError("; ".join(said))
        else:
            network.load_state_dict(source, strict=False)
    except ValueError as error:
        raise CheckpointError(f"the network of {path} does not fit: {error}") from None


def start_from(path: str | os.PathLike[str], denoiser: Denoiser, ema: EMA, target: Denoiser | None = None) -> None:
    """Start a denoiser, its averages and its target, if it has one, from the EMA weights of a checkpoint.

    A network with two noise levels takes one with a single level too: it then starts exactly at it, since the second
    level has no effect yet.

    Raises:
        CheckpointError: the networks differ in their parameters; or the same weights mean something else there, a
            velocity or another standard deviation of the data.
    """
    source = load_denoiser(path)
    if isinstance(source, FlowDenoiser) != isinstance(denoiser, FlowDenoiser):
        raise CheckpointError(
            f"{path} holds a {type(source).__name__}, from whose weights a {type(denoiser).__name__} cannot start: "
            f"one gives a velocity and the other does not"
        )
    if source.sigma_data != denoiser.sigma_data:
        raise CheckpointError(f"{path} has sigma_data={source.sigma_data}, and this run {denoiser.sigma_data}")
    _load_network(denoiser.network, source.network.state_dict(), path)
    ema.reset(denoiser)
    if target is not None:
        target.load_state_dict(denoiser.state_dict())


def start_critic_from(path: str | os.PathLike[str], critic: Critic) -> None:
    """Start a discriminator that holds a generator's network, or its encoder, from the EMA weights of a checkpoint.

    Raises:
        CheckpointError: the discriminator holds no such network, or its parameters differ.
    """
    source = load_denoiser(path)
    network: Any = critic.network
    if not hasattr(network, "load_generator"):
        name = type(network).__name__
        raise CheckpointError(f"a {name} holds no network of a diffusion model, so it cannot start from {path}")
    try:
        network.load_generator(source.network.state_dict())
    except ValueError as error:
        raise CheckpointError(f"the network of {path} does not fit the discriminator: {error}") from None
