"""`data check` and `data pack`: what is found in a data set, and that nothing is lost in a packed one."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from corpus import archive_of, encoded, folder_of, png
from PIL import Image

from datamodules import ImageDataModule
from main import main

COUNT, CATS = 150, 60
"""More than a row group of the table."""


def write_source(root: Path, count: int) -> Path:
    """Two classes of RGB images of 4 x 4 pixels."""
    for i in range(count):
        file = root / ("cat" if i < CATS else "dog") / f"{i:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(seed=i))
    return root


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("source") / "data", COUNT)


def check(path: Path, capsys: pytest.CaptureFixture[str], code: int = 0) -> dict:
    """What `data check --json` finds."""
    capsys.readouterr()
    assert main(["data", "check", str(path), "--json"]) == code
    return json.loads(capsys.readouterr().out)


def pack(path: Path, to: str, out: Path, *options: str) -> Path:
    assert main(["data", "pack", str(path), "--to", to, "--out", str(out), *options]) == 0
    return out


def test_the_archive_has_edms_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As NVlabs/edm's dataset_tool.py (commit 008a4e5) writes it; its own output was compared byte for byte."""
    count, source = 1003, write_source(tmp_path / "data", 1003)  # more than a folder holds
    out = pack(source, "edm", tmp_path / "a.zip")
    assert "1,003 images, 3 x 4 x 4, 2 classes" in capsys.readouterr().out
    with zipfile.ZipFile(out) as archive:
        names = archive.namelist()
        assert names == [f"{i // 1000:05d}/img{i:08d}.png" for i in range(count)] + ["dataset.json"]
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}
        content = json.loads(archive.read("dataset.json"))
        assert content == {"labels": [[name, int(i >= CATS)] for i, name in enumerate(names[:-1])]}
        for i in (0, 999, 1000, 1002):
            with archive.open(names[i]) as file, Image.open(file) as image:
                original = Image.open(source / ("cat" if i < CATS else "dog") / f"{i:04d}.png")
                assert image.format == "PNG" and image.mode == "RGB"
                assert np.array_equal(np.array(image), np.array(original))
        first = archive.read(names[0])  # compression level 0: zlib's stored blocks
        assert first[first.index(b"IDAT") + 4 :][:3] == b"\x78\x01\x01"
    assert pack(source, "edm", tmp_path / "b.zip").read_bytes() == out.read_bytes()


def test_one_hash_for_all_containers(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = [check(source, capsys)]
    found.append(check(pack(source, "edm", tmp_path / "a.zip"), capsys))
    found.append(check(pack(tmp_path / "a.zip", "parquet", tmp_path / "a.parquet"), capsys))
    found.append(check(pack(tmp_path / "a.parquet", "edm", tmp_path / "b.zip"), capsys))
    splits = [f["splits"]["train"] for f in found]
    assert {s["sha256"] for s in splits} == {splits[0]["sha256"]}
    assert splits[0]["classes"] == {"cat": CATS, "dog": COUNT - CATS} and splits[1]["classes"] == {
        "0": CATS,
        "1": COUNT - CATS,
    }
    assert all(s["images"] == COUNT and s["sizes"] == {"4x4": COUNT} and s["modes"] == {"RGB": COUNT} for s in splits)
    assert (tmp_path / "b.zip").read_bytes() == (tmp_path / "a.zip").read_bytes()
    (source / "cat" / "0000.png").write_bytes(png(seed=COUNT))
    assert check(source, capsys)["splits"]["train"]["sha256"] != splits[0]["sha256"]
    (source / "cat" / "0000.png").write_bytes(png(seed=0))


def test_hugging_face_reads_the_table(source: Path, tmp_path: Path) -> None:
    import datasets

    out = pack(source, "parquet", tmp_path / "a.parquet")
    rows = datasets.Dataset.from_parquet(str(out), cache_dir=str(tmp_path / "cache"))
    assert isinstance(rows.features["image"], datasets.Image)
    assert rows.features["label"].names == ["cat", "dog"]
    assert len(rows) == COUNT and rows[101]["label"] == 1
    original = source / "dog" / "0101.png"
    assert np.array_equal(np.array(rows[101]["image"]), np.array(Image.open(original)))
    raw = rows.cast_column("image", datasets.Image(decode=False))[101]["image"]
    assert raw == {"bytes": original.read_bytes(), "path": "dog/0101.png"}


def test_packed_files_train_as_the_folder_does(source: Path, tmp_path: Path) -> None:
    wanted, labels = ImageDataModule(str(source), 4, num_classes=2).split("train")
    for to, name in (("edm", "a.zip"), ("parquet", "a.parquet")):
        images, classes = ImageDataModule(str(pack(source, to, tmp_path / name)), 4, num_classes=2).split("train")
        assert (images == wanted).all() and (classes == labels).all()


def test_grey_images_stay_grey(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "d").mkdir()
    for i in range(3):
        (tmp_path / "d" / f"{i}.png").write_bytes(png((6, 6), "L", seed=i))
    out = pack(tmp_path / "d", "edm", tmp_path / "a.zip")
    assert "note: 6 is no power of two" in capsys.readouterr().out
    with zipfile.ZipFile(out) as archive:
        assert json.loads(archive.read("dataset.json")) == {"labels": None}
        with archive.open("00000/img00000002.png") as file:
            assert Image.open(file).mode == "L"
    assert check(out, capsys)["splits"]["train"] == check(tmp_path / "d", capsys)["splits"]["train"] | {
        "source": str(out),
        "modes": {"L": 3},
    }
    (tmp_path / "d" / "3.png").write_bytes(png((6, 6), "RGB", seed=3))
    with zipfile.ZipFile(pack(tmp_path / "d", "edm", tmp_path / "b.zip")) as archive:
        modes = {Image.open(archive.open(f"00000/img0000000{i}.png")).mode for i in range(4)}
    assert modes == {"RGB"}


def test_resolution(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = folder_of(tmp_path / "d", **{"wide.png": png((9, 5))})
    assert main(["data", "pack", str(data), "--to", "edm", "--out", str(tmp_path / "a.zip")]) == 2
    assert "the images are 4x4, 9x5, and one square size is needed: give --resolution" in capsys.readouterr().err
    for to, name in (("edm", "a.zip"), ("parquet", "a.parquet")):
        found = check(pack(data, to, tmp_path / name, "--resolution", "8"), capsys)
        assert found["splits"]["train"]["sizes"] == {"8x8": 2}
    kept = check(pack(data, "parquet", tmp_path / "b.parquet"), capsys)["splits"]["train"]
    assert kept["sizes"] == {"4x4": 1, "9x5": 1} and kept["sha256"] == check(data, capsys)["splits"]["train"]["sha256"]


def test_what_is_wrong_is_listed_and_the_rest_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = folder_of(tmp_path / "d", **{"a.png": b"text", "b.png": png()[:-30], "same.png": png(), "notes.txt": b""})
    (data / "grey.jpg").write_bytes(encoded(Image.new("L", (5, 5)), "JPEG"))
    found = check(data, capsys, code=1)["splits"]["train"]
    assert found["images"] == 3 and found["other_files"] == 1
    assert found["formats"] == {"PNG": 2, "JPEG": 1} and found["modes"] == {"RGB": 2, "L": 1}
    assert found["duplicates"] == [["good.png", "same.png"]] and found["classes"] is None
    assert [fault["file"] for fault in found["faults"]] == ["a.png", "b.png"]
    assert main(["data", "check", str(data)]) == 1
    out, err = capsys.readouterr()
    assert err == f"error: {data}: 2 files cannot be used\n"
    assert "a.png: no readable image (none of PNG" in out and "duplicates  1: good.png = same.png" in out


def test_bad_members_of_an_archive_are_all_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = archive_of(
        tmp_path / "a.zip", ("../x.png", png()), ("run.py", b""), ("cat/1.png", b""), ("cat/2.png", png())
    )
    found = check(path, capsys, code=1)["splits"]["train"]
    assert found["images"] == 2 and [f["file"] for f in found["faults"]] == ["../x.png", "run.py", "cat/1.png"]


def test_splits_and_leaks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder_of(tmp_path / "d" / "train", **{"1.png": png(seed=1)})
    folder_of(tmp_path / "d" / "test", **{"2.png": png(seed=2)})
    found = check(tmp_path / "d", capsys)
    assert set(found["splits"]) == {"train", "test"} and found["test_images_in_train"] == 1
    assert main(["data", "check", str(tmp_path / "d")]) == 0
    assert "1 images of the test split are in the training split too" in capsys.readouterr().out
    out = pack(tmp_path / "d", "edm", tmp_path / "a.zip", "--split", "test")
    assert check(out, capsys)["splits"]["train"]["sha256"] == found["splits"]["test"]["sha256"]


def test_a_file_is_written_whole_or_not_at_all(tmp_path, capsys, monkeypatch) -> None:
    data = folder_of(tmp_path / "d", **{"1.png": png(seed=1)})
    (tmp_path / "there.zip").write_bytes(b"precious")
    assert main(["data", "pack", str(data), "--to", "edm", "--out", str(tmp_path / "there.zip")]) == 2
    assert "there already" in capsys.readouterr().err and (tmp_path / "there.zip").read_bytes() == b"precious"
    written = []

    def full(self, info, content):
        written.append(info)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    assert main(["data", "pack", str(data), "--to", "edm", "--out", str(tmp_path / "a.zip")]) == 1
    assert written and capsys.readouterr().err == "error: a file cannot be written: no space left on device\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d", "there.zip"]
