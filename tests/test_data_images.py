"""Images from every kind of source, made here."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import ImageDataModule, Limits
from datamodules.encoded import decode_image

CLASSES = ("bird", "cat", "dog")
COUNT = 9


def picture(i: int, size: tuple[int, int] = (6, 6), mode: str = "RGB") -> Image.Image:
    """Image i: random pixels, width x height."""
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    pixels = np.random.default_rng(i).integers(0, 256, (size[1], size[0], *channels), dtype=np.uint8)
    return Image.fromarray(pixels)


def png(image: Image.Image, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def expected(indices: range = range(COUNT)) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.asarray(picture(i)).copy()).permute(2, 0, 1) for i in indices])


def write_folder(root: Path, indices: range = range(COUNT), classes: tuple[str, ...] = CLASSES) -> Path:
    """Class folders; image i is of class i // 3, so that the order by name is 0, 1, 2, ..."""
    for i in indices:
        file = root / classes[i // 3] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(picture(i)))
    return root


def write_zip(path: Path, labels: object = "absent") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(COUNT):
            archive.writestr(f"00000/img{i}.png", png(picture(i)))
        if labels != "absent":
            archive.writestr("dataset.json", json.dumps({"labels": labels}))
    return path


def write_parquet(path: Path, indices: range = range(COUNT), column: str = "image") -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = [{"bytes": png(picture(i)), "path": f"{i}.png"} for i in indices]
    rows = {column: cells, "label": [i // 3 for i in indices]}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(rows), path, row_group_size=4)
    return path


def write_tables(folder: Path) -> Path:
    for i in range(3):
        write_parquet(folder / f"{i}.parquet", range(3 * i, 3 * i + 3))
    return folder


def rgb(path: Path | str, **options: object) -> ImageDataModule:
    return ImageDataModule(str(path), **{"resolution": 6, "channels": 3, "num_classes": 3, **options})


def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str = "someone/pictures") -> str:
    import datasets

    files = {"train": write_parquet(tmp_path / "h" / "a.parquet"), "test": tmp_path / "h" / "b.parquet"}
    write_parquet(files["test"], range(3, 6))
    read = {split: datasets.Dataset.from_parquet(str(f), cache_dir=str(tmp_path / "c")) for split, f in files.items()}
    cast = {split: rows.cast_column("image", datasets.Image()) for split, rows in read.items()}

    def load_dataset(asked: str) -> datasets.DatasetDict:
        if asked != name:
            raise ConnectionError("no network\nand more of it")
        return datasets.DatasetDict(cast)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return name


SOURCES: dict[str, Callable[[Path], Path]] = {
    "class folders": lambda t: write_folder(t / "data"),
    "class folders in a folder": lambda t: write_folder(t / "data" / "pictures").parent,
    "zip with dataset.json": lambda t: write_zip(t / "a.zip", [[f"00000/img{i}.png", i // 3] for i in range(COUNT)]),
    "parquet": lambda t: write_parquet(t / "a.parquet"),
    "parquet with img": lambda t: write_parquet(t / "a.parquet", column="img"),
    "parquet files": lambda t: write_tables(t / "p"),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_kind_of_source_gives_the_same_images(kind: str, tmp_path: Path) -> None:
    data = rgb(SOURCES[kind](tmp_path))
    images, labels = data.uint8_images("train")
    assert images.dtype == torch.uint8 and torch.equal(images, expected())
    assert labels is not None and labels.dtype == torch.int64 and labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert data.uint8_images("test")[0] is images
    assert "9 images, none held out (the test split is the training split), 3 x 6 x 6" in data.describe()


def test_a_data_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = rgb(hub(monkeypatch, tmp_path))
    assert torch.equal(data.uint8_images("train")[0], expected())
    images, labels = data.uint8_images("test")
    assert torch.equal(images, expected(range(3, 6))) and labels is not None and labels.tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match=r"'nobody/nothing': no such file or folder.*no network\)$"):
        rgb("nobody/nothing").split("train")


def test_a_data_set_saved_to_disk(tmp_path: Path) -> None:
    import datasets

    rows = datasets.Dataset.from_dict(
        {"image": [picture(i) for i in range(COUNT)], "label": [i // 3 for i in range(COUNT)]},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))}),
    )
    rows.save_to_disk(str(tmp_path / "saved"))
    data = rgb(tmp_path / "saved")
    assert torch.equal(data.uint8_images("train")[0], expected()) and data.class_names == list(CLASSES)


def test_nothing_is_read_at_construction() -> None:
    data = rgb("/nowhere/at/all", resolution=64, num_classes=7)
    assert (data.image_shape, data.num_classes) == ((3, 64, 64), 7)


def test_a_flat_folder_and_null_labels_have_none(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(png(picture(i)))
    flat, null = rgb(tmp_path, num_classes=0), rgb(write_zip(tmp_path / "a.zip", None), num_classes=0)
    assert flat.uint8_images("train")[1] is None and null.uint8_images("train")[1] is None
    for path in (tmp_path, tmp_path / "a.zip"):
        with pytest.raises(ValueError, match="has no labels to condition on"):
            rgb(path).split("train")


def test_dataset_json_wins_over_folders(tmp_path: Path) -> None:
    write_folder(tmp_path)
    table = {"labels": [[f"{CLASSES[i // 3]}/{i}.png", 2 - i // 3] for i in range(COUNT)]}
    (tmp_path / "dataset.json").write_text(json.dumps(table))
    (tmp_path / "notes.txt").write_text("no image")
    data = rgb(tmp_path)
    labels = data.uint8_images("train")[1]
    assert labels is not None and labels.tolist() == [2, 2, 2, 1, 1, 1, 0, 0, 0]
    assert "1 other files ignored" in data.describe()


# splits


def named_folder(t: Path) -> Path:
    write_folder(t / "d" / "train")
    return write_folder(t / "d" / "test", range(3, 6)).parent


def named_zip(t: Path) -> Path:
    with zipfile.ZipFile(t / "a.zip", "w") as archive:
        for i in range(COUNT):
            archive.writestr(f"train/{CLASSES[i // 3]}/{i}.png", png(picture(i)))
        for i in range(3, 6):
            archive.writestr(f"val/{CLASSES[i // 3]}/{i}.png", png(picture(i)))
    return t / "a.zip"


def named_tables(t: Path) -> Path:
    write_parquet(t / "d" / "data" / "train-00000-of-00001.parquet")
    write_parquet(t / "d" / "data" / "test-00000-of-00001.parquet", range(3, 6))
    return t / "d"


@pytest.mark.parametrize("make", [named_folder, named_zip, named_tables])
def test_splits_that_the_source_names(make: Callable[[Path], Path], tmp_path: Path) -> None:
    data = rgb(make(tmp_path))
    assert torch.equal(data.uint8_images("train")[0], expected())
    images, labels = data.uint8_images("test")
    assert torch.equal(images, expected(range(3, 6)))
    assert labels is not None and labels.tolist() == [1, 1, 1]  # a cat is 1, also where all are cats
    assert "9 images, 3 held out" in data.describe()
    with pytest.raises(ValueError, match=r"holdout=0\.5.*test split of its own"):
        rgb(data.path, holdout=0.5).split("train")


def test_a_test_path_of_another_kind(tmp_path: Path) -> None:
    data = rgb(write_folder(tmp_path / "d"), test_path=str(write_parquet(tmp_path / "t.parquet", range(6, 9))))
    images, labels = data.uint8_images("test")
    assert torch.equal(images, expected(range(6, 9))) and labels is not None and labels.tolist() == [2, 2, 2]
    strange = write_folder(tmp_path / "s", range(6), ("bird", "cow"))
    with pytest.raises(ValueError, match="class cow is not among those"):
        rgb(tmp_path / "d", test_path=str(strange)).split("test")


def test_held_out_images_do_not_depend_on_the_seed(tmp_path: Path) -> None:
    path = write_folder(tmp_path)
    data, other = rgb(path, holdout=1 / 3), rgb(path, holdout=1 / 3, seed=8)
    (train, labels), (test, _) = data.uint8_images("train"), data.uint8_images("test")
    assert len(train) == 6 and len(test) == 3 and labels is not None and len(labels) == 6
    assert sorted(torch.cat([train, test]).flatten(1).tolist()) == sorted(expected().flatten(1).tolist())
    assert torch.equal(test, other.uint8_images("test")[0])
    with pytest.raises(ValueError, match=r"holdout=0\.01: of 9 images 0"):
        rgb(path, holdout=0.01).split("train")


# pixels


def decoded(image: Image.Image, resolution: int, channels: int, form: str = "PNG") -> np.ndarray:
    return decode_image(png(image, form), "it", resolution, channels, Limits())


def test_colour_becomes_grey_and_grey_colour() -> None:
    pixels = np.asarray(picture(0), dtype=float)
    luma = pixels @ [0.299, 0.587, 0.114]
    assert np.abs(decoded(picture(0), 6, 1)[0] - luma).max() <= 1
    grey = picture(0, mode="L")
    assert (decoded(grey, 6, 3) == np.asarray(grey)).all() and decoded(grey, 6, 1).shape == (1, 6, 6)


def test_the_centre_of_a_long_image_is_kept() -> None:
    for size, box in (((10, 6), (2, 0, 8, 6)), ((6, 13), (0, 3, 6, 9))):
        image = picture(1, size)
        assert (decoded(image, 6, 3) == np.asarray(image.crop(box)).transpose(2, 0, 1)).all()


def test_resizing_keeps_flat_and_averages_fine_patterns() -> None:
    assert (decoded(Image.new("RGB", (50, 40), (10, 20, 30)), 8, 3) == np.array([10, 20, 30])[:, None, None]).all()
    board = Image.fromarray((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8))
    assert np.abs(decoded(board, 8, 1).astype(int) - 127).max() <= 4
    halves = Image.fromarray(np.repeat(np.array([[0, 200]], np.uint8), 32, axis=1).repeat(64, axis=0))
    small = decoded(halves, 8, 1)[0]
    assert (small[:, 0] == 0).all() and (small[:, -1] == 200).all()


def test_transparent_is_white_and_turned_is_upright() -> None:
    clear = Image.new("RGBA", (6, 6), (255, 0, 0, 0))
    assert (decoded(clear, 6, 3) == 255).all()
    turned, exif = Image.new("L", (8, 8)), Image.Exif()
    turned.paste(255, (0, 0, 8, 4))
    exif[0x0112] = 6  # to be turned clockwise: what is on top belongs to the right
    buffer = io.BytesIO()
    turned.save(buffer, "JPEG", exif=exif)
    upright = decode_image(buffer.getvalue(), "it", 8, 1, Limits())[0]
    assert (upright[:, 4:] > 250).all() and (upright[:, :4] < 5).all()


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_other_formats(form: str) -> None:
    flat = Image.new("RGB", (6, 6), (200, 100, 50))
    assert np.abs(decoded(flat, 6, 3, form).astype(int) - np.array([200, 100, 50])[:, None, None]).max() <= 3


def test_large_files_are_decoded_by_threads_alike(tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(png(picture(i, (120, 120))))
    images = rgb(tmp_path, resolution=120, num_classes=0).uint8_images("train")[0]
    for i in range(4):
        assert (images[i].permute(1, 2, 0).numpy() == np.asarray(picture(i, (120, 120)))).all()
