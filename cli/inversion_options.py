"""What `edit` and `interpolate` share: their options, the model, and the facts that their scores.json holds."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.arguments import OneLineParser, folder_to_write, parse_seeds, positive
from cli.inversion_ways import Ways
from cli.sample import add_checkpoint_options, find_device

if TYPE_CHECKING:
    import argparse


def inversion_parser(command: str, description: str, out: str) -> OneLineParser:
    """A parser with what the two commands share."""
    p = OneLineParser(prog=f"main.py {command}", allow_abbrev=False, description=description)
    add_checkpoint_options(p)
    source, levels = p.add_mutually_exclusive_group(), p.add_mutually_exclusive_group()
    source.add_argument("--input", type=Path, help="an image file, or a folder of them, cut to the central square and "
                        "resized (default: test images of the run's data)")  # fmt: skip
    source.add_argument("--data", help="a file such as configs/data/digits.yaml, in the place of the run's data")
    p.add_argument("--seeds", type=parse_seeds, default=None, help="which test images, counted from 0, and the seeds "
                   "of their initial noise (default: 0-15); with --input the seeds alone")  # fmt: skip
    levels.add_argument("--small", type=float, help="level of the initial noise of a bidirectional model (default: "
                        "that of its `inversions`)")  # fmt: skip
    levels.add_argument("--schedule", help="of a bidirectional model: a file of search-schedule --inversion, the "
                        "levels to visit, there and back")  # fmt: skip
    p.add_argument("--steps", type=positive, help="each way: of a diffusion model's solver (default: 50); evaluations "
                   "of a bidirectional model, through the levels of its `inversions` (default: 1)")  # fmt: skip
    p.add_argument("--out", type=folder_to_write, default=Path(out), help=f"folder to write to (default: {out})")
    return p


def loaded(options: "argparse.Namespace") -> tuple[Any, Any]:
    """The module of the checkpoint, on its device, and the device."""
    from cli.quiet import quiet
    from lightning_modules.checkpoint import load_module

    quiet()
    device = find_device(options.device)
    return load_module(options.ckpt_path, tuple(options.allow_import)).to(device), device


def meter_of(module: Any) -> Any:
    """A counter of a model's network evaluations."""
    from evaluation.generate import Meter

    return Meter(module.ema_denoiser.network)


def facts(command: str, options: "argparse.Namespace", meter: Any, ways: Ways) -> dict[str, Any]:
    """How results were made: what scores.json says before the scores themselves."""
    return {
        "task": command,
        "checkpoint": options.ckpt_path,
        "levels": list(ways.levels),
        "back": list(ways.back),
        "small": ways.small,
        "nfe": meter.nfe,
        "seconds_per_image": meter.seconds_per_image,
    }
