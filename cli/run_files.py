"""A run's directory: where it is, the configuration in it, and what of that a user's choices contradict."""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

from cli.arguments import option_values
from cli.checkpoints import first_process, write_text
from cli.errors import UsageError
from lightning_modules.allowed import read_yaml
from lightning_modules.checkpoint import read_checkpoint

CONFIG = "config.yaml"


def run_name(args: Sequence[str], ckpt_path: str | None) -> str:
    """What a run is called: after its first config file, or after the run that it goes on with."""
    configs = [Path(config) for config in option_values(args, "--config", "-c") if "\n" not in config]
    if configs and configs[0].name != CONFIG:
        return configs[0].stem
    if configs or ckpt_path is not None:
        directory = configs[0].absolute().parent if configs else run_directory(str(ckpt_path))
        return directory.parent.name or "run"
    return (option_values(args, "--model") or ["run"])[-1].rpartition(".")[2]


def new_run_directory(root: Path, name: str) -> Path:
    """Create `root/name/000`, or the next number that is free; two starts at once get two directories."""
    (root / name).mkdir(parents=True, exist_ok=True)
    taken = [int(p.name) for p in (root / name).iterdir() if re.fullmatch(r"\d{3,}", p.name)]
    number = max(taken, default=-1) + 1
    while True:
        try:
            (directory := root / name / f"{number:03d}").mkdir(parents=True)
            return directory
        except FileExistsError:
            number += 1


@contextmanager
def held_directory(directory: Path | None) -> Iterator[None]:
    """Make a run's directory and keep other runs out of it while the block lasts, and after a kill no longer.

    The first process does it for all.

    Raises:
        UsageError: another run holds it.
    """
    if directory is None or not first_process():
        yield
        return
    directory.mkdir(parents=True, exist_ok=True)
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"--run_directory {directory}: another process trains there") from None
        yield
    finally:
        os.close(lock)


def remove_run_directory(directory: Path) -> None:
    """Remove the directory of a run that took no step, unless it holds a checkpoint, and the empty ones above it that
    were made for it; on the first process."""
    if first_process() and not any(directory.glob("checkpoints/*.ckpt")):
        shutil.rmtree(directory, ignore_errors=True)
        with suppress(OSError):
            directory.parent.rmdir()
            directory.parent.parent.rmdir()


def run_directory(ckpt_path: str) -> Path:
    """The directory of the run that wrote a checkpoint."""
    folder = Path(ckpt_path).absolute().parent
    return folder.parent if folder.name == "checkpoints" else folder


def run_config(ckpt_path: str) -> str:
    """The configuration of the run that wrote a checkpoint: the path of its file, or else the checkpoint's own text.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        UsageError: neither is there, or the text is no configuration; a name of a file is none.
    """
    checkpoint = read_checkpoint(ckpt_path)
    path = run_directory(ckpt_path) / CONFIG
    if path.is_file():
        return str(path)
    if "config" not in checkpoint:
        raise UsageError(f"there is no {path}, and the checkpoint does not hold its configuration: give --config FILE")
    if not isinstance(read_config(checkpoint["config"], f"the configuration in {ckpt_path}"), dict):
        raise UsageError(f"the configuration in {ckpt_path} is none: give --config FILE")
    return f"{checkpoint['config']}\n"


def read_config(text: str, name: str) -> Any:
    """What YAML text holds; `name` is for messages.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return read_yaml(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{name} cannot be read: {str(error)[:200]}") from None


def read_text(config: str) -> str:
    """The text of what `run_config` returned."""
    return config if "\n" in config else Path(config).read_text()


class SaveConfig(Callback):
    """Writes the resolved configuration of a training run into its directory and into its checkpoints.

    Args:
        config: of the subcommand, plain values.
        directory: of the run; None writes no file.
    """

    def __init__(self, config: dict[str, Any], directory: Path | None):
        # a checkpoint to go on with is a choice of this start, not of the run
        kept = {key: value for key, value in config.items() if key != "ckpt_path"}
        self.text = yaml.safe_dump(without_links(kept), sort_keys=False, allow_unicode=True)
        self.directory = directory

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and self.directory is not None and trainer.is_global_zero:
            write_text(self.directory / CONFIG, self.text)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = self.text


def without_links(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration without the values that links fill in, which a parser does not accept."""
    linked = {"model": ("seed", "image_shape", "num_classes"), "data": ("seed",)}
    return {
        key: {**value, "init_args": {k: v for k, v in value.get("init_args", {}).items() if k not in linked[key]}}
        if key in linked and isinstance(value, dict)
        else value
        for key, value in config.items()
    }


def conflicts(config: dict[str, Any], checkpoint: dict[str, Any]) -> Iterator[str]:
    """One line for each value of model and data in which a configuration differs from its checkpoint's.

    Args:
        config: as it will be used.
        checkpoint: with its own configuration under "config".
    """
    theirs = read_config(checkpoint.get("config", "{}"), "the checkpoint's configuration")
    for section in ("seed_everything", "model", "data"):
        if section in theirs and section in config:
            mine = without_links({section: config[section]})[section]
            for key, given, held in differences(mine, theirs[section], section):
                yield f"{key} is {given} as given, {held} in the checkpoint; {given} is used"


def differences(mine: Any, theirs: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    """(key, my value, their value) of every leaf in which two nested dictionaries differ.

    Where classes differ, their arguments are not compared; nor are keys that only one side has.
    """
    if not isinstance(mine, dict) or not isinstance(theirs, dict):
        if mine != theirs:
            yield key, _short(mine), _short(theirs)
    elif mine.get("class_path") != theirs.get("class_path"):
        yield key, mine.get("class_path"), theirs.get("class_path")
    else:
        for name in mine.keys() & theirs.keys():
            yield from differences(mine[name], theirs[name], f"{key}.{name}")


def _short(value: Any) -> Any:
    return value["class_path"] if isinstance(value, dict) and "class_path" in value else value
