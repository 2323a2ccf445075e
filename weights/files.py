"""JSON and safetensors files, read with errors of one line."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from weights.table import WeightsError


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        WeightsError: it is no such file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of JSON or of UTF-8
        raise WeightsError(f"{path}: not a JSON file ({str(error).splitlines()[0]})") from None
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: not a JSON object")
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object as JSON; missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name.

    Raises:
        WeightsError: it is no such file, or a damaged one.
    """
    if not path.is_file():
        raise WeightsError(f"there is no file {path}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a safetensors file, or a damaged one ({error})") from None
