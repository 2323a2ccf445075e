"""Files that are written whole or not at all, npz files of plain arrays, and names of files by what decides them."""

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np


def key_of(context: Mapping[str, Any]) -> str:
    """The name, 16 hexadecimal digits, of what plain values decide; their order does not count."""
    return hashlib.sha256(json.dumps(context, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `path` when the block ends, and is removed if the block fails.

    Its name is the process's own, so that two processes never write into one; missing folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays by name, not compressed: so numpy, EDM's fid.py and OpenAI's evaluator read them."""
    with replacing(path) as file:
        np.savez(file, **dict(arrays))


def read_npz(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Those of the named arrays that a file holds; nothing in it is executed, and every checksum is verified.

    Raises:
        ValueError: it cannot be read as an npz file of plain arrays.
    """
    try:
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as held:  # a .npy file is no zip file
            return {name: held[name] for name in names if name in held.files}
    except (OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: not an npz file of arrays, or a damaged one ({reason})") from None
