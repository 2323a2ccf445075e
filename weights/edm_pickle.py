"""EDM's .pkl files, which hold source code, read without running any of it.

`torch_utils.persistence` pickles a network as the source of its class and its state. Here every name that the file
mentions becomes a `Record`, which keeps what it is called with and does nothing; so no function, class or method of any
library runs but those of this module, and the plain containers and numbers that pickle makes itself. The one exception
is an empty dictionary for `collections.OrderedDict`. The bytes of a tensor are read by torch.load with
weights_only=True, and its strides are checked against them.
"""

import io
import math
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from weights.official import Levels
from weights.table import WeightsError


class Record:
    """A call that was not made: the name, its arguments, and the state that the object was to be given."""

    def __init__(self, name: str, *args: Any):
        self.name, self.args, self.state = name, args, None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """Of a dictionary's subclass: not kept."""

    def append(self, value: Any) -> None:
        """Of a list's subclass: not kept."""

    def extend(self, values: Any) -> None:
        """Of a list's subclass: not kept."""


def _named(name: str) -> type[Record]:
    """A class that makes records of that name, whether it is called or made by __new__."""

    def make(cls: type[Record], *args: Any) -> Record:
        record = object.__new__(cls)
        Record.__init__(record, name, *args)
        return record

    def nothing(self: Record, *args: Any) -> None:
        pass

    return type("Record", (Record,), {"__new__": make, "__init__": nothing})


class RecordingUnpickler(pickle.Unpickler):
    """Unpickles containers and numbers; all else is records."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        return _named(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to something outside the file")


NETWORK = "torch_utils.persistence._reconstruct_persistent_obj"
TENSOR = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")


def read_pickle(path: str | Path) -> tuple[dict[str, Tensor], Levels, str]:
    """State dict, levels and class name of the averaged network in a file of EDM's.

    Raises:
        WeightsError: it is no such file.
    """
    try:
        with open(path, "rb") as file:
            content = RecordingUnpickler(file).load()
    except OSError:
        raise
    except Exception as error:  # a damaged or hostile file may raise anything
        raise WeightsError(f"{path} cannot be read as a pickle: {' '.join(str(error).split())[:200]}") from None
    network = content.get("ema") if isinstance(content, dict) else None
    if not isinstance(network, Record) or network.name != NETWORK:
        raise WeightsError(f"{path} holds no averaged network (key ema) of NVlabs/edm")
    held = _state(network)
    numbers = {name: held.get(f"sigma_{name}") for name in ("data", "min", "max")}
    usable = {f"sigma_{name}": float(x) for name, x in numbers.items() if _is_level(x)}
    return dict(_tensors(network, "")), Levels(**usable), network.args[0].get("class_name", "")


def _is_level(x: Any) -> TypeGuard[float]:
    return isinstance(x, float | int) and 0 < x < float("inf")


def _state(record: Record) -> dict[str, Any]:
    """The attributes of a module, whose class is persistent or one of torch's own."""
    if record.name == NETWORK and len(record.args) == 1 and isinstance(record.args[0], dict):
        held = record.args[0].get("state")
    else:
        held = record.state
    if not isinstance(held, dict):
        raise WeightsError(f"a {record.name} stands where a module is needed")
    return held


def _tensors(record: Any, prefix: str, depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Names and values of the parameters and buffers of a module and of those inside it."""
    if not isinstance(record, Record) or depth > 32:
        raise WeightsError(f"{prefix or 'the network'} is not a module")
    held = _state(record)
    for kind in ("_parameters", "_buffers"):
        for name, value in (held.get(kind) or {}).items():
            if value is not None:
                yield f"{prefix}{name}", _tensor(value, f"{prefix}{name}")
    for name, module in (held.get("_modules") or {}).items():
        if module is not None:
            yield from _tensors(module, f"{prefix}{name}.", depth + 1)


def _tensor(value: Any, name: str) -> Tensor:
    """A tensor of its record: a copy, whose elements all lie within the stored ones."""
    if isinstance(value, Record) and value.name == "torch._utils._rebuild_parameter" and value.args:
        value = value.args[0]
    try:
        if not isinstance(value, Record) or value.name not in TENSOR:
            raise ValueError("it is no tensor")
        storage, offset, size, stride = value.args[:4]
        if not isinstance(storage, Record) or storage.name != "torch.storage._load_from_bytes":
            raise ValueError("its numbers are not stored as bytes")
        stored = torch.load(io.BytesIO(storage.args[0]), map_location="cpu", weights_only=True)
        flat = torch.empty(0, dtype=stored.dtype).set_(stored)
        whole = all(type(n) is int and n >= 0 for n in (offset, *size, *stride)) and len(size) == len(stride)
        if not whole or math.prod(size) > flat.numel():
            raise ValueError("its shape does not fit the numbers stored")
        reach = sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if all(size) and offset + reach >= flat.numel():
            raise ValueError("it reaches beyond the numbers stored")
        return flat.as_strided(size, stride, offset).clone()
    except Exception as error:
        raise WeightsError(f"{name} cannot be read: {' '.join(str(error).split())[:200]}") from None
