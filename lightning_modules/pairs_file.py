"""A file of (noise, image, label) pairs that says what made it and is taken for nothing else."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


class Pairs(NamedTuple):
    """Standard normal noise and the images x0 made of it, (B, C, H, W) each, and their classes (B,) int64 or None."""

    noise: Tensor
    x0: Tensor
    label: Tensor | None


def pairs_path(folder: str | os.PathLike[str], made_by: Mapping[str, str]) -> Path:
    """Where the pairs made by `made_by` lie: what is made otherwise has another name."""
    digest = hashlib.sha256(json.dumps(dict(made_by), sort_keys=True).encode()).hexdigest()
    return Path(folder) / f"{digest[:16]}.safetensors"


def _content(tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 of the numbers, in hexadecimal: safetensors itself would not see a flipped bit."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].contiguous().numpy().reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` at once when it is whole, and is removed when it is not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_pairs(path: Path, pairs: Pairs, made_by: Mapping[str, str]) -> None:
    """Write pairs on the CPU and what made them; the file appears when it is complete."""
    tensors = {name: value.contiguous() for name, value in pairs._asdict().items() if value is not None}
    with _replacing(path) as part:
        # in one entry: safetensors writes several in any order, and the same pairs shall be the same file
        save_file(tensors, part, {"made_by": json.dumps({**made_by, "content": _content(tensors)}, sort_keys=True)})


def read_pairs(path: Path, made_by: Mapping[str, str]) -> Pairs:
    """Read the pairs that `made_by` made.

    Raises:
        ValueError: the file is damaged, or was made by something else; the message is one line.
    """
    remedy = "delete it, and it is made anew"
    try:
        with safe_open(path, framework="pt") as file:
            found = json.loads((file.metadata() or {}).get("made_by", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no dictionary)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"the pairs {path} cannot be read ({str(error).splitlines()[0]}): {remedy}") from None
    for key, value in made_by.items():
        if found.get(key) != value:
            raise ValueError(f"the pairs {path} were made with {key} {found.get(key)}, not {value}: {remedy}")
    if found.get("content") != _content(tensors):
        raise ValueError(f"the pairs {path} are damaged (their numbers do not match their SHA-256): {remedy}")
    return Pairs(tensors["noise"], tensors["x0"], tensors.get("label"))
