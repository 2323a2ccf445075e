"""The data of a run, without its trainer."""

from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule

from cli.errors import UsageError, explain_parsing
from cli.run_files import read_config
from lightning_modules.allowed import restricted_imports


def load_data(config: str, path: str | None = None, allow: Sequence[str] = ()) -> Any:
    """Build the datamodule of a run's configuration.

    Args:
        config: YAML text.
        path: a file with the data section to use instead of the configuration's.
        allow: packages beside this project's that it may name.

    Raises:
        UsageError: it names no data, or names them wrongly, or there is no such file.
    """
    if path is not None and not Path(path).is_file():
        raise UsageError(f"there is no file {path}")
    content = read_config(config, "the run's configuration")
    content = (content if isinstance(content, dict) else {}) | ({"data": path} if path else {})
    if "data" not in content:
        raise UsageError("the configuration has no data section: give --data FILE")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--seed_everything", type=int, default=0)
    parser.add_subclass_arguments(LightningDataModule, "data", fail_untyped=False)
    parser.link_arguments("seed_everything", "data.init_args.seed")
    chosen = {key: content[key] for key in ("seed_everything", "data") if key in content}
    with restricted_imports(allow):
        try:
            parsed = parser.parse_object(chosen)
        except ArgumentError as error:
            raise UsageError(explain_parsing(error, ())) from None
        data = parser.instantiate_classes(parsed).data
    if not hasattr(data, "uint8_images"):
        raise UsageError(
            f"{path or 'the data section'}: it names no datamodule of images, such as configs/data/digits.yaml"
        )
    return data
