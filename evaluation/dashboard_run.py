"""What a run is, on its dashboard: the configuration as text, and as hyper-parameters beside the results."""

import dataclasses
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from evaluation.dashboard_writer import tensorboard_of

Plain = str | int | float


class RunSummary(Callback):
    """Writes a run's configuration to TensorBoard: as text, and as hyper-parameters.

    The text is the file `config.yaml` in the run's directory, or the module's hyper-parameters where there is none.
    TensorBoard puts the last value of every curve beside the hyper-parameters, scores included. The list of columns
    that a logger may write is left out, for TensorBoard would use the one of the first run for all runs; without it,
    it shows what runs differ in first. So the logger needs `default_hp_metric: false`.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        directory = trainer.log_dir or trainer.default_root_dir  # asks all processes
        writer = tensorboard_of(trainer)
        if writer is None or not trainer.is_global_zero:
            return
        values = {"method": type(pl_module).__name__} | dict(flatten(dict(pl_module.hparams)))
        data: Any = getattr(trainer, "datamodule", None)
        if data is not None:
            values |= {"data": type(data).__name__} | dict(flatten(dict(data.hparams), "data"))
        config = Path(directory) / "config.yaml"
        text = config.read_text() if config.is_file() else "\n".join(f"{k}: {v}" for k, v in values.items())
        writer.add_text("config", "".join(f"    {line}\n" for line in text.splitlines()))
        start_session(writer, values)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        writer = tensorboard_of(trainer)
        if writer is not None and trainer.is_global_zero:
            end_session(writer)


def start_session(writer: SummaryWriter, values: Mapping[str, Plain]) -> None:
    """Write a run's hyper-parameters without a list of columns, see `RunSummary`."""
    writer._get_file_writer().add_summary(hparams(dict(values), {})[1])  # columns, start, end
    writer.flush()


def end_session(writer: SummaryWriter) -> None:
    """Write that the run whose hyper-parameters were written is complete."""
    writer._get_file_writer().add_summary(hparams({}, {})[2])
    writer.flush()


def flatten(config: Any, name: str = "") -> Iterator[tuple[str, Plain]]:
    """Names and plain values of a nested configuration, objects and class paths alike.

    {"pairs": {"class_path": "diffusion.pairs.GridPairs", "init_args": {"rho": 7.0}}} gives pairs: "GridPairs" and
    pairs.rho: 7.0, and so does {"pairs": GridPairs(...)}.
    """
    if isinstance(config, dict) and "class_path" in config:
        yield name, config["class_path"].rpartition(".")[2]
        yield from flatten(config.get("init_args", {}), name)
    elif isinstance(config, dict):
        for key, value in config.items():
            if not str(key).startswith("_"):
                yield from flatten(value, f"{name}.{key}" if name else str(key))
    elif dataclasses.is_dataclass(config) and not isinstance(config, type):
        yield name, type(config).__name__
        yield from flatten({f.name: getattr(config, f.name) for f in dataclasses.fields(config)}, name)
    elif isinstance(config, str | int | float):
        yield name, config
    elif isinstance(config, list | tuple):
        yield name, str(config).translate(str.maketrans("()", "[]")).replace(",]", "]")
    elif config is None:
        yield name, "None"
    elif isinstance(config, partial):
        yield name, config.func.__name__
        yield from flatten(config.keywords, name)
    else:
        yield name, getattr(config, "__name__", type(config).__name__)
