"""What a configuration may hold: class paths of allowed packages, and text that stays as small as it looks."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import yaml
from torch import Tensor

# Packages a class path in a config or a checkpoint may name: a class path is code that will run.
ALLOWED_PACKAGES = (
    "lightning_modules",
    "networks",
    "datamodules",
    "diffusion",
    "evaluation",
    "tasks",
    "torch",
    "lightning",
    "torchvision",
    "torchmetrics",
)
# Parts of them that run code from a file or from the network, so that naming them is as good as running anything.
DENIED_PATHS = (
    "torch.hub",
    "torch.jit",
    "torch.load",
    "torch.ops",
    "torch.classes",
    "torch.package",
    "torch.serialization",
    "torch.utils.cpp_extension",
    "torch.utils.model_zoo",
    "lightning.app",
    "lightning.fabric.utilities.cloud_io",
    "lightning.pytorch.cli",
)
MOST_CHARACTERS, MOST_VALUES, DEEPEST = 1_000_000, 100_000, 100
"""Of a configuration's text, and of what it holds, where every value is counted as often as it is named."""


def check_size(content: Any) -> None:
    """Refuse nested dictionaries and lists that have no end, or that grow beyond reason when they are written out.

    A list that is in itself, or is named twice in each list of a long chain, takes a few bytes in a file.

    Raises:
        ValueError: there are more than 100,000 values, or more than 100 levels.
    """
    count, level = 0, [content]
    for _ in range(DEEPEST):
        held = [v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list | tuple)]
        count += sum(len(values) for values in held)
        if count > MOST_VALUES:
            raise ValueError(f"it is nested to more than {MOST_VALUES:,} values")
        level = [value for values in held for value in values]
    if level:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep")


def _safe_load(text: str) -> Any:
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def read_yaml(text: str, load: Callable[[str], Any] = _safe_load) -> Any:
    """Read YAML of plain values that stays as small as it looks: a list may name another many times, or itself.

    Args:
        text: what to read.
        load: a safe loader.

    Raises:
        yaml.YAMLError: it is none, or longer than a million characters, or `check_size` refuses what it grows to.
    """
    if len(text) > MOST_CHARACTERS:
        raise yaml.YAMLError(f"a text of {len(text):,} characters, allowed are {MOST_CHARACTERS:,}")
    try:
        content = load(text)
        check_size(content)
    except (ValueError, RecursionError) as error:  # a number or a date that is none, too
        raise yaml.YAMLError(str(error)) from None
    return content


def class_paths(value: Any) -> Iterator[str]:
    """Every class path in a configuration of nested dictionaries and lists."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key in ("class_path", "_class_path") and isinstance(item, str):
                yield item
            yield from class_paths(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from class_paths(item)


@contextmanager
def restricted_imports(allow: Sequence[str] = ()) -> Iterator[None]:
    """Inside the block, a class path that jsonargparse reads may name the allowed packages alone, and a text that it
    reads must stay as small as it looks (`read_yaml`).

    Args:
        allow: packages beside `ALLOWED_PACKAGES`.
    """
    from jsonargparse import get_loader, set_loader, set_parsing_settings
    from jsonargparse._common import parsing_settings
    from jsonargparse.typing import register_type

    load = get_loader("yaml")

    # otherwise Callable[..., Tensor] would ask for a subclass of Tensor, instead of an object that returns one
    register_type(Tensor, serializer=Tensor.tolist, deserializer=torch.tensor)
    before = dict(parsing_settings)
    set_parsing_settings(import_path_denylist=["*", *DENIED_PATHS], import_path_allowlist=[*ALLOWED_PACKAGES, *allow])
    set_loader("yaml", lambda text: read_yaml(text, load), exceptions=(yaml.YAMLError,))
    try:
        yield
    finally:
        parsing_settings.update(before)
        set_loader("yaml", load, exceptions=(yaml.YAMLError,))
