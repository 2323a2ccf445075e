"""Images as files in a folder or in a zip archive."""

import json
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

from datamodules.encoded import SUFFIXES, EncodedImages, Limits

LABELS = "dataset.json"


def read_folder(folder: Path, limits: Limits) -> EncodedImages:
    """All images below a folder, sorted by path; other files are counted and ignored, hidden ones too.

    Labels are those of dataset.json, or else the index of the top folder among the sorted top folders.

    Raises:
        ValueError: a limit is passed, or dataset.json is at fault.
    """
    names, ignored = [], 0
    for directory, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [f for f in folders if not f.startswith(".")]
        for file in files:
            name = Path(directory, file).relative_to(folder).as_posix()
            if is_image(name):
                names.append(name)
                limits.check(str(folder), "images", len(names))
            else:
                ignored += name != LABELS
    names.sort()
    sizes = [(folder / name).stat().st_size for name in names]
    _check_sizes(str(folder), names, sizes, limits)
    table = folder / LABELS
    text = None
    if table.is_file():
        limits.check(str(table), "file_bytes", table.stat().st_size)
        text = table.read_bytes()
    labels, class_names = labels_of(str(folder), names, text)

    def read() -> Iterator[tuple[str, bytes]]:
        for name in names:
            yield name, (folder / name).read_bytes()

    return EncodedImages(str(folder), len(names), read, labels, class_names, ignored)


def read_zip(path: Path, limits: Limits) -> EncodedImages:
    """All images in a zip archive, sorted by name and read in place; labels as in `read_folder`.

    Raises:
        ValueError: the archive is damaged or passes a limit; or a member is neither an image nor dataset.json, is
            encrypted or a link, or has a path that leads out of the archive.
    """
    members, text = [], None
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.is_dir():
                    continue
                _check_member(path, member)
                if member.filename == LABELS:
                    limits.check(f"{path}: {LABELS}", "file_bytes", member.file_size)
                    text = archive.read(member)
                else:
                    members.append(member)
                    limits.check(str(path), "images", len(members))
    except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: no readable zip archive ({error})") from error
    members.sort(key=lambda member: member.filename)
    names = [member.filename for member in members]
    if len(set(names)) < len(names):
        double = next(a for a, b in pairwise(names) if a == b)
        raise ValueError(f"{path}: {double} is there twice")
    _check_sizes(str(path), names, [member.file_size for member in members], limits)
    labels, class_names = labels_of(str(path), names, text)

    def read() -> Iterator[tuple[str, bytes]]:
        with zipfile.ZipFile(path) as archive:
            for member in members:
                try:
                    yield member.filename, archive.read(member)  # never more than file_size, and CRC-checked
                except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError, zlib.error) as error:
                    raise ValueError(f"{path}: {member.filename} cannot be read ({error})") from error

    return EncodedImages(str(path), len(names), read, labels, class_names)


def is_image(name: str) -> bool:
    """Whether a file's name says that it is an image, and not a hidden file."""
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _check_member(path: Path, member: zipfile.ZipInfo) -> None:
    name = member.filename
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or "\\" in name or ":" in name:
        raise ValueError(f"{path}: member {name!r} has a path that is not relative and inside the archive")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise ValueError(f"{path}: member {name} is a symbolic link")
    if member.flag_bits & 1:
        raise ValueError(f"{path}: member {name} is encrypted")
    if name != LABELS and not is_image(name):
        raise ValueError(f"{path}: member {name} is neither an image ({' '.join(SUFFIXES)}) nor {LABELS}")


def _check_sizes(source: str, names: Sequence[str], sizes: Sequence[int], limits: Limits) -> None:
    for name, size in zip(names, sizes, strict=True):
        limits.check(f"{source}: {name}", "file_bytes", size)
    limits.check(source, "total_bytes", sum(sizes))


def labels_of(source: str, names: Sequence[str], table: bytes | None) -> tuple[list[int] | None, list[str] | None]:
    """Labels and class names of files.

    Args:
        source: for messages.
        names: relative paths.
        table: content of dataset.json, `{"labels": [["00000/img.png", 6], ...]}` or `{"labels": null}`; None if there
            is no such file, and then the top folders are the classes, sorted by name. Files that lie in no folder
            have no class, and then none has.

    Raises:
        ValueError: the table is not of that form, or an image is not in it.
    """
    if table is not None:
        return _table_labels(f"{source}: {LABELS}", names, table), None
    tops = [name.partition("/")[0] for name in names]
    if not names or any("/" not in name for name in names):
        return None, None
    class_names = sorted(set(tops))
    index = {name: i for i, name in enumerate(class_names)}
    return [index[top] for top in tops], class_names


def _table_labels(source: str, names: Sequence[str], table: bytes) -> list[int] | None:
    try:
        content: Any = json.loads(table)
        pairs = content["labels"]
        given = None if pairs is None else {name: label for name, label in pairs}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f'{source}: not of the form {{"labels": [["image.png", 0], ...]}} ({error})') from error
    if given is None:
        return None
    for name in names:
        if name not in given:
            raise ValueError(f"{source}: no label for {name}")
        if type(given[name]) is not int or given[name] < 0:
            raise ValueError(f"{source}: the label of {name} is {given[name]!r}, allowed are integers from 0")
    return [given[name] for name in names]
