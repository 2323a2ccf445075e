"""`invert`: image -> noise -> image, and how much of the image is lost."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.arguments import OneLineParser, folder_to_write, parse_seeds, positive
from cli.errors import UsageError, run_command
from cli.sample import add_checkpoint_options, find_device

if TYPE_CHECKING:
    import argparse

    from torch import Tensor

    from cli.inversion_file import InversionSchedule
    from evaluation.grids import Picture

COLUMNS = 16


def parser() -> "OneLineParser":
    """The options of `invert`."""
    p = OneLineParser(
        prog="main.py invert",
        allow_abbrev=False,
        description="Map test images to their noise and back with a bidirectional checkpoint. Beside the error stands "
        "a control: the images denoised from the same small initial noise, never inverted. A perfect model has the "
        "same error there, so what is beyond it is learning error.",
    )
    add_checkpoint_options(p)
    p.add_argument("--seeds", type=parse_seeds, default=list(range(16)), help="which test images, counted from 0; the "
                   "seed of each one's initial noise as well (default: 0-15)")  # fmt: skip
    p.add_argument("--steps", type=positive, help="network evaluations from image to noise (default: 1)")
    p.add_argument("--schedule", help="a file of search-schedule --inversion: the levels to visit, there and back")
    p.add_argument(
        "--out", type=folder_to_write, default=Path("inversions"), help="folder to write to (default: inversions)"
    )
    p.add_argument("--data", help="a file such as configs/data/digits.yaml (default: the data of the checkpoint's run)")
    return p


def invert(args: Sequence[str]) -> int:
    """Run `invert` and return the exit code."""
    return run_command(lambda: _invert(parser().parse_args(args)))


def _invert(options: "argparse.Namespace") -> None:
    import torch

    from cli.quiet import quiet
    from diffusion.denoisers import BidirectionalDenoiser
    from diffusion.pixels import from_uint8, to_uint8
    from diffusion.rng import ImageNoise
    from diffusion.samplers import ancestral, inversion_start
    from diffusion.samplers import invert as follow
    from evaluation.generate import Meter
    from evaluation.grids import save_png
    from evaluation.inversion import squared_error
    from lightning_modules.checkpoint import load_module

    quiet()
    device = find_device(options.device)
    module: Any = load_module(options.ckpt_path, tuple(options.allow_import)).to(device)
    denoise = module.ema_denoiser
    if not isinstance(denoise, BidirectionalDenoiser):
        raise UsageError(
            f"{options.ckpt_path} holds a {type(module).__name__}, whose model goes from noise to data only: "
            "inversion needs a BCMModule"
        )
    way = chosen_way(options, module)
    levels = way.levels
    images, labels = chosen_test_images(options, module)

    way_in, way_out = Meter(denoise.network), Meter(denoise.network)
    parts: list[list[Tensor]] = []
    with torch.inference_mode():
        for rows in torch.arange(len(images)).split(options.batch_size):
            x0 = from_uint8(images[rows].to(device))
            label = None if labels is None else labels[rows].to(device)
            seeds = [options.seeds[i] for i in rows.tolist()]
            with way_in.batch(len(rows), device):
                initial = ImageNoise(seeds, module.image_shape, device)
                start, visited = inversion_start(x0, levels, initial, denoise.sigma_min)
                noise = follow(denoise, start, visited, label)
            with way_out.batch(len(rows), device):
                back = ancestral(denoise, noise, (levels[-1], *way.back, denoise.sigma_min), label)
            control = denoise(start, visited[0], label)
            parts.append([(noise / levels[-1]).cpu(), to_uint8(back).cpu(), to_uint8(control).cpu()])
    unit, regenerated, denoised = (torch.cat(part) for part in zip(*parts, strict=True))

    small, large, low = levels[0], levels[-1], denoise.sigma_min
    variance = float((images.double() / 255).var(0, correction=0).mean())
    rows_of_text = (
        ("error: mean squared, per pixel on [0, 1]", f"{float(squared_error(regenerated, images).mean()):.6f}"),
        (
            f"control: f(x0 + {small:g} noise, {small:g} -> {low:g}), never inverted",
            f"{float(squared_error(denoised, images).mean()):.6f}",
        ),
        ("variance of these images: error of their mean", f"{variance:.6f}"),
        (f"standard deviation of the noise / {large:g}", f"{float(unit.std(correction=0)):.4f}"),
    )
    path = " -> ".join(f"{level:g}" for level in (*levels, *way.back, low))
    print(
        f"{len(images)} test images through the levels {path}: {way_in.nfe:g} network evaluations in, "
        f"{way_out.nfe:g} out (counted)"
    )
    for name, value in rows_of_text:
        print(f"  {name:<62}{value:>10}")
    options.out.mkdir(parents=True, exist_ok=True)
    save_png(stacked(images, regenerated, to_uint8(unit / 3)), options.out / "grid.png")
    print(
        f"written to {options.out / 'grid.png'}: real images, reconstructions, noise (3 standard deviations are white)"
    )


def chosen_way(options: "argparse.Namespace", module: Any) -> "InversionSchedule":
    """The levels of `--schedule`, or those that the method has for so many `--steps`.

    Raises:
        UsageError: the file does not fit.
        ValueError: the method has none.
    """
    from cli.inversion_file import InversionSchedule, read_inversion

    if options.schedule is not None:
        return read_inversion(options.schedule, module, options.steps)
    return InversionSchedule(type(module).__name__, tuple(module.inversion_levels(options.steps or 1)))


def chosen_test_images(options: "argparse.Namespace", module: Any) -> "tuple[Tensor, Tensor | None]":
    """The test images that `--seeds` numbers, uint8 (N, C, H, W), and their classes if the model is told them.

    Raises:
        UsageError: there are fewer, or they are not of the model's shape.
    """
    from cli.data import load_data
    from cli.run_files import read_text, run_config

    config = read_text(run_config(options.ckpt_path))
    images, labels = load_data(config, options.data, tuple(options.allow_import)).uint8_images("test")
    if max(options.seeds) >= len(images):
        raise UsageError(f"--seeds {max(options.seeds)}: the test split has the images 0 to {len(images) - 1}")
    check_shape(images, module)
    labels = labels[options.seeds].cpu() if labels is not None and module.num_classes else None
    return images[options.seeds].cpu(), labels


def check_shape(images: "Tensor", module: Any) -> None:
    """Raise UsageError if test images (N, C, H, W) are not of a model's shape."""
    if tuple(images.shape[1:]) != module.image_shape:
        theirs, ours = (" x ".join(map(str, shape)) for shape in (images.shape[1:], module.image_shape))
        raise UsageError(f"the test images are {theirs}, and the model's are {ours}")


def stacked(*rows: "Tensor") -> "Picture":
    """A picture of rows of 16: the first images of each of `rows` (N, C, H, W) uint8 below one another, then the next.

    For real images, reconstructions and noise: every image stands above what became of it.
    """
    import torch

    from evaluation.grids import image_grid

    columns = min(COLUMNS, len(rows[0]))
    blank = -len(rows[0]) % columns
    filled = [torch.cat([x, torch.full_like(x[:1], 255).expand(blank, -1, -1, -1)]) for x in rows]
    chunks = zip(*(x.split(columns) for x in filled), strict=True)
    return image_grid(torch.cat([row for chunk in chunks for row in chunk]), columns)
