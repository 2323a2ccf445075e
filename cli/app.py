"""fit, validate and test: LightningCLI, but a checkpoint does not overrule what the user asks for."""

import argparse
import sys
from argparse import ArgumentError
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

import datamodules  # noqa: F401  so that short class names are known
import lightning_modules  # noqa: F401
import networks  # noqa: F401
from cli.arguments import allowed_imports, option_values
from cli.checkpoints import KeepCheckpoints, VerifiedCheckpointIO, first_process, newest_checkpoint
from cli.cluster import SLURM, check_launch, slurm_environment, started_by
from cli.errors import UsageError, explain_parsing, run_command, while_resuming
from cli.precision import FASTER, fastest_precision, is_slow
from cli.progress import ImagesBar
from cli.quiet import quiet
from cli.report import RunReport
from cli.run_files import (
    SaveConfig,
    conflicts,
    held_directory,
    new_run_directory,
    remove_run_directory,
    run_config,
    run_directory,
    run_name,
)
from cli.schedule_file import use_schedule
from cli.stop import StopGently
from evaluation.dashboard import GameWatch, RunSummary, SampleGrids, TrainingCurves
from evaluation.scorer import Scorer
from lightning_modules.allowed import restricted_imports
from lightning_modules.checkpoint import read_checkpoint

DESCRIPTION = """
Options stand on the command line or in --config files, of which the later wins over the earlier. A class path in a
config may name this project, torch, lightning, torchvision and torchmetrics; --allow-import PACKAGE allows another.
--inception_weights FILE is short for --scores.inception_weights FILE.
fit --run_directory DIR trains in DIR, and goes on from the newest checkpoint there, if there is one: the same command
starts a run and continues it, as a cluster needs it (docs/cluster.md).
"""


ALIASES = {"--inception_weights": "--scores.inception_weights"}
"""Short names of options."""


class FewstepCLI(LightningCLI):
    """LightningCLI for any module of this project with any of its datamodules.

    Args:
        args: subcommand and options.
        ckpt_path: the checkpoint among them.
        stop: what stops a training run from outside.
        directory: of a training run; None for the next number of its name.
    """

    def __init__(self, args: list[str], ckpt_path: str | None, stop: StopGently, directory: Path | None = None):
        self.stop = stop
        self.given_directory = directory
        self.run_directory: Path | None = directory
        self.name = run_name(args, ckpt_path)
        self.ckpt_path = ckpt_path
        options = {"exit_on_error": False, "allow_abbrev": False}
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            auto_configure_optimizers=False,
            trainer_defaults={
                "max_epochs": -1,
                "max_steps": -1,
                "use_distributed_sampler": False,
                "num_sanity_val_steps": 0,
                "check_val_every_n_epoch": None,
                "enable_model_summary": False,
                "default_root_dir": "runs",
            },
            parser_kwargs={**options, **{name: {**options} for name in self.subcommands()}},
            args=args,
            run=True,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The commands and what the command line does not set: checkpoints are always read with weights_only=True."""
        return {
            "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule", "weights_only"},
            "validate": {"model", "dataloaders", "datamodule", "weights_only", "verbose"},
            "test": {"model", "dataloaders", "datamodule", "weights_only", "verbose"},
        }

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--seed_everything", type=int, default=0, help="The seed of the run: of weights, data and all random draws."
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.description = f"{parser.description or ''}\n{DESCRIPTION}"
        parser.add_lightning_class_args(KeepCheckpoints, "checkpoints")
        parser.add_lightning_class_args(Scorer, "scores")
        parser.add_lightning_class_args(TrainingCurves, "curves")
        parser.add_lightning_class_args(SampleGrids, "grids")
        parser.add_lightning_class_args(GameWatch, "game")
        for target in ("model", "data"):
            parser.link_arguments("seed_everything", f"{target}.init_args.seed")
        for name in ("image_shape", "num_classes"):  # to depth 1: what is linked deeper is missing in checkpoints
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        action = next(a for a in parser._actions if a.dest == "ckpt_path")  # Lightning's help speaks of its cloud
        action.help = "A checkpoint's path; without --config, its run's configuration is used."
        if subcommand == "test":
            parser.add_argument(
                "--schedule",
                type=str | None,
                help="A file of search-schedule: its levels are scored, beside --scores.steps if that is set, and the "
                "scores go to scores_<name of the file>.json.",
            )
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        try:
            self.config = parser.parse_args(args)
        except ArgumentError as error:
            options = {a.dest for p in self._subcommand_parsers.values() for a in p._actions}
            raise UsageError(explain_parsing(error, options)) from None
        given = self.config[self.config.subcommand]
        for key in ("trainer", "checkpoints", "scores", "curves", "grids", "game"):
            if not isinstance(given[key], Namespace):
                raise UsageError(f"{key}: options by name expected, not {given[key]}")
        if nan := next((key for key, value in given.items() if value != value), None):
            raise UsageError(f"{nan}: a number expected, not nan")

    def _parse_ckpt_path(self) -> None:
        """Not Lightning's, which lets a checkpoint's hyper-parameters overrule, unsaid, what the user typed."""

    def before_instantiate_classes(self) -> None:
        trainer = self.config[self.subcommand]["trainer"]
        if trainer["precision"] is None:  # set here, so that the run's config.yaml names it
            trainer["precision"] = fastest_precision(trainer["accelerator"])
        elif is_slow(trainer["precision"], trainer["accelerator"]):
            say(f"note: precision {trainer['precision']} is emulated on this machine; faster: {FASTER}")
        self._dump_config()
        self.ckpt_path = self.config_dump["ckpt_path"]  # a config may hold it too
        if self.ckpt_path is not None:
            for line in conflicts(self.config_dump, read_checkpoint(self.ckpt_path)):
                say(f"note: {line}")

    def before_test(self) -> None:
        """Let the module sample through a schedule file, and keep its scores apart from those of the run's own."""
        path = self.config_dump["schedule"]
        if path is None:
            return
        schedule = use_schedule(self.model, path)
        say(f"schedule: {schedule.text} ({path})")
        scorer = next(c for c in self.trainer.callbacks if isinstance(c, Scorer))  # type: ignore[attr-defined]
        scorer.steps = tuple(sorted({*(scorer.steps or ()), len(schedule.levels)}))
        if scorer.out is None and self.run_directory is not None:
            scorer.out = str(self.run_directory / f"scores_{Path(path).stem}.json")

    def after_validate(self) -> None:
        """Print what was measured; the modules keep it out of Lightning's table, which goes with its own x axis."""
        for name, value in self.trainer.callback_metrics.items():
            say(f"{name}: {float(value):.6g}")

    after_test = after_validate

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            super()._run_subcommand(subcommand)
        except BaseException as error:
            # a start that failed takes no number: what names this config's first run goes on to mean the next
            if self.trainer.global_step == 0 or while_resuming(error.__traceback__):
                self._remove_run_directory()
            raise

    def _remove_run_directory(self) -> None:
        if self.subcommand == "fit" and self.run_directory is not None and self.given_directory is None:
            remove_run_directory(self.run_directory)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        settings = self.config_init[self.subcommand]["trainer"]
        root = Path(settings["default_root_dir"])
        if self.subcommand == "fit" and not settings["fast_dev_run"] and self.given_directory is None:
            self.run_directory = new_run_directory(root, self.name) if first_process() else root / self.name
        elif self.ckpt_path is not None and self.subcommand != "fit":
            self.run_directory = run_directory(self.ckpt_path)
        if settings["logger"] in (None, True) and self.run_directory is not None:
            path = self.run_directory.absolute()
            kwargs["logger"] = TensorBoardLogger(
                path.parent.parent, path.parent.name, path.name, default_hp_metric=False
            )
        plugins = settings["plugins"] or []
        plugins = [*(plugins if isinstance(plugins, list) else [plugins]), VerifiedCheckpointIO()]
        if started_by() == SLURM and not any(isinstance(plugin, ClusterEnvironment) for plugin in plugins):
            plugins.append(slurm_environment())
        kwargs["plugins"] = plugins
        try:
            trainer = super().instantiate_trainer(**kwargs)
            check_launch(trainer)
        except BaseException:
            self._remove_run_directory()
            raise
        return trainer

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        keep = next(c for c in callbacks if isinstance(c, KeepCheckpoints))
        if self.subcommand == "fit" and self.run_directory is not None:
            keep.directory = self.run_directory / "checkpoints"
        if config.get("enable_checkpointing") is False:
            callbacks = [c for c in callbacks if c is not keep]
        else:
            callbacks = [*callbacks, self.stop]  # after the other
        callbacks = [*callbacks, SaveConfig(self.config_dump, self.run_directory), RunSummary()]
        callbacks.append(RunReport(self.run_directory, keep))
        if config.get("enable_progress_bar") is not False:
            callbacks.append(ImagesBar())
        return super()._instantiate_trainer(config, callbacks)


@rank_zero_only
def say(line: str) -> None:
    """Print a line on the first process."""
    print(line, flush=True)


def with_run_config(command: str, args: list[str], ckpt_path: str | None) -> list[str]:
    """The arguments for the parser: without a --config, the configuration is that of the checkpoint's run."""
    if ckpt_path is None:
        if command != "fit" and not {"-h", "--help"} & set(args):
            raise UsageError(f"{command} needs --ckpt_path FILE")
        return [command, *args]
    if option_values(args, "--config", "-c"):
        return [command, *args]
    return [command, "--config", run_config(ckpt_path), *args]


def given_directory(args: Sequence[str]) -> tuple[list[str], Path | None]:
    """Take `--run_directory DIR` out of the arguments: what is left, and the directory.

    It is no option of a config, since a run that goes on elsewhere from a config would write into it.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--run_directory", type=Path)
    try:
        known, rest = parser.parse_known_args(list(args))
    except argparse.ArgumentError:
        raise UsageError("--run_directory needs the path of a directory") from None
    if known.run_directory is not None and known.run_directory.exists() and not known.run_directory.is_dir():
        raise UsageError(f"--run_directory {known.run_directory}: this is no directory")
    return rest, known.run_directory


def train_or_score(command: str, args: Sequence[str]) -> int:
    """Run fit, validate or test, and return the exit code."""

    def run() -> None:
        rest, allow = allowed_imports(args)
        rest = [arg.replace(name := arg.partition("=")[0], ALIASES.get(name, name), 1) for arg in rest]
        rest, directory = given_directory(rest) if command == "fit" else (rest, None)
        stop = StopGently()
        with restricted_imports(allow), held_directory(directory), stop if command == "fit" else nullcontext():
            if directory is not None and (newest := newest_checkpoint(directory)):
                rest = [*rest, f"--ckpt_path={newest}"]  # of several the last counts
            ckpt_path = next(reversed(option_values(rest, "--ckpt_path")), None)
            try:
                FewstepCLI(with_run_config(command, rest, ckpt_path), ckpt_path, stop, directory)
            except SIGTERMException:
                sys.exit(stop.exit_code)

    quiet()
    return run_command(run)
