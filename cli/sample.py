"""`sample`: images from a checkpoint, one for each seed."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.arguments import OneLineParser, folder_to_write, parse_seeds, positive
from cli.errors import UsageError, run_command
from cli.sampler_options import add_sampler_options, sampler_text, set_sampler, split_sampler_options

if TYPE_CHECKING:
    import argparse

    import torch
    from torch import Tensor


def parser(command: str) -> "OneLineParser":
    """The options of `sample`."""
    from argparse import BooleanOptionalAction

    p = OneLineParser(
        prog=f"main.py {command}",
        allow_abbrev=False,
        description="Generate an image for each seed from the averaged weights of a checkpoint. An image depends on "
        "its seed alone, not on the batch size or the other seeds.",
    )
    add_checkpoint_options(p)
    p.add_argument("--seeds", type=parse_seeds, default=list(range(64)), help="numbers and ranges (default: 0-63)")
    p.add_argument("--steps", type=positive, default=None, help="network evaluations (default: 1, diffusion models 35)")
    p.add_argument("--schedule", help="a file of search-schedule: the levels to visit, one evaluation each")
    p.add_argument("--out", type=folder_to_write, default=Path("samples"), help="folder to write to (default: samples)")
    p.add_argument("--class", dest="label", type=int, help="the class of all images (default: drawn for each seed)")
    p.add_argument("--grid", action=BooleanOptionalAction, help="also write grid.png (default: not with --subdirs, "
                   "since a scorer that reads the folder would count it)")  # fmt: skip
    p.add_argument("--npz", action="store_true", help="write samples.npz instead of PNG files: arr_0 (uint8 NHWC), "
                   "labels (and as ADM has it, arr_1) of a conditional model, seeds")  # fmt: skip
    p.add_argument("--subdirs", action="store_true", help="a sub-folder for every 1000 seeds: 000000/000123.png")
    add_sampler_options(p)
    return p


def add_checkpoint_options(p: OneLineParser, batch_size: int = 64) -> None:
    """What the commands that take a checkpoint share."""
    p.add_argument("--ckpt_path", required=True, help="a checkpoint of `fit`")
    p.add_argument(
        "--batch_size", type=positive, default=batch_size, help=f"images per forward pass (default: {batch_size})"
    )
    p.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps ... (default: cuda if there is one)")
    p.add_argument("--allow-import", action="append", default=[], help="a further package the checkpoint may name")


def sample(args: Sequence[str], command: str = "sample") -> int:
    """Run `sample` and return the exit code."""

    def run() -> None:
        rest, sampler_args = split_sampler_options(args)
        _sample(parser(command).parse_args(rest), sampler_args)

    return run_command(run)


def find_device(name: str) -> "torch.device":
    """The device of that name, which must be there."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name}: {str(error).splitlines()[0]}") from None


def _sample(options: "argparse.Namespace", sampler_args: Sequence[str]) -> None:
    import torch

    from cli.quiet import quiet
    from diffusion.rng import ImageNoise
    from evaluation.dashboard_grids import is_planar
    from evaluation.generate import Meter, draw_labels, generate
    from evaluation.grids import scatter_plot
    from lightning_modules.checkpoint import load_module

    quiet()
    if options.npz and options.subdirs:
        raise UsageError("--subdirs is for PNG files, and --npz writes one file instead")
    options.grid = not options.subdirs if options.grid is None else options.grid
    device = find_device(options.device)
    module: Any = load_module(options.ckpt_path, tuple(options.allow_import)).to(device)
    seeds, meter, label = options.seeds, Meter(module.ema_denoiser.network), None
    if options.label is not None and not 0 <= options.label < module.num_classes:
        kind = f"has the classes 0 to {module.num_classes - 1}" if module.num_classes else "is unconditional"
        raise UsageError(f"--class {options.label}: this model {kind}")
    if module.num_classes:
        drawn = draw_labels(seeds, torch.ones(module.num_classes))
        label = drawn if options.label is None else torch.full_like(drawn, options.label)
    set_sampler(module, options, sampler_args)
    steps = options.steps or default_steps(module)
    if options.schedule is not None:
        from cli.schedule_file import use_schedule

        steps = len(use_schedule(module, options.schedule, options.steps).levels)
    options.out.mkdir(parents=True, exist_ok=True)

    if is_planar(module):
        from evaluation.grids import save_png

        with torch.inference_mode(), meter.batch(len(seeds), device):
            noise = ImageNoise(seeds, module.image_shape, device)
            points = module.sample(noise, steps, None if label is None else label.to(device))
        save_npz(options.out / "samples.npz", points.flatten(1).cpu(), label, seeds)
        limit = 1.2 * float(points.abs().amax())
        save_png(scatter_plot([("", points, label)], limit), options.out / "grid.png")
    else:
        images = generate(
            module.sample,
            seeds,
            module.image_shape,
            steps=steps,
            label=label,
            batch_size=options.batch_size,
            device=device,
            meter=meter,
        )
        write_images(options, images, label)
    evaluations = f"{sampler_text(module)}{meter.nfe:g} network evaluations each (counted)"
    print(
        f"{len(seeds)} images in {options.out}: {evaluations}, {1 / meter.seconds_per_image:,.0f} images/s on {device}"
    )


def default_steps(module: Any) -> int:
    """1, or what the module's `sample` itself takes where one step is no use."""
    import inspect

    return inspect.signature(module.sample).parameters["steps"].default


def write_images(options: "argparse.Namespace", images: "Tensor", label: "Tensor | None") -> None:
    """Write images (N, C, H, W) uint8 as PNG files named by their seeds, or as one npz; and a grid of the first 256."""
    from evaluation.grids import image_grid, save_png

    if options.npz:
        save_npz(options.out / "samples.npz", images.movedim(1, -1), label, options.seeds)
    else:
        from PIL import Image

        for seed, image in zip(options.seeds, images.movedim(1, -1).numpy(), strict=True):
            folder = options.out / f"{seed // 1000 * 1000:06d}" if options.subdirs else options.out
            folder.mkdir(exist_ok=True)
            Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(folder / f"{seed:06d}.png")
    if options.grid:
        save_png(image_grid(images[:256], columns=16 if len(images) > 64 else 8), options.out / "grid.png")


def save_npz(path: Path, values: "Tensor", label: "Tensor | None", seeds: list[int]) -> None:
    """An npz file in ADM's layout, so that OpenAI's evaluator reads it; and the seeds.

    Args:
        path: the file.
        values: `arr_0`: images (N, H, W, C) uint8, or points (N, d).
        label: the classes (N,), written as `arr_1` and as `labels`; None for an unconditional model.
        seeds: one for each, written as `seeds`.
    """
    import numpy as np

    from evaluation.files import write_npz

    arrays: dict[str, Any] = {"arr_0": values.numpy(), "seeds": np.asarray(seeds)}
    if label is not None:
        arrays["arr_1"] = arrays["labels"] = label.cpu().numpy()
    write_npz(path, arrays)
