"""Image data sets as one file: EDM's zip archive, and parquet as the Hugging Face Hub has it."""

import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from datamodules.encoded import CHUNK, EncodedImages, Limits, decode_image, open_upright
from datamodules.files import LABELS
from datamodules.tables import IMAGE_COLUMNS, LABEL_COLUMN


def write_edm(file: BinaryIO, images: EncodedImages, resolution: int, channels: int, limits: Limits) -> None:
    """Write the zip archive that EDM's dataset_tool.py makes and its ImageFolderDataset reads.

    Members are 00000/img00000000.png and so on, a thousand to a folder, and dataset.json with the labels, null
    without; nothing is compressed. The same images give the same bytes.

    Args:
        file: to write to.
        images: cut to the central square and resized where they have another size.
        resolution: side in pixels.
        channels: 1 (grey) or 3 (RGB).
        limits: what is refused.

    Raises:
        ValueError: an image cannot be used.
    """
    names = []
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for i, (_, data) in enumerate(_as_png(images, resolution, channels, limits, compression=0)):
            names.append(f"{i // 1000:05d}/img{i:08d}.png")
            archive.writestr(zipfile.ZipInfo(names[-1]), data)
        labels = None if images.labels is None else list(zip(names, images.labels, strict=True))
        archive.writestr(zipfile.ZipInfo(LABELS), json.dumps({"labels": labels}))


def write_parquet(file: BinaryIO, images: EncodedImages, resolution: int | None, channels: int, limits: Limits) -> None:
    """Write the parquet file that Hugging Face `datasets` reads as columns image (Image) and label (ClassLabel).

    Args:
        file: to write to.
        images: where no resolution is given, each file is kept byte for byte.
        resolution: side in pixels of the PNG images to make.
        channels: 1 (grey) or 3 (RGB) of these.
        limits: what is refused.

    Raises:
        ValueError: an image cannot be used.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    image, labels = IMAGE_COLUMNS[0], images.labels
    fields = {image: pa.struct({"bytes": pa.binary(), "path": pa.string()})}
    if labels is not None:
        fields[LABEL_COLUMN] = pa.int64()
    schema = pa.schema(fields, {"huggingface": json.dumps(_features(images))})
    rows = _as_they_are(images, limits) if resolution is None else _as_png(images, resolution, channels, limits)
    done = 0
    with pq.ParquetWriter(file, schema) as writer:
        while cells := [{"bytes": data, "path": name} for name, data in islice(rows, CHUNK)]:
            columns: dict[str, Any] = {image: cells}
            if labels is not None:
                columns[LABEL_COLUMN] = list(labels[done : done + len(cells)])
            writer.write_table(pa.table(columns, schema=schema))
            done += len(cells)


def _features(images: EncodedImages) -> dict[str, Any]:
    """The schema of `datasets` that a parquet file carries."""
    features: dict[str, Any] = {IMAGE_COLUMNS[0]: {"_type": "Image"}}
    if images.labels is not None and images.class_names is not None:
        features[LABEL_COLUMN] = {"names": list(images.class_names), "_type": "ClassLabel"}
    elif images.labels is not None:
        features[LABEL_COLUMN] = {"dtype": "int64", "_type": "Value"}
    return {"info": {"features": features}}


def _as_png(
    images: EncodedImages, resolution: int, channels: int, limits: Limits, compression: int = 6
) -> Iterator[tuple[str, bytes]]:
    """(name, PNG) of every image, square, of one size and one mode."""

    def make(name: str, data: bytes) -> bytes:
        pixels = decode_image(data, name, resolution, channels, limits)
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels[0] if channels == 1 else pixels.transpose(1, 2, 0))).save(
            buffer, "PNG", compress_level=compression
        )
        return buffer.getvalue()

    for name, data in _whole(images.map(make)):
        yield str(PurePosixPath(name).with_suffix(".png")), data


def _as_they_are(images: EncodedImages, limits: Limits) -> Iterator[tuple[str, bytes]]:
    """(name, encoded bytes) of every image, each of which can be decoded."""

    def make(name: str, data: bytes) -> bytes:
        open_upright(data, name, limits)
        return data

    return _whole(images.map(make))


def _whole(made: Iterable[tuple[str, bytes | ValueError]]) -> Iterator[tuple[str, bytes]]:
    for name, data in made:
        if isinstance(data, ValueError):
            raise data
        yield name, data


def common_size(source: str, sizes: Sequence[tuple[int, int]]) -> int:
    """The side of images that all are equal squares.

    Args:
        source: for messages.
        sizes: (width, height) of all images, each once.

    Raises:
        ValueError: they are not.
    """
    (width, height), *others = sizes
    if others or width != height:
        text = ", ".join(f"{w}x{h}" for w, h in sizes[:3]) + (" ..." if len(sizes) > 3 else "")
        raise ValueError(f"{source}: the images are {text}, and one square size is needed: give --resolution")
    return width
