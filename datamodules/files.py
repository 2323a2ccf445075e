"""Images as files in a folder or in a zip archive."""

import json
import lzma
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
UNREADABLE = (
    zipfile.BadZipFile,
    RuntimeError,  # NotImplementedError too: an unknown compression
    UnicodeDecodeError,
    OSError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
)


def read_folder(folder: Path, limits: Limits) -> EncodedImages:
    """All images below a folder, sorted by path; other files are counted and ignored, hidden ones too.

    Labels are those of dataset.json, or else the index of the top folder among the sorted top folders.

    Raises:
        ValueError: a limit is passed, or dataset.json is at fault or lies in a sub-folder.
    """
    names, ignored, seen = [], 0, set()
    for directory, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(directory)
        folders[:] = [f for f in folders if not f.startswith(".") and real not in seen]
        if real in seen:  # a link back to where we were
            continue
        seen.add(real)
        for file in files:
            name = Path(directory, file).relative_to(folder).as_posix()
            if is_image(name):
                names.append(name)
                limits.check(str(folder), "images", len(names))
            elif file == LABELS and name != LABELS:
                raise ValueError(f"{folder}: {name} lies in a sub-folder; path must be the folder that holds it")
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


def zip_folders(path: Path) -> set[str]:
    """The top-level folders of an archive; "" stands for files beside them."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {n.partition("/")[0] if "/" in n else "" for n in archive.namelist()}
    except UNREADABLE as error:
        raise ValueError(f"{path}: no readable zip archive ({error})") from error


def read_zip(path: Path, limits: Limits, below: str = "") -> EncodedImages:
    """All images in a zip archive, sorted by name and read in place; labels as in `read_folder`.

    Args:
        path: of the archive.
        limits: what is refused.
        below: read only what this folder of the archive holds, "train/" for instance.

    Raises:
        ValueError: the archive is damaged or passes a limit; or a member is neither an image nor dataset.json, is
            encrypted or a link, or has a path that leads out of the archive.
    """
    members, text = [], None
    try:
        with zipfile.ZipFile(path) as archive:
            limits.check(str(path), "images", sum(not _is_folder(m) for m in archive.infolist()))
            for member in archive.infolist():
                _check_member(path, member)
                if _is_folder(member) or not member.filename.startswith(below):
                    continue
                if member.filename == below + LABELS:
                    limits.check(f"{path}: {LABELS}", "file_bytes", member.file_size)
                    text = archive.read(member)
                elif is_image(member.filename):
                    members.append(member)
                else:
                    raise ValueError(f"{path}: {member.filename} lies in a sub-folder, it belongs at the top")
    except UNREADABLE as error:
        raise ValueError(f"{path}: no readable zip archive ({error})") from error
    members.sort(key=lambda member: member.filename)
    if double := next((a for a, b in pairwise(members) if a.filename == b.filename), None):
        raise ValueError(f"{path}: {double.filename} is there twice")
    names = [member.filename.removeprefix(below) for member in members]
    source = f"{path}/{below}".rstrip("/")
    _check_sizes(source, names, [member.file_size for member in members], limits)
    labels, class_names = labels_of(source, names, text)

    def read() -> Iterator[tuple[str, bytes]]:
        with zipfile.ZipFile(path) as archive:
            for name, member in zip(names, members, strict=True):
                try:
                    data = archive.read(member)  # never more than file_size, and CRC-checked
                except UNREADABLE as error:
                    raise ValueError(f"{source}: {name} cannot be read ({error})") from error
                yield name, data

    return EncodedImages(source, len(names), read, labels, class_names)


def is_image(name: str) -> bool:
    """Whether a file's name says that it is an image, and not a hidden file."""
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _is_folder(member: zipfile.ZipInfo) -> bool:
    """As ZipInfo.is_dir(), which fails on an empty name."""
    return member.filename.endswith("/")


def _check_member(path: Path, member: zipfile.ZipInfo) -> None:
    name = member.filename
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or "\\" in name or ":" in name:
        raise ValueError(f"{path}: member {name!r} has a path that is not relative and inside the archive")
    if not name.isprintable():
        raise ValueError(f"{path}: member {name!r} has control characters in its name")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise ValueError(f"{path}: member {name!r} is a symbolic link")
    if member.flag_bits & 1:
        raise ValueError(f"{path}: member {name!r} is encrypted")
    if not _is_folder(member) and not is_image(name) and PurePosixPath(name).name != LABELS:
        raise ValueError(f"{path}: member {name!r} is neither an image ({' '.join(SUFFIXES)}) nor {LABELS}")


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
            is no such file, and then the top folders are the classes, sorted by name. Folders that all files share
            do not count, if there are others below. Files that lie in no folder have no class, and then none has.

    Raises:
        ValueError: the table is not of that form, or an image is not in it.
    """
    if table is not None:
        return _table_labels(f"{source}: {LABELS}", names, table), None
    folders = [name.split("/")[:-1] for name in names]
    if not all(folders):
        return None, None
    depth = next((i for i, level in enumerate(zip(*folders, strict=False)) if len(set(level)) > 1), 0)
    class_names = sorted({parts[depth] for parts in folders})
    index = {name: i for i, name in enumerate(class_names)}
    return [index[parts[depth]] for parts in folders], class_names


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
