"""Images as rows of a table: parquet files in the layout of the Hugging Face Hub, and Hugging Face data sets."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datamodules.encoded import CHUNK, MOST_CLASSES, EncodedImages, Fault, Limits, refuse

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMN = "label"


def read_parquet(paths: Sequence[Path], limits: Limits, fault: Fault = refuse) -> EncodedImages:
    """All rows of parquet files of one schema: encoded images in `image` or `img`, an integer `label` or none.

    The image column holds {bytes, path} or bytes; only its bytes are used. A label column of -1 alone, as the Hub has
    it for secret test labels, counts as none. `fault` is called for a label column that cannot be used; if it does not
    refuse it, there are no labels.

    Raises:
        ValueError: a file is damaged, has no image column, or passes a limit.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = str(paths[0]) if len(paths) == 1 else f"{paths[0].parent} ({len(paths)} parquet files)"
    count, size, labels, schema = 0, 0, [], None
    for path in paths:
        try:
            file = pq.ParquetFile(path)
            schema = schema or file.schema_arrow
            if not schema.equals(file.schema_arrow):
                raise ValueError(f"{path}: its columns differ from those of {paths[0]}")
            count += file.metadata.num_rows
            size += sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
            limits.check(source, "images", count)
            limits.check(source, "total_bytes", size)
            if LABEL_COLUMN in schema.names:
                labels.append(file.read([LABEL_COLUMN])[LABEL_COLUMN])
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path}: no readable parquet file ({error})") from error
    assert schema is not None  # there is at least one path
    column = _image_column(source, schema.names)

    def read() -> Iterator[tuple[str, Callable[[], bytes]]]:
        row = 0
        for path in paths:
            try:
                for batch in pq.ParquetFile(path).iter_batches(CHUNK, columns=[column]):
                    for value in batch[0].to_pylist():
                        yield f"row {row}", partial(_bytes, source, row, value)
                        row += 1
            except (pa.ArrowException, OSError) as error:
                raise ValueError(f"{path}: cannot be read at row {row} ({error})") from error

    chunks = [chunk for column in labels for chunk in column.chunks]
    class_names = _class_names(schema.metadata)
    values = _labels(source, pa.chunked_array(chunks), class_names, fault) if chunks else None
    return EncodedImages(source, count, read, values, class_names)


def read_dataset(dataset: Any, source: str, limits: Limits, fault: Fault = refuse) -> EncodedImages:
    """All rows of a Hugging Face `datasets.Dataset`, its columns and `fault` as in `read_parquet`.

    Raises:
        ValueError: it has no image column, or passes a limit.
    """
    import datasets

    column = _image_column(source, dataset.column_names)
    limits.check(source, "images", len(dataset))
    dataset = dataset.cast_column(column, datasets.Image(decode=False))
    labels = names = None
    if LABEL_COLUMN in dataset.column_names:
        names = getattr(dataset.features[LABEL_COLUMN], "names", None)
        column_of_labels = dataset.select_columns([LABEL_COLUMN]).with_format("arrow")[:][LABEL_COLUMN]
        labels = _labels(source, column_of_labels, names, fault)

    def read() -> Iterator[tuple[str, Callable[[], bytes]]]:
        row = total = 0
        for batch in dataset.select_columns([column]).with_format("arrow").iter(CHUNK):
            for value in batch[column].to_pylist():
                total += len((value or {}).get("bytes") or b"")
                limits.check(source, "total_bytes", total)
                yield f"row {row}", partial(_bytes, source, row, value, limits)
                row += 1

    return EncodedImages(source, len(dataset), read, labels, names)


def is_hub_name(path: str) -> bool:
    """Whether a path that does not exist can be the name of a data set on the Hugging Face Hub, owner/name."""
    named = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", path) is not None
    return named and not path.endswith((".zip", ".parquet"))


def open_datasets(path: str) -> dict[str, Any]:
    """The splits of a Hugging Face data set: a folder that `save_to_disk` wrote, or owner/name on the Hub.

    Raises:
        ValueError: there is none.
    """
    import datasets

    if not Path(path).is_dir():
        try:
            return dict(datasets.load_dataset(path))
        except Exception as error:  # network, permission, format: each has errors of its own
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"path={path!r}: no such file or folder, and no data set of that name could be had from the "
                f"Hugging Face Hub ({type(error).__name__}: {reason})"
            ) from error
    try:
        saved = datasets.load_from_disk(path)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{path}: no readable data set of save_to_disk ({type(error).__name__}: {reason})") from None
    return dict(saved) if isinstance(saved, datasets.DatasetDict) else {"train": saved}


def _image_column(source: str, names: Sequence[str]) -> str:
    for name in IMAGE_COLUMNS:
        if name in names:
            return name
    raise ValueError(f"{source}: none of its columns {', '.join(names)} is called {' or '.join(IMAGE_COLUMNS)}")


def _bytes(source: str, row: int, value: Any, limits: Limits | None = None) -> bytes:
    """The encoded image of a cell.

    Args:
        source, row: for messages.
        value: {bytes, path}, or bytes.
        limits: read a path where there are no bytes, a file of at most so many. Only for a data set that was opened
            here: a path in a downloaded file may name any file of this machine.

    Raises:
        ValueError: there are none.
    """
    data = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(data, bytes):
        return data
    if limits and isinstance(value, dict) and value.get("path"):
        path = Path(value["path"])
        if not path.is_file():  # nor a pipe or a device, reading which would never end
            raise ValueError(f"{source}: row {row} names the file {path}, which is not there")
        limits.check(f"{source}: {path}", "file_bytes", path.stat().st_size)
        return path.read_bytes()
    raise ValueError(f"{source}: row {row} holds no encoded image")


def _labels(source: str, column: Any, class_names: Sequence[str] | None, fault: Fault) -> list[int] | None:
    try:
        return _checked_labels(source, column, class_names)
    except ValueError as error:
        fault(f"column {LABEL_COLUMN}", str(error))
        return None


def _checked_labels(source: str, column: Any, class_names: Sequence[str] | None) -> list[int] | None:
    import pyarrow as pa

    if column.null_count == len(column):
        return None
    if not pa.types.is_integer(column.type) or column.null_count:
        raise ValueError(
            f"{source}: column {LABEL_COLUMN} is of type {column.type} with {column.null_count} gaps, "
            "allowed are integers without gaps"
        )
    labels = column.to_pylist()
    if max(labels) == -1 == min(labels):
        return None
    if min(labels) < 0:
        raise ValueError(f"{source}: column {LABEL_COLUMN} goes down to {min(labels)}, allowed are integers from 0")
    if max(labels) >= MOST_CLASSES:
        raise ValueError(
            f"{source}: column {LABEL_COLUMN} goes up to {max(labels)}, allowed are integers below {MOST_CLASSES}"
        )
    if class_names is not None and max(labels) >= len(class_names):
        raise ValueError(
            f"{source}: column {LABEL_COLUMN} goes up to {max(labels)}, but its schema names {len(class_names)} classes"
        )
    return labels


def _class_names(metadata: dict[bytes, bytes] | None) -> list[str] | None:
    """The names that the Hub's schema gives the labels."""
    try:
        names = json.loads((metadata or {})[b"huggingface"])["info"]["features"][LABEL_COLUMN]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None
