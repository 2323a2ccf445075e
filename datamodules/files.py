"""Images as files in a folder or in a zip archive."""

import json
import lzma
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from datamodules.encoded import MOST_CLASSES, SUFFIXES, EncodedImages, Fault, Limits, refuse

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


def read_folder(folder: Path, limits: Limits, fault: Fault = refuse) -> EncodedImages:
    """All images below a folder, sorted by path; other files are counted and ignored, hidden ones too.

    Labels are those of dataset.json, or else the index of the top folder among the sorted top folders.

    Args:
        folder: where they are.
        limits: what is refused.
        fault: called for a file that cannot be used or is too large, and for a dataset.json that is at fault or lies in
            a sub-folder; what it does not refuse is left out.

    Raises:
        ValueError: there are too many, or `fault` refuses one.
    """
    names, ignored = [], 0
    for name in _walk(folder, fault):
        if is_image(name):
            names.append(name)
            limits.check(str(folder), "images", len(names))
        elif name.endswith(f"/{LABELS}"):
            fault(name, f"{folder}: {name} lies in a sub-folder; path must be the folder that holds it")
        else:
            ignored += name != LABELS
    names.sort()
    sizes = {name: _file_size(folder, name, fault) for name in names}
    names = _within_limits(str(folder), {name: size for name, size in sizes.items() if size is not None}, limits, fault)
    table = folder / LABELS
    text = None
    if table.is_file() and _within_limits(str(folder), {LABELS: table.stat().st_size}, limits, fault):
        text = table.read_bytes()
    labels, class_names = labels_of(str(folder), names, text, fault)

    def load(name: str) -> bytes:
        try:
            return (folder / name).read_bytes()
        except OSError as error:
            raise ValueError(f"{folder}: {name} cannot be read ({error.strerror})") from error

    def read() -> Iterator[tuple[str, Callable[[], bytes]]]:
        for name in names:
            yield name, partial(load, name)

    return EncodedImages(str(folder), len(names), read, labels, class_names, ignored)


def _walk(folder: Path, fault: Fault) -> Iterator[str]:
    """Relative paths of all files below a folder, without hidden folders; linked ones are followed, each once."""

    def unreadable(error: OSError) -> None:
        name = Path(error.filename).relative_to(folder).as_posix()
        fault(name, f"{folder}: {name} cannot be read ({error.strerror})")

    seen = set()
    for directory, folders, files in os.walk(folder, followlinks=True, onerror=unreadable):
        real = os.path.realpath(directory)
        folders[:] = [f for f in folders if not f.startswith(".") and real not in seen]
        if real not in seen:  # and no link back to where we were
            seen.add(real)
            yield from (Path(directory, file).relative_to(folder).as_posix() for file in files)


def _file_size(folder: Path, name: str, fault: Fault) -> int | None:
    """The size of a file in bytes, None if it is none: reading a pipe or a device would never end."""
    if not name.isprintable():
        fault(name, f"{folder}: {name!r} has characters in its name that cannot be shown")
        return None
    try:
        status = (folder / name).stat()
    except OSError as error:
        fault(name, f"{folder}: {name} cannot be read ({error.strerror})")
        return None
    if not stat.S_ISREG(status.st_mode):
        fault(name, f"{folder}: {name} is no regular file")
        return None
    return status.st_size


def zip_folders(path: Path) -> set[str]:
    """The top-level folders of an archive; "" stands for files beside them."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {n.partition("/")[0] if "/" in n else "" for n in archive.namelist()}
    except UNREADABLE as error:
        raise ValueError(f"{path}: no readable zip archive ({error})") from error


def read_zip(path: Path, limits: Limits, below: str = "", fault: Fault = refuse) -> EncodedImages:
    """All images in a zip archive, sorted by name and read in place; labels as in `read_folder`.

    Args:
        path: of the archive.
        limits: what is refused.
        below: read only what this folder of the archive holds, "train/" for instance.
        fault: called for a member that is neither an image nor dataset.json, is encrypted or a link, is there twice, is
            too large, or has a path that leads out of the archive; what it does not refuse is left out.

    Raises:
        ValueError: the archive is damaged or passes a limit, or `fault` refuses a member.
    """
    text: bytes | None = None
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(path, archive.infolist(), limits, below, fault)
            if table := members.pop(below + LABELS, None):
                text = archive.read(table)
    except UNREADABLE as error:
        raise ValueError(f"{path}: no readable zip archive ({error})") from error
    source = f"{path}/{below}".rstrip("/")
    sizes = {name.removeprefix(below): members[name].file_size for name in sorted(members)}
    names = _within_limits(source, sizes, limits, fault)
    labels, class_names = labels_of(source, names, text, fault)

    def load(archive: zipfile.ZipFile, name: str) -> bytes:
        member = members[below + name]
        try:
            data = archive.read(member)  # never more than file_size, and CRC-checked
        except UNREADABLE as error:
            raise ValueError(f"{source}: {name} cannot be read ({error})") from error
        if len(data) != member.file_size:
            raise ValueError(f"{source}: {name} cannot be read ({len(data)} bytes of {member.file_size})")
        return data

    def read() -> Iterator[tuple[str, Callable[[], bytes]]]:
        with zipfile.ZipFile(path) as archive:
            for name in names:
                yield name, partial(load, archive, name)

    return EncodedImages(source, len(names), read, labels, class_names)


def _members(
    path: Path, infos: Sequence[zipfile.ZipInfo], limits: Limits, below: str, fault: Fault
) -> dict[str, zipfile.ZipInfo]:
    """The images and the dataset.json of a folder of an archive by name; every other member is looked at too."""
    files = [member for member in infos if not member.filename.endswith("/")]  # is_dir() fails on an empty name
    limits.check(str(path), "images", len(files))
    if (packed := sum(member.compress_size for member in files)) > (size := path.stat().st_size):
        raise ValueError(f"{path}: its members overlap: {packed:,} bytes of them in a file of {size:,}")
    members: dict[str, zipfile.ZipInfo] = {}
    for member in infos:
        name = member.filename
        reason = _member_fault(member)
        if reason is None and name.startswith(below) and not name.endswith("/"):
            if not is_image(name) and name != below + LABELS:
                reason = f"{name} lies in a sub-folder, it belongs at the top"
            elif name in members:
                reason = f"{name} is there twice"
            elif name == below + LABELS and member.file_size > limits.file_bytes:
                reason = f"{name}: {member.file_size:,} bytes, allowed are {limits.file_bytes:,} (limits.file_bytes)"
            else:
                members[name] = member
        if reason is not None:
            fault(name, f"{path}: {reason}")
    return members


def is_image(name: str) -> bool:
    """Whether a file's name says that it is an image, and not a hidden file."""
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _member_fault(member: zipfile.ZipInfo) -> str | None:
    """Why a member of an archive is refused whatever it holds."""
    name = member.filename
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or "\\" in name or ":" in name:
        return f"member {name!r} has a path that is not relative and inside the archive"
    if not name.isprintable():
        return f"member {name!r} has control characters in its name"
    if stat.S_ISLNK(member.external_attr >> 16):
        return f"member {name!r} is a symbolic link"
    if member.flag_bits & 1:
        return f"member {name!r} is encrypted"
    if not name.endswith("/") and not is_image(name) and PurePosixPath(name).name != LABELS:
        return f"member {name!r} is neither an image ({' '.join(SUFFIXES)}) nor {LABELS}"
    return None


def _within_limits(source: str, sizes: Mapping[str, int], limits: Limits, fault: Fault) -> list[str]:
    """The names of the files that are not too large.

    Raises:
        ValueError: all together are.
    """
    names = []
    for name, size in sizes.items():
        try:
            limits.check(f"{source}: {name}", "file_bytes", size)
            names.append(name)
        except ValueError as error:
            fault(name, str(error))
    limits.check(source, "total_bytes", sum(sizes[name] for name in names))
    return names


def labels_of(
    source: str, names: Sequence[str], table: bytes | None, fault: Fault = refuse
) -> tuple[list[int] | None, list[str] | None]:
    """Labels and class names of files.

    Args:
        source: for messages.
        names: relative paths.
        table: content of dataset.json, `{"labels": [["00000/img.png", 6], ...]}` or `{"labels": null}`; None if there
            is no such file, and then the top folders are the classes, sorted by name. Folders that all files share
            do not count, if there are others below. Files that lie in no folder have no class, and then none has.
        fault: called if the table is not of that form, or an image is not in it; if it does not refuse it, there are no
            labels.
    """
    if table is not None:
        try:
            return _table_labels(f"{source}: {LABELS}", names, table), None
        except ValueError as error:
            fault(LABELS, str(error))
            return None, None
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
        if type(given[name]) is not int or not 0 <= given[name] < MOST_CLASSES:
            label = repr(given[name])[:40]
            raise ValueError(
                f"{source}: the label of {name} is {label}, allowed are integers from 0 to {MOST_CLASSES - 1}"
            )
    return [given[name] for name in names]
