"""`restore`: inpaint, colourise, upscale, unblur and repair JPEGs with a trained model, and score the results."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cli.arguments import OneLineParser, folder_to_write, parse_seeds, positive
from cli.errors import UsageError, run_command
from cli.image_to_image import SHOWN, levels_down
from cli.inputs import Inputs, at, check_results, in_batches, names_of, save_images, test_images, wanted_labels
from cli.invert import stacked
from cli.restore_methods import FEW_STEP, INVERTING, MANY_STEP, TASKS, Case, control, method_for, operator_for
from cli.sample import add_checkpoint_options, find_device

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from torch import Tensor


FIRST = {"blind": 0.3}
"""First noise level of the methods that do not start at 2; what inverts goes up to sigma_max."""


class Given(NamedTuple):
    """The inputs, whether they are clean, and what was wrong with files that could not be read."""

    inputs: Inputs
    clean: bool
    faults: list[str]


def parser() -> OneLineParser:
    """The options of `restore`."""
    p = OneLineParser(
        prog="main.py restore",
        allow_abbrev=False,
        description="Restore images with a trained model. Clean images are damaged first, so that the result can be "
        "scored: PSNR, SSIM, and the PSNR of the result damaged again against what was given. Writes each result, "
        "grid.png (what was given, results, clean images) and scores.json.",
        epilog=" | ".join(f"{name}: {text}" for name, text in TASKS.items()),
    )
    add_checkpoint_options(p)
    p.add_argument("--task", required=True, choices=list(TASKS), help="what was done to the images")
    p.add_argument("--method", choices=[*FEW_STEP, *INVERTING, *MANY_STEP], help="default: zero-shot, and ddnm for a "
                   "diffusion model")  # fmt: skip
    p.add_argument("--steps", type=positive, help="noise levels visited (default: 4, and 20 for a diffusion model)")
    p.add_argument("--level", type=float, help="the first noise level (default: 2, blind 0.3, of a diffusion model "
                   "and of what inverts sigma_max)")  # fmt: skip
    p.add_argument("--small", type=float, default=0.1, help="level of the noise that is amplified (default: 0.1)")
    p.add_argument("--mask", type=Path, help="inpaint: an image of the model's size, bright where pixels are kept")
    p.add_argument("--factor", type=positive, default=2, help="upscale: by how much (default: 2)")
    p.add_argument("--blur", type=float, default=1.0, help="unblur: standard deviation in pixels (default: 1)")
    p.add_argument("--quality", type=positive, default=10, help="jpeg: quality factor, 1 to 95 (default: 10)")
    p.add_argument("--input", type=Path, help="an image file, or a folder of them, cut to the central square and "
                   "resized (default: test images of the run's data)")  # fmt: skip
    p.add_argument("--damaged", action="store_true", help="the images of --input are damaged already; there are no "
                   "scores then")  # fmt: skip
    p.add_argument("--data", help="a file such as configs/data/digits.yaml, in the place of the run's data")
    p.add_argument("--seeds", type=parse_seeds, default=None, help="which test images, counted from 0, and the seeds "
                   "of the noise (default: 0-15); with --input the seeds alone, one for each image")  # fmt: skip
    p.add_argument("--class", dest="label", type=int, help="the class of all images (default: their own)")
    p.add_argument(
        "--out", type=folder_to_write, default=Path("restored"), help="folder to write to (default: restored)"
    )
    return p


def restore(args: Sequence[str]) -> int:
    """Run `restore` and return the exit code."""
    return run_command(lambda: _restore(parser().parse_args(args)))


def _restore(options: "argparse.Namespace") -> None:
    from cli.quiet import quiet
    from diffusion.pixels import from_uint8, to_uint8
    from evaluation.generate import Meter
    from evaluation.grids import save_png
    from evaluation.report import write_json
    from lightning_modules.checkpoint import load_module

    quiet()
    device = find_device(options.device)
    module: Any = load_module(options.ckpt_path, tuple(options.allow_import)).to(device)
    run = method_for(options.method, module)
    operator = operator_for(options, module.image_shape)
    given = given_images(options, module)
    inputs, truth = given.inputs, given.inputs.images if given.clean else None
    labels = wanted_labels(options, module, inputs)
    y = operator.measure(from_uint8(inputs.images)) if given.clean else measured(options, inputs.images)
    levels = levels_for(options, module)
    meter, again = (Meter(module.ema_denoiser.network) for _ in range(2))
    case = (options, module, operator, y, inputs.seeds, labels, levels, device)
    made = restored(run, *case, meter)
    shown = {"restored": made, "given": to_uint8(operator.pseudo_inverse(y).clamp(-1, 1))}
    if run in INVERTING.values():
        shown["control"] = restored(control, *case, again)
    if truth is not None:
        shown["clean"] = truth
    save_images(made, inputs.names, options.out)
    rows = [shown[name][:SHOWN] for name in ("given", "restored", "clean") if name in shown]
    save_png(stacked(*rows), options.out / "grid.png")
    scores = {name: scores_of(images, truth, operator, y) for name, images in shown.items()}
    write_json(
        options.out / "scores.json",
        {
            "task": options.task,
            "operator": type(operator).__name__,
            "method": options.method or next(n for n, m in (FEW_STEP | MANY_STEP).items() if m is run),
            "checkpoint": options.ckpt_path,
            "levels": list(levels),
            "nfe": meter.nfe,
            "seconds_per_image": meter.seconds_per_image,
            "images": inputs.names,
            "scores": scores,
        },
    )
    report(options, scores, meter, str(device))
    if given.faults:
        raise UsageError(f"{len(given.faults)} files could not be read, the others are restored: {given.faults[0]}")


def levels_for(options: "argparse.Namespace", module: Any) -> tuple[float, ...]:
    """Descending levels, one evaluation each: for a diffusion model Karras' grid down to sigma_min.

    Raises:
        UsageError: the first is none of the model's, or --small is not below all of them.
    """
    from diffusion.denoisers import EDMDenoiser
    from diffusion.grids import KarrasGrid

    low, high = module.denoiser.sigma_min, module.denoiser.sigma_max
    many, inverts = type(module.ema_denoiser) is EDMDenoiser, options.method in INVERTING
    default = high if many or options.method in ("inversion", "noise-space") else FIRST.get(options.method, 2.0)
    level = options.level if options.level is not None else min(max(default, 1.01 * low), high)
    if not low < level <= high:
        raise UsageError(f"--level {level:g}: it must lie above sigma_min = {low:g}, at most at sigma_max = {high:g}")
    if many:
        steps = options.steps or 20
        return tuple(KarrasGrid().levels(steps, low, level)) if steps > 1 else (level,)
    levels = levels_down(module, level, options.steps) if options.steps else default_levels(module, level)
    if inverts and not 0 < options.small < levels[-1]:
        raise UsageError(f"--small {options.small:g}: it must lie above 0 and below the last level, {levels[-1]:.3g}")
    return levels


def default_levels(module: Any, level: float) -> tuple[float, ...]:
    """Four levels down, or as many as a model has that was trained at a few."""
    for steps in (4, 3, 2):
        try:
            return levels_down(module, level, steps)
        except UsageError:
            continue
    return levels_down(module, level, 1)


def restored(
    run: "Callable[[Case], Tensor]",
    options: "argparse.Namespace",
    module: Any,
    operator: Any,
    y: "Tensor",
    seeds: Sequence[int],
    labels: "Tensor | None",
    levels: tuple[float, ...],
    device: Any,
    meter: Any,
) -> "Tensor":
    """Results (N, C, H, W) uint8 of a method; every image has the noise of its own seed."""
    from diffusion.denoisers import GeneratorDenoiser

    denoise = module.ema_denoiser
    generator = isinstance(denoise, GeneratorDenoiser)

    def make(noise: Any, rows: "Tensor") -> "Tensor":
        return run(
            Case(
                denoise.drawing(noise) if generator else denoise,
                operator,
                y[rows].to(device),
                noise,
                at(labels, rows, device),
                levels,
                options.small,
                0.0 if generator else denoise.sigma_min,
                denoise.sigma_max,
                denoise.sigma_data,
            )
        )

    return in_batches(make, seeds, module, options.batch_size, device, meter)


def given_images(options: "argparse.Namespace", module: Any) -> Given:
    """Test images, or those of --input that can be read.

    Raises:
        UsageError: there are none, or their number, names or kind do not fit.
    """
    import torch

    from datamodules.encoded import Limits, decode_image
    from datamodules.files import read_folder

    if options.input is None:
        if options.damaged:
            raise UsageError("--damaged is of the images of --input: test images are clean")
        return Given(test_images(options, module), True, [])
    path, (channels, side, _) = options.input, module.image_shape
    if not (path.is_file() or path.is_dir()):
        raise UsageError(f"--input {path}: there is no such file or folder")
    if options.damaged:
        channels, side = damaged_shape(options, channels, side)
    files, images, faults = [], [], []
    encoded = read_folder(path, Limits()).read() if path.is_dir() else iter([(path.name, path.read_bytes)])
    for file, load in encoded:
        try:
            images.append(torch.tensor(decode_image(load(), file, side, channels, Limits())))
            files.append(file)
        except ValueError as error:
            faults.append(str(error))
    if not images:
        raise UsageError(f"--input {path}: {faults[0] if faults else 'no images are in it'}")
    names = names_of(path, files)
    check_results(path, files, options.out, names)
    seeds = options.seeds or list(range(len(names)))
    if len(seeds) != len(names):
        raise UsageError(f"--seeds: {len(seeds)} of them for {len(names)} images; one for each is needed")
    return Given(Inputs(names, torch.stack(images), seeds, None), not options.damaged, faults)


def damaged_shape(options: "argparse.Namespace", channels: int, side: int) -> tuple[int, int]:
    """Channels and side of an image that is damaged already."""
    if options.task == "colourise":
        return 1, side
    return channels, side // options.factor if options.task == "upscale" else side


def measured(options: "argparse.Namespace", images: "Tensor") -> "Tensor":
    """The measurement that damaged images (N, C, H, W) uint8 are."""
    from diffusion.pixels import from_uint8
    from tasks.operators import GREY_WEIGHTS

    y = from_uint8(images)
    return y * sum(GREY_WEIGHTS) if options.task == "colourise" else y


def scores_of(images: "Tensor", truth: "Tensor | None", operator: Any, y: "Tensor") -> dict[str, list[float]]:
    """Numbers by name, one for each image."""
    from evaluation.restoration import consistency, psnr, ssim

    found = {"consistency": consistency(operator.measure, images, y)}
    if truth is not None:
        found |= {"psnr": psnr(images, truth), "ssim": ssim(images, truth)}
    return {name: values.tolist() for name, values in found.items()}


def report(options: "argparse.Namespace", scores: dict[str, dict[str, list[float]]], meter: Any, device: str) -> None:
    """Print the means and where the files are."""
    from statistics import fmean

    from rich.console import Console

    from evaluation.report import narrow_table

    names = list(scores["restored"])
    units = {"psnr": "PSNR, dB", "ssim": "SSIM", "consistency": "PSNR of what is known, dB"}
    table = narrow_table(
        f"{options.task}, {meter.images} images", ("images",), [units[name] for name in names],
        "means; at most 60 dB, which is what equal images get",
    )  # fmt: skip
    for images, values in scores.items():
        table.add_row(images, *(f"{fmean(values[name]):.4g}" for name in names))
    Console().print(table)
    print(
        f"{meter.images} images in {options.out}: {meter.nfe:g} network evaluations each (counted), "
        f"{1000 * meter.seconds_per_image:.3g} ms an image on {device}; grid.png: what was given, results, clean images"
    )
