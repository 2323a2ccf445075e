"""Bad zip archives and parquet files: refused by `data pack` in one line, listed or refused by `data check`."""

import io
import json
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus import Corpus, archive_of, png
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules import Limits
from datamodules.images import open_images

LOCAL, CENTRAL, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"


def special(name: str, kind: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (kind | 0o777) << 16
    return info


MEMBERS: dict[str, tuple[str | zipfile.ZipInfo, bytes, str]] = {
    "absolute": ("/tmp/a.png", png(), "not relative and inside"),
    "absolute twice": ("//tmp/a.png", png(), "not relative and inside"),
    "parent": ("../a.png", png(), "not relative and inside"),
    "parent of a folder": ("a/../../b.png", png(), "not relative and inside"),
    "parent at the end": ("a/..", png(), "not relative and inside"),
    "parent in a folder's name": ("a/../", b"", "not relative and inside"),
    "a drive": ("C:a.png", png(), "not relative and inside"),
    "backslashes": ("..\\a.png", png(), "not relative and inside"),
    "an alternate stream": ("a.png:b.png", png(), "not relative and inside"),
    "a url": ("file:a.png", png(), "not relative and inside"),
    "a terminal's commands": ("a\x1b]0;x\x07.png", png(), "control characters"),
    "a line break": ("a\nb.png", png(), "control characters"),
    "right to left": ("a\u202egnp.png", png(), "control characters"),
    "a link": (special("a.png", stat.S_IFLNK), b"/etc/passwd", "symbolic link"),
    "a link to a folder": (special("a", stat.S_IFLNK), b"/etc", "symbolic link"),
    "a linked dataset.json": (special("dataset.json", stat.S_IFLNK), b"/etc/passwd", "symbolic link"),
    "a program": ("run.py", b"import os", "neither an image"),
    "a pickle": ("a/model.pkl", b"\x80\x04.", "neither an image"),
    "an archive": ("a.zip", b"PK", "neither an image"),
    "a hidden file": (".a.png", png(), "neither an image"),
    "no suffix": ("png", png(), "neither an image"),
    "two suffixes": ("a.png.exe", png(), "neither an image"),
    "the same name": ("good.png", png(), "there twice"),
    "text": ("a.png", b"text", "no readable image"),
    "no bytes": ("a.png", b"", "no readable image"),
    "labels below": ("a/dataset.json", b"{}", "lies in a sub-folder"),
    "labels that are no JSON": ("dataset.json", b"{", "not of the form"),
    "labels that are a list": ("dataset.json", b"[]", "not of the form"),
    "labels nested without end": ("dataset.json", b'{"labels": ' + b"[" * 10**6, "not of the form"),
    "labels that are a number": ("dataset.json", b'{"labels": 3}', "not of the form"),
    "labels of three parts": ("dataset.json", b'{"labels": [["good.png", 0, 0]]}', "not of the form"),
    "a label that is text": ("dataset.json", b'{"labels": [["good.png", "0"]]}', "label of good.png is '0'"),
    "a label that is null": ("dataset.json", b'{"labels": [["good.png", null]]}', "label of good.png is None"),
    "a label that is not a number": ("dataset.json", b'{"labels": [["good.png", NaN]]}', "label of good.png is nan"),
    "a label beyond reason": ("dataset.json", b'{"labels": [["good.png", 1048576]]}', "label of good.png is 1048576"),
    "labels as UTF-16": ("dataset.json", '{"labels": [["good.png", -1]]}'.encode("utf-16"), "label of good.png is -1"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("case", MEMBERS)
def test_bad_members(case: str, corpus: Corpus) -> None:
    name, data, says = MEMBERS[case]
    corpus.refused_data(archive_of(corpus.folder / "data.zip", (name, data)), says)


def edited(data: bytes, signature: bytes, offset: int, form: str, *values: int) -> bytes:
    """An archive in which a field of the last header of a kind is overwritten."""
    at = data.rindex(signature) + offset
    return data[:at] + struct.pack(form, *values) + data[at + struct.calcsize(form) :]


def deflated(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


def overlapping(copies: int) -> bytes:
    """Entries of the directory that all are the same bytes, so that a small file holds many images."""
    data = deflated("a000.png", png((64, 64)))
    start, end = data.index(CENTRAL), data.index(END)
    entries = [data[start:end].replace(b"a000", f"a{i:03d}".encode()) for i in range(copies)]
    directory = b"".join(entries)
    tail = edited(data[end:], END, 8, "<HHII", copies, copies, len(directory), start)
    return data[:start] + directory + tail


WHOLE = deflated("a.png", png((8, 8)))
STORED = io.BytesIO()
with zipfile.ZipFile(STORED, "w") as _archive:
    _archive.writestr("a.png", png((8, 8)))
PLAIN = STORED.getvalue()

BYTES: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "neither a zip archive nor a parquet file"),
    "text": (b"PK, but no archive", "neither a zip archive nor a parquet file"),
    "no member": (END + bytes(18), "no images"),
    "encrypted": (edited(WHOLE, CENTRAL, 8, "<H", 1), "encrypted"),
    "unknown compression": (edited(WHOLE, CENTRAL, 10, "<H", 99), "cannot be read"),
    "bzip2 that is none": (edited(WHOLE, CENTRAL, 10, "<H", 12), "cannot be read"),
    "lzma that is none": (edited(WHOLE, CENTRAL, 10, "<H", 14), "cannot be read"),
    "wrong CRC in the directory": (edited(WHOLE, CENTRAL, 16, "<I", 0), "CRC"),
    "pixels changed": (PLAIN[:90] + bytes([PLAIN[90] ^ 1]) + PLAIN[91:], "CRC"),
    "says 4 GB": (edited(WHOLE, CENTRAL, 24, "<I", 2**32 - 2), "limits.file_bytes"),
    "says fewer bytes than there are": (edited(WHOLE, CENTRAL, 24, "<I", 10), "cannot be read"),
    "says more bytes than there are": (edited(WHOLE, CENTRAL, 24, "<I", 10**6), "of 1000000"),
    "packed bytes beyond the end": (edited(WHOLE, CENTRAL, 20, "<I", 10**6), "overlap"),
    "starts beyond the end": (edited(WHOLE, CENTRAL, 42, "<I", 10**6), ""),
    "starts in another member": (edited(WHOLE, CENTRAL, 42, "<I", 4), "cannot be read"),
    "another name in the member": (WHOLE.replace(b"a.png", b"b.png", 1), "cannot be read"),
    "a directory that starts elsewhere": (edited(WHOLE, END, 12, "<II", 4, 10**9), "zip archive"),
    "needs a later version": (edited(WHOLE, CENTRAL, 6, "<H", 99), "no readable zip archive"),
    "a name that is not UTF-8": (edited(WHOLE, CENTRAL, 8, "<H", 0x800).replace(b"a.png", b"\xff.png"), "zip archive"),
    "a NUL in the name": (WHOLE.replace(b"a.png", b"\0.png"), ""),
    "bomb: 1,000 members of the same bytes": (overlapping(1000), "its members overlap"),
    "bomb: 65 MB of zeros": (deflated("a.png", bytes(2**26 + 1)), "limits.file_bytes"),
    "bomb: 60 MB of zeros": (deflated("a.png", bytes(60 * 2**20)), "no readable image"),
    "bomb: labels of 65 MB": (deflated("dataset.json", bytes(2**26 + 1)), "limits.file_bytes"),
    **{f"cut off after {n} of {len(WHOLE)} bytes": (WHOLE[:n], "") for n in range(0, len(WHOLE), len(WHOLE) // 12)},
}


@pytest.mark.parametrize("case", BYTES)
def test_bad_archives(case: str, corpus: Corpus) -> None:
    data, says = BYTES[case]
    (corpus.folder / "data.zip").write_bytes(data)
    corpus.refused_data(corpus.folder / "data.zip", says)


def rows(columns: dict[str, Any], names: Any = None, **options: Any) -> bytes:
    table = pa.table(columns)
    if names is not None:
        features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


CELL = {"bytes": png(), "path": "a.png"}
TABLE = rows({"image": [CELL] * 3, "label": [0, 1, 1]})


def repeated(count: int) -> bytes:
    """A file of 65 kB whose footer says that it has more rows than there are."""
    footer = struct.unpack("<I", TABLE[-8:-4])[0]
    meta = TABLE[-8 - footer : -8]
    assert meta.count(b"\x16\x06") >= 1  # num_rows, an i64 of the compact protocol: zigzag(3) = 6
    grown = meta.replace(b"\x16\x06", b"\x16" + varint(2 * count))
    return TABLE[: -8 - footer] + grown + struct.pack("<I", len(grown)) + b"PAR1"


def varint(value: int) -> bytes:
    out = b""
    while value >= 128:
        out, value = out + bytes([value % 128 + 128]), value // 128
    return out + bytes([value])


TABLES: dict[str, tuple[bytes, str]] = {
    "no image column": (rows({"picture": [CELL]}), "none of its columns picture"),
    "no column": (rows({"label": [0]}), "none of its columns label"),
    "no row": (rows({"image": pa.array([], pa.struct({"bytes": pa.binary(), "path": pa.string()}))}), "no images"),
    "null image": (rows({"image": [CELL, None]}), "row 1 holds no encoded image"),
    "null bytes": (rows({"image": [CELL, {"bytes": None, "path": "a.png"}]}), "row 1 holds no encoded image"),
    "a path to a file of this machine": (rows({"image": [{"bytes": None, "path": "/etc/passwd"}]}), "row 0 holds no"),
    "a path to a device": (rows({"image": [{"bytes": None, "path": "/dev/zero"}]}), "row 0 holds no encoded image"),
    "images that are numbers": (rows({"image": [3]}), "row 0 holds no encoded image"),
    "images that are text": (rows({"image": ["a.png"]}), "row 0 holds no encoded image"),
    "images that are lists": (rows({"image": [[0, 255]]}), "row 0 holds no encoded image"),
    "images that are maps of numbers": (rows({"image": [{"bytes": 3}]}), "row 0 holds no encoded image"),
    "bytes that are no image": (rows({"image": [b"text"]}), "no readable image"),
    "labels that are text": (rows({"image": [CELL], "label": ["cat"]}), "column label is of type string"),
    "labels that are fractions": (rows({"image": [CELL], "label": [0.5]}), "column label is of type double"),
    "labels that are truths": (rows({"image": [CELL], "label": [True]}), "column label is of type bool"),
    "labels that are lists": (rows({"image": [CELL], "label": [[0]]}), "column label is of type list"),
    "labels with a gap": (rows({"image": [CELL] * 2, "label": [0, None]}), "with 1 gaps"),
    "a negative label": (rows({"image": [CELL] * 2, "label": [0, -1]}), "goes down to -1"),
    "a huge label": (rows({"image": [CELL], "label": pa.array([2**64 - 1], pa.uint64())}), "goes up to 184467440"),
    "a label beyond the names": (rows({"image": [CELL], "label": [2]}, ["cat", "dog"]), "its schema names 2 classes"),
    "names that are none": (rows({"image": [None], "label": [0]}, 3), "row 0 holds no encoded image"),
    "more rows than there are": (repeated(1000), ""),
    "more rows than allowed": (repeated(10**7), "limits.images"),
    "more rows than numbers": (repeated(2**62), ""),
    "a negative number of rows": (TABLE.replace(b"\x16\x06", b"\x16\x05"), ""),
    "only the signature": (b"PAR1", "no readable parquet file"),
    "a footer beyond the file": (TABLE[:-8] + struct.pack("<I", 2**31) + b"PAR1", "no readable parquet file"),
    "a footer of nothing": (TABLE[:-8] + struct.pack("<I", 0) + b"PAR1", "no readable parquet file"),
    "an encrypted footer": (TABLE[:-4] + b"PARE", "no readable parquet file"),
    **{f"cut off after {n} of {len(TABLE)} bytes": (TABLE[:n], "") for n in range(4, len(TABLE), len(TABLE) // 10)},
}  # fmt: skip


@pytest.mark.parametrize("case", TABLES)
def test_bad_tables(case: str, corpus: Corpus) -> None:
    data, says = TABLES[case]
    (corpus.folder / "data.parquet").write_bytes(data)
    corpus.refused_data(corpus.folder / "data.parquet", says)


def saved(folder: Path, **files: str) -> Path:
    """What looks like a data set that Hugging Face's `save_to_disk` wrote."""
    folder.mkdir()
    for name, text in files.items():
        (folder / name.replace("_json", ".json")).write_text(text)
    return folder


SAVED: dict[str, Callable[[Path], Path]] = {
    "an empty state": lambda f: saved(f, state_json=""),
    "a state without data": lambda f: saved(f, state_json='{"_data_files": []}', dataset_info_json="{}"),
    "a state of other files": lambda f: saved(
        f, state_json='{"_data_files": [{"filename": "../../../etc/passwd"}]}', dataset_info_json='{"features": {}}'
    ),
    "splits that are not there": lambda f: saved(f, dataset_dict_json='{"splits": ["train"]}'),
    "splits that are none": lambda f: saved(f, dataset_dict_json="[]"),
}


@pytest.mark.parametrize("case", SAVED)
def test_bad_saved_data_sets(case: str, corpus: Corpus) -> None:
    corpus.refused_data(SAVED[case](corpus.folder / "data"))


def read_all(path: Path) -> None:
    """Read a file as it would be for training; whatever is wrong with it is a ValueError of one line."""
    try:
        images = open_images(str(path), "train", Limits())
        if images is not None:
            images.decode(4, 3, Limits())
    except ValueError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize("suffix", ["zip", "parquet"])
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_damaged_files_never_give_another_error(
    suffix: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(WHOLE if suffix == "zip" else TABLE)
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / f"a.{suffix}"
    path.write_bytes(content)
    read_all(path)
