"""`restore`: what a trained model makes of damaged images, of noise or of strokes, and the scores of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.arguments import OneLineParser, folder_to_write, parse_seeds, positive
from cli.errors import UsageError, run_command
from cli.image_to_image import SHOWN
from cli.inputs import check_all_done, chosen_images, save_images, wanted_labels
from cli.invert import stacked
from cli.restore_levels import Way, levels_for
from cli.restore_methods import DENOISE, FEW_STEP, INVERTING, MANY_STEP, PAIRED, SDEDIT, STROKES, method_named
from cli.restore_operators import operator_of
from cli.restore_run import Problem, Restored, Restorer, observed
from cli.restore_tasks import BLUR, FACTOR, OPTION_OF, QUALITY, TASKS, Damage, read_mask
from cli.sample import add_checkpoint_options, find_device

if TYPE_CHECKING:
    import argparse

    from torch import Tensor

    from evaluation.restoration import Perceptual


def parser() -> OneLineParser:
    """The options of `restore`."""
    p = OneLineParser(
        prog="main.py restore",
        allow_abbrev=False,
        description="Restore images with a trained model. Clean images are damaged first, so that the result can be "
        "scored: PSNR, SSIM, and the PSNR of the result damaged again against what was given. A model that was trained "
        "for one task (i2sb, palette) restores that one. Writes each result, grid.png (what was given, results, clean "
        "images) and scores.json.",
        epilog=" | ".join(f"{name}: {text}" for name, text in TASKS.items()),
    )
    add_checkpoint_options(p)
    p.add_argument("--task", required=True, choices=list(TASKS), help="what was done to the images")
    methods = [*FEW_STEP, *INVERTING, *MANY_STEP, STROKES, SDEDIT, DENOISE, *PAIRED]
    p.add_argument("--method", choices=methods, help="default: zero-shot, and ddnm for a diffusion model; strokes have "
                   "strokes and sdedit, noise has denoise; a model trained for one task has its own")  # fmt: skip
    p.add_argument("--steps", type=positive, help="noise levels visited (default: 4, 2 for strokes, and 20 for a "
                   "diffusion model and one trained for the task)")  # fmt: skip
    p.add_argument("--level", type=float, help="the first noise level (default: 2, blind 0.3, of a diffusion model "
                   "and of what inverts sigma_max, of strokes 5.38 times the side over 256); denoise: that "
                   "of the noise")  # fmt: skip
    p.add_argument("--small", type=float, help=f"level of the noise that {', '.join(INVERTING)} amplify (default: "
                   f"{Way.small:g})")  # fmt: skip
    p.add_argument("--mask", type=Path, help="inpaint: an image of the model's size, bright where pixels are kept")
    p.add_argument("--factor", type=positive, help=f"upscale: by how much (default: {FACTOR})")
    p.add_argument("--bicubic", action="store_true", default=None, help="upscale: from bicubic down-sampling, in the "
                   "place of means")  # fmt: skip
    p.add_argument("--blur", type=float, help=f"unblur: standard deviation in pixels (default: {BLUR:g})")
    p.add_argument("--quality", type=positive, help=f"jpeg: quality factor, 1 to 95 (default: {QUALITY})")
    p.add_argument("--noise", type=float, help="standard deviation of the noise in what was given, of images in "
                   "[-1, 1], beside any damage but jpeg (default: 0); many-step methods know it")  # fmt: skip
    source = p.add_mutually_exclusive_group()
    source.add_argument("--input", type=Path, help="an image file, or a folder of them, cut to the central square and "
                        "resized; with --damaged of the right size (default: test images of the run's "
                        "data)")  # fmt: skip
    source.add_argument("--data", help="a file such as configs/data/digits.yaml, in the place of the run's data")
    p.add_argument("--damaged", action="store_true", help="the images of --input are damaged already, or painted; "
                   "there are no scores then")  # fmt: skip
    p.add_argument("--lpips", action="store_true", help="score LPIPS too, of colour images of at least 32 pixels; its "
                   "network's weights are downloaded unless they are there")  # fmt: skip
    p.add_argument("--seeds", type=parse_seeds, default=None, help="which test images, counted from 0, and the seeds "
                   "of the noise (default: 0-15); with --input the seeds alone, also several of one image")  # fmt: skip
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
    from evaluation.grids import save_png
    from evaluation.report import write_json
    from lightning_modules.checkpoint import load_module

    quiet()
    check_used(options)
    device = find_device(options.device)
    module: Any = load_module(options.ckpt_path, tuple(options.allow_import)).to(device)
    method = method_named(options.method, module, options.task)
    check_used_by(method, options)
    way = Way(method, options.steps, options.level, Way.small if options.small is None else options.small)
    operator, lpips = operator_of(damage_of(options, module), module), perceptual(options, module)
    levels_for(way, module, options.task)  # before any image is read
    if options.damaged and options.input is None:
        raise UsageError("--damaged is of the images of --input: test images are clean")
    measurement = options.damaged and options.task != STROKES  # of a painting the shapes alone count
    inputs = chosen_images(options, module, given_shape(options, module, operator), exact=measurement)
    truth = None if options.damaged else inputs.images
    y = measured(options, inputs.images) if truth is None else observed(operator, truth, inputs.seeds)
    problem = Problem(operator, y, wanted_labels(options, module, inputs), inputs.seeds, options.task)
    restorer = Restorer(module, device, options.batch_size)
    made = restorer.restore(problem, way)
    shown = {"restored": made.images, "given": problem.given()}
    if way.method in INVERTING:
        shown["control"] = restorer.control(problem, way).images
    if truth is not None:
        shown["clean"] = truth
    save_images(made.images, inputs.names, options.out)
    rows = [shown[name][:SHOWN] for name in ("given", "restored", "clean") if name in shown]
    save_png(stacked(*rows), options.out / "grid.png")
    scores = {name: problem.scores(images, truth, lpips) for name, images in shown.items()}
    write_json(
        options.out / "scores.json",
        {
            "task": options.task,
            "operator": type(operator).__name__,
            "method": made.method,
            "checkpoint": options.ckpt_path,
            "levels": list(made.levels),
            "small": way.small if way.method in INVERTING else None,
            **numbers_of(options, operator, module),
            "seeds": inputs.seeds,
            "nfe": made.nfe,
            "seconds_per_image": made.seconds_per_image,
            "images": inputs.names,
            "scores": scores,
        },
    )
    report(options, scores, made, str(device))
    check_all_done(inputs)


def check_used(options: "argparse.Namespace") -> None:
    """Refuse an option that the task has no use for.

    Raises:
        UsageError: naming the first.
    """
    for name, task in OPTION_OF.items():
        if getattr(options, name) is not None and options.task != task:
            raise UsageError(f"--{name} is of the task {task}, and this is {options.task}")


def check_used_by(method: str, options: "argparse.Namespace") -> None:
    """Refuse an option that the method has no use for.

    Raises:
        UsageError: naming it.
    """
    if options.small is not None and method not in INVERTING:
        raise UsageError(f"--small is of the methods {', '.join(INVERTING)}, and this is {method}")
    if options.steps not in (None, 1) and method == DENOISE:
        raise UsageError(f"--steps {options.steps}: the method {DENOISE} takes one evaluation")


def numbers_of(options: "argparse.Namespace", operator: Any, module: Any) -> dict[str, Any]:
    """What the damage was, by the names of its options; None where it has no such number, or it is the model's own."""
    blurred = options.task == "unblur" and getattr(module, "operator", None) is None
    return {
        "mask": None if options.mask is None else str(options.mask),
        "factor": getattr(operator, "p", (options.factor or FACTOR) if options.bicubic else None),
        "bicubic": options.bicubic,
        "blur": BLUR if blurred and options.blur is None else options.blur,
        "quality": getattr(operator, "quality", None),
        "noise": operator.sigma_y,
    }


def damage_of(options: "argparse.Namespace", module: Any) -> Damage:
    """What the options say was done to the images.

    Raises:
        UsageError: the file of the mask is none.
    """
    mask = read_mask(options.mask, module.image_shape)
    numbers = (options.factor, options.blur, options.quality, options.level)
    return Damage(options.task, mask, *numbers, bool(options.bicubic), options.noise or 0.0)


def given_shape(options: "argparse.Namespace", module: Any, operator: Any) -> tuple[int, int, int]:
    """(C, H, W) of the images of --input: the model's, or of damaged ones what the operator leaves of them."""
    import torch

    clean = torch.zeros(1, *module.image_shape)
    channels, height, width = (operator.measure(clean) if options.damaged else clean).shape[1:]
    return channels, height, width


def measured(options: "argparse.Namespace", images: "Tensor") -> "Tensor":
    """The measurement that damaged images (N, C, H, W) uint8 are."""
    from diffusion.pixels import from_uint8
    from tasks.operators import GREY_WEIGHTS

    y = from_uint8(images)
    return y * sum(GREY_WEIGHTS) if options.task == "colourise" else y


def perceptual(options: "argparse.Namespace", module: Any) -> "Perceptual | None":
    """LPIPS, where it is asked for.

    Raises:
        UsageError: there is nothing to compare with, the images are not such as it is defined for, or its weights are
            missing.
    """
    from evaluation.restoration import Perceptual

    if not options.lpips:
        return None
    if options.damaged:
        raise UsageError("--lpips compares with clean images, and those of --damaged are not")
    try:
        return Perceptual(module.image_shape)
    except ValueError as error:
        raise UsageError(f"--lpips: {error}") from None


def report(
    options: "argparse.Namespace", scores: dict[str, dict[str, list[float]]], made: Restored, device: str
) -> None:
    """Print the means and where the files are."""
    from statistics import fmean

    from rich.console import Console

    from evaluation.report import narrow_table

    names, count = list(scores["restored"]), len(made.images)
    units = {
        "psnr": "PSNR, dB",
        "ssim": "SSIM",
        "lpips": "LPIPS",
        "consistency": "PSNR of what is known, dB",
        "residual": "squared distance from what was given, over that of the noise",
    }
    table = narrow_table(
        f"{options.task}, {count} images", ("images",), [units[name] for name in names],
        "means; at most 60 dB, which is what equal images get",
    )  # fmt: skip
    for images, values in scores.items():
        table.add_row(images, *(f"{fmean(values[name]):.4g}" for name in names))
    Console().print(table)
    print(
        f"{count} images in {options.out}: {made.nfe:g} network evaluations each (counted), "
        f"{1000 * made.seconds_per_image:.3g} ms an image on {device}; grid.png: what was given, results, clean images"
    )
