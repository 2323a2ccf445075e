"""What the tests of bad input share: one line, an exit code, and nothing executed, written or changed."""

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from main import main

LONGEST = 700
"""Characters of an error's line; what is longer repeats the input."""


def some_slow(cases: Iterable[Any], fast: Callable[[Any], bool]) -> list[Any]:
    """Cases for pytest.mark.parametrize, those that are not `fast` behind the marker `slow`."""
    return [case if fast(case) else pytest.param(case, marks=pytest.mark.slow) for case in cases]


class Corpus:
    """Runs commands in a folder that they must leave as it is.

    A payload that ran would create a file there, and so would a command that went on.
    """

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str]):
        self.folder, self.capfd = folder, capfd

    def refused(self, *args: object, code: int = 2, says: str = "") -> str:
        """The one line of a command that fails with an exit code and changes nothing."""
        before = snapshot(self.folder)
        self.capfd.readouterr()
        got = main([str(arg) for arg in args])
        err = self.capfd.readouterr().err
        assert got == code, (got, err)
        assert err.startswith("error: ") and err.count("\n") == 1, err
        assert says in err and len(err) < LONGEST and err.rstrip("\n").isprintable(), err
        assert snapshot(self.folder) == before
        return err

    def refused_data(self, path: Path | str, says: str = "") -> None:
        """A data set that is packed by neither format; `check` lists the fault or refuses the whole."""
        self.refused("data", "pack", path, "--to", "edm", "--out", self.folder / "out" / "a.zip", says=says)
        self.refused("data", "pack", path, "--to", "parquet", "--out", self.folder / "out" / "a.parquet", says=says)
        before = snapshot(self.folder)
        assert main(["data", "check", str(path)]) in (1, 2)
        told = self.capfd.readouterr()
        assert told.err.startswith("error: ") and told.err.count("\n") == 1, told.err
        assert says in told.out + told.err
        assert snapshot(self.folder) == before


def snapshot(folder: Path) -> dict[str, Any]:
    """Every path below a folder with what it is and holds."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        held = path.read_bytes() if stat.S_ISREG(status.st_mode) else None
        found[path.relative_to(folder).as_posix()] = (status.st_mode, status.st_mtime_ns if held else 0, held)
    return found


def png(size: tuple[int, int] = (4, 4), mode: str = "RGB", seed: int = 0) -> bytes:
    """Random pixels."""
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], *channels), dtype=np.uint8)
    return encoded(Image.fromarray(pixels))


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """A file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png_of(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file of chunks that say whatever they like, with right checksums."""
    parts = [struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def header(width: int, height: int, depth: int = 8, colour: int = 2) -> tuple[bytes, bytes]:
    """A PNG file's first chunk."""
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)


def folder_of(root: Path, **files: bytes) -> Path:
    """A folder of files; a good image is among them."""
    root.mkdir(parents=True, exist_ok=True)
    for name, data in {"good.png": png(), **files}.items():
        (root / name).write_bytes(data)
    return root


def archive_of(
    path: Path, *members: tuple[str | zipfile.ZipInfo, bytes], compression: int = zipfile.ZIP_STORED
) -> Path:
    """A zip archive of a good image and other members."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in (("good.png", png()), *members):
            archive.writestr(name, data)
    return path
