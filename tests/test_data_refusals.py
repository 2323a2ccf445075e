"""What image sources are refused, each in one line that names what is wrong."""

import io
import json
import stat
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules import ImageDataModule, Limits


def png(size: tuple[int, int] = (4, 4), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, "PNG")
    return buffer.getvalue()


def refused(path: Path | str, match: str, **options: object) -> None:
    data = ImageDataModule(str(path), **{"resolution": 4, "channels": 3, **options})
    with pytest.raises(ValueError, match=match) as caught:
        data.setup("fit")
    assert "\n" not in str(caught.value)


def archive(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path / "a.zip", "w") as out:
        out.writestr("0.png", png())
        for name, data in members:
            out.writestr(name, data)
    return path / "a.zip"


@pytest.mark.parametrize("name", ["/etc/1.png", "../1.png", "a/../../1.png", "..\\1.png", "C:\\1.png", "C:/1.png"])
def test_paths_that_lead_out_of_an_archive(name: str, tmp_path: Path) -> None:
    refused(archive(tmp_path, (name, png())), "not relative and inside")


def test_links_in_an_archive(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("1.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    refused(archive(tmp_path, (link, b"/etc/passwd")), "'1.png' is a symbolic link")


@pytest.mark.parametrize("name", ["run.py", "a/model.pkl", ".0.png", "image"])
def test_members_that_are_no_images(name: str, tmp_path: Path) -> None:
    refused(archive(tmp_path, (name, b"")), f"{name}' is neither an image")


def test_names_that_would_garble_a_line(tmp_path: Path) -> None:
    refused(archive(tmp_path, ("a\nb.png", png())), r"'a\\nb\.png' has control characters")
    path = archive(tmp_path, ("ä.png", png()))
    path.write_bytes(path.read_bytes().replace("ä".encode(), b"\xc2\xc2"))
    refused(path, r"a\.zip: no readable zip archive")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_is_there_twice(tmp_path: Path) -> None:
    refused(archive(tmp_path, ("0.png", png())), r"0\.png is there twice")


def test_encrypted_members(tmp_path: Path) -> None:
    path = archive(tmp_path)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the flag in the central directory
    path.write_bytes(data)
    refused(path, r"'0\.png' is encrypted")


def test_a_member_whose_content_was_changed(tmp_path: Path) -> None:
    path = archive(tmp_path)
    data = bytearray(path.read_bytes())
    data[60] ^= 255
    path.write_bytes(data)
    refused(path, r"0\.png cannot be read.*CRC")


def test_a_member_that_unpacks_to_more_than_it_says(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("0.png", png() + bytes(10**6))
    data = path.read_bytes()
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = data.index(signature) + offset
        data = data[:at] + struct.pack("<I", 100) + data[at + 4 :]
    path.write_bytes(data)
    refused(path, r"0\.png cannot be read")


def test_damaged_archives_and_tables(tmp_path: Path) -> None:
    whole = archive(tmp_path).read_bytes()
    (tmp_path / "half.zip").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "half.zip", r"half\.zip.*neither a zip archive nor a parquet file")
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + bytes(100))
    refused(tmp_path / "a.parquet", r"a\.parquet: no readable parquet file")


@pytest.mark.parametrize(
    ("limits", "match"),
    [
        (Limits(images=2), r"3 images.*allowed are 2 \(limits\.images\)"),
        (Limits(pixels=15), r"0\.png: 16 pixels.*limits\.pixels"),
        (Limits(file_bytes=50), r"0\.png: .*limits\.file_bytes"),
        (Limits(total_bytes=200), r"limits\.total_bytes"),
        (Limits(memory_bytes=143), r"144 memory bytes.*limits\.memory_bytes"),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_limits(kind: str, limits: Limits, match: str, tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(png())
    path = archive(tmp_path, ("1.png", png()), ("2.png", png())) if kind == "zip" else tmp_path
    refused(path, match, limits=limits)
    ImageDataModule(str(path), 4, 3, limits=Limits(3, 16, 100, 300, 144)).setup("fit")


@pytest.mark.parametrize("side", [10_000, 30_000])  # the second is over Pillow's own limit too
def test_the_size_is_refused_before_pixels_are_decoded(side: int, tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b""))
    refused(tmp_path, rf"bomb\.png: .*({side**2}|{side**2:,}) pixels")


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("data", [b"", b"no image", png()[:-30]], ids=["empty", "text", "cut off"])
def test_a_corrupt_image_is_named(kind: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(data)
    refused(archive(tmp_path, ("bad.png", data)) if kind == "zip" else tmp_path, r"bad\.png: no readable image")


def test_deep_pixels_are_not_cut_to_eight_bits(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "deep.png")
    refused(tmp_path, r"deep\.png: pixels of mode I")


def test_nothing_there(tmp_path: Path) -> None:
    refused(tmp_path, "no images")
    (tmp_path / "notes.txt").write_text("")
    refused(tmp_path, "no images among 1 files")
    refused(tmp_path / "absent", "absent'?: no such file or folder")
    refused(tmp_path / "notes.txt", "neither a zip archive nor a parquet file")
    with zipfile.ZipFile(tmp_path / "none.zip", "w"):
        pass
    refused(tmp_path / "none.zip", "no images")


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ("{", "not of the form"),
        ("[1]", "not of the form"),
        ("{}", "not of the form"),
        ('{"labels": [3]}', "not of the form"),
        ('{"labels": []}', r"no label for 0\.png"),
        ('{"labels": [["0.png", "cat"]]}', r"label of 0\.png is 'cat'"),
        ('{"labels": [["0.png", -1]]}', r"label of 0\.png is -1"),
        ('{"labels": [["0.png", 0.5]]}', r"label of 0\.png is 0\.5"),
        ('{"labels": [["0.png", true]]}', r"label of 0\.png is True"),
        (f'{{"labels": {"[" * 100_000}', "not of the form"),
    ],
)
def test_a_faulty_dataset_json(table: str, match: str, tmp_path: Path) -> None:
    refused(archive(tmp_path, ("dataset.json", table.encode())), f"dataset.json: .*{match}|{match}")


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_dataset_json_that_would_be_overlooked(kind: str, tmp_path: Path) -> None:
    table = json.dumps({"labels": [["1.png", 0]]}).encode()
    path = archive(tmp_path, ("sub/1.png", png()), ("sub/dataset.json", table))
    if kind == "folder":
        path = tmp_path / "d"
        (path / "sub").mkdir(parents=True)
        (path / "sub" / "1.png").write_bytes(png())
        (path / "sub" / "dataset.json").write_bytes(table)
    refused(path, r"sub/dataset\.json lies in a sub-folder")


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({"picture": [{"bytes": png(), "path": ""}]}, "none of its columns picture is called image or img"),
        ({"image": [{"bytes": None, "path": "/etc/passwd"}]}, "row 0 holds no encoded image"),
        ({"image": [1]}, "row 0 holds no encoded image"),
        ({"image": [{"bytes": b"x", "path": ""}]}, "row 0: no readable image"),
        ({"image": [{"bytes": png(), "path": ""}], "label": ["cat"]}, "column label is of type string"),
        ({"image": [{"bytes": png(), "path": ""}] * 2, "label": [0, None]}, "with 1 gaps"),
        ({"image": [{"bytes": png(), "path": ""}] * 2, "label": [0, -1]}, "goes down to -1"),
    ],
)
def test_faulty_tables(columns: dict[str, list[object]], match: str, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", match)


def test_a_label_beyond_the_names_in_the_schema(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    info = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    table = pa.table({"image": [{"bytes": png(), "path": ""}] * 2, "label": [0, 2]})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(info)}), tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", "goes up to 2, but its schema names 2 classes")


def test_a_linked_folder_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.png").write_bytes(png())
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    assert len(ImageDataModule(str(tmp_path), 4, 3).split("train")[0]) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"resolution": 0},
        {"channels": 2},
        {"num_classes": -1},
        {"holdout": 1.0},
        {"holdout": -0.1},
        {"batch_size": 0},
        {"holdout": 0.5, "test_path": "x"},
    ],
)
def test_arguments_out_of_range(options: dict[str, object]) -> None:
    (name, value), *_ = options.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        ImageDataModule("p", **{"resolution": 4, "channels": 3, **options})
