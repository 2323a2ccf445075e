"""`edit`: images of one class made into another by inversion, and `interpolate`: the images between two."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.arguments import OneLineParser, folder_to_write, parse_seeds, positive
from cli.errors import UsageError, run_command
from cli.image_to_image import SHOWN
from cli.inputs import Inputs, at, check_all_done, chosen_images, in_batches, one_class, save_images, wanted_labels
from cli.inversion_ways import between, inverts, seeded, ways_of
from cli.invert import stacked
from cli.sample import add_checkpoint_options, find_device

if TYPE_CHECKING:
    import argparse

    from torch import Tensor


def _options(command: str, description: str, out: str) -> OneLineParser:
    """What the two commands share."""
    p = OneLineParser(prog=f"main.py {command}", allow_abbrev=False, description=description)
    add_checkpoint_options(p)
    p.add_argument("--input", type=Path, help="an image file, or a folder of them, cut to the central square and "
                   "resized (default: test images of the run's data)")  # fmt: skip
    p.add_argument("--data", help="a file such as configs/data/digits.yaml, in the place of the run's data")
    p.add_argument("--seeds", type=parse_seeds, default=None, help="which test images, counted from 0, and the seeds "
                   "of their initial noise (default: 0-15); with --input the seeds alone")  # fmt: skip
    p.add_argument("--small", type=float, help="level of the initial noise of a bidirectional model (default: that of "
                   "its `inversions`)")  # fmt: skip
    p.add_argument("--steps", type=positive, default=50, help="of a diffusion model, each way (default: 50)")
    p.add_argument("--out", type=folder_to_write, default=Path(out), help=f"folder to write to (default: {out})")
    return p


def edit(args: Sequence[str]) -> int:
    """Run `edit` and return the exit code."""
    p = _options(
        "edit",
        "Invert images as of their class and generate from their noise as of another. Writes each result, and "
        "grid.png: inputs, regenerated as of their own class, results.",
        "edited",
    )
    p.add_argument("--from", dest="label", type=int, help="the class of the images (default: their own)")
    p.add_argument("--to", type=int, required=True, help="the class to make of them")
    return run_command(lambda: _edit(p.parse_args(args)))


def _edit(options: "argparse.Namespace") -> None:
    from diffusion.pixels import from_uint8
    from evaluation.grids import save_png
    from evaluation.restoration import psnr

    module, device = _loaded(options)
    one_class("--to", options.to, module, 1)  # before any file is read
    inputs = chosen_images(options, module)
    source = wanted_labels(options, module, inputs, "--from")
    target = one_class("--to", options.to, module, len(inputs.images))
    up, down = ways_of(module, options.steps, options.small)

    def regenerate(noise: Any, rows: "Tensor", to: "Tensor | None") -> "Tensor":
        x0 = from_uint8(inputs.images[rows]).to(device)
        return down(up(x0, noise, at(source, rows, device)), at(to, rows, device))

    meter, again = _meter(module), _meter(module)
    made, same = (
        in_batches(partial(regenerate, to=to), inputs.seeds, module, options.batch_size, device, counted)
        for to, counted in ((target, meter), (source, again))
    )
    save_images(made, inputs.names, options.out)
    save_png(stacked(inputs.images[:SHOWN], same[:SHOWN], made[:SHOWN]), options.out / "grid.png")
    kept = [f"{float(psnr(x, inputs.images).mean()):.4g} dB" for x in (made, same)]
    print(
        f"{len(made)} images in {options.out}, made into class {options.to}: {meter.nfe:g} network evaluations each "
        f"(counted), {1000 * meter.seconds_per_image:.3g} ms an image on {device}"
    )
    print(f"PSNR to the inputs: {kept[0]}; regenerated as of their own class, the inversion alone: {kept[1]}")
    if (read := _read_as(made, target)) is not None:
        print(f"read as class {options.to} by the data's classifier: {read:.1%}")
    check_all_done(inputs)


def interpolate(args: Sequence[str]) -> int:
    """Run `interpolate` and return the exit code."""
    p = _options(
        "interpolate",
        "The images between two real ones: both inverted, their noises mixed along the great circle, generated again. "
        "Of images 0, 1, 2, 3, ... 0 and 1 are a pair, 2 and 3 the next. Writes grid.png with a row for each pair.",
        "between",
    )
    p.add_argument("--class", dest="label", type=int, help="the class of all images (default: that of a pair's first)")
    p.add_argument("--frames", type=positive, default=7, help="images between, both ends included (default: 7)")
    return run_command(lambda: _interpolate(p.parse_args(args)))


def _interpolate(options: "argparse.Namespace") -> None:
    import torch

    from diffusion.pixels import from_uint8, to_uint8
    from evaluation.grids import image_grid, save_png

    if options.frames < 2:
        raise UsageError(f"--frames {options.frames}: the two ends are at least two")
    module, device = _loaded(options)
    inputs = chosen_images(options, module)
    left, right = whole_pairs(inputs)
    labels = wanted_labels(options, module, inputs)
    first, second = inputs.images[left], inputs.images[right]
    label = None if labels is None else labels[left]
    ways = ways_of(module, options.steps, options.small)
    meter, shown = _meter(module), []
    for rows in torch.arange(len(first)).split(options.batch_size):
        x0, x1 = (from_uint8(images[rows]).to(device) for images in (first, second))
        noise = seeded([inputs.seeds[left[i]] for i in rows.tolist()], module, device)
        with meter.batch(options.frames * len(rows), device), torch.inference_mode():
            frames = between(ways, x0, x1, options.frames, noise, at(label, rows, device))
        frames = torch.stack([to_uint8(row).cpu() for row in frames])
        shown.append(torch.cat([first[rows, None], frames, second[rows, None]], 1))
    pictures = torch.cat(shown).flatten(0, 1)
    options.out.mkdir(parents=True, exist_ok=True)
    save_png(image_grid(pictures, options.frames + 2), options.out / "grid.png")
    print(
        f"{len(first)} pairs in {options.out / 'grid.png'}: the first image, {options.frames} between, the second; "
        f"{meter.nfe:g} network evaluations for each image between (counted) on {device}"
    )
    check_all_done(inputs)


def whole_pairs(inputs: Inputs) -> tuple[list[int], list[int]]:
    """Where the first and the second images of the pairs are, of those of which both could be read.

    Raises:
        UsageError: one image has no other, or no pair is left.
    """
    row = {place: i for i, place in enumerate(inputs.places)}
    if inputs.total % 2:
        raise UsageError(f"{inputs.total} images: an even number is needed, pairs are interpolated")
    pairs = [(row[i], row[i + 1]) for i in range(0, inputs.total, 2) if i in row and i + 1 in row]
    if not pairs:
        raise UsageError("of no pair could both images be read")
    left, right = zip(*pairs, strict=True)
    return list(left), list(right)


def _loaded(options: "argparse.Namespace") -> tuple[Any, Any]:
    """The module, on its device.

    Raises:
        UsageError: its model cannot invert.
    """
    from cli.quiet import quiet
    from lightning_modules.checkpoint import load_module

    quiet()
    device = find_device(options.device)
    module: Any = load_module(options.ckpt_path, tuple(options.allow_import)).to(device)
    if not inverts(module):
        raise UsageError(
            f"{options.ckpt_path} holds a {type(module).__name__}, whose model goes from noise to data only: inversion "
            "needs a BCMModule or a DiffusionModule"
        )
    return module, device


def _meter(module: Any) -> Any:
    from evaluation.generate import Meter

    return Meter(module.ema_denoiser.network)


def _read_as(images: "Tensor", label: "Tensor") -> float | None:
    """The share that the data's own classifier reads as `label`; None where there is no such classifier."""
    from evaluation.classifier import ClassifierFeatures
    from evaluation.features import extract, feature_network_for

    if tuple(images.shape[1:]) not in ((1, 8, 8), (1, 28, 28)):
        return None
    judge = feature_network_for(tuple(images.shape[1:]))  # type: ignore[arg-type]
    assert isinstance(judge, ClassifierFeatures)
    return float((extract(judge, images).logits.argmax(1) == label).double().mean())
