"""`interpolate`: the images between two real ones by inversion, or between two generated ones by their noises."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.arguments import positive
from cli.errors import UsageError, run_command
from cli.input_files import check_results
from cli.inputs import Inputs, at, check_all_done, chosen_images, one_class, save_images, wanted_labels
from cli.inversion_options import facts, inversion_parser, loaded, meter_of
from cli.inversion_ways import between, inverts, seeded, ways_of
from cli.noise_between import generated_between
from cli.sample import default_steps

if TYPE_CHECKING:
    import argparse

    from torch import Tensor


def interpolate(args: Sequence[str]) -> int:
    """Run `interpolate` and return the exit code."""
    p = inversion_parser(
        "interpolate",
        "A bidirectional or a diffusion model: the images between two real ones, both inverted, their noises mixed "
        "along the great circle, generated again. Any other model, which goes from noise to data only: the images "
        "between two that it generates from the noises of two --seeds, mixed so; it takes no --input, and --steps are "
        "then those of `sample`. Of images (or seeds) 0, 1, 2, 3, ... 0 and 1 are a pair, 2 and 3 the next. Writes "
        "each frame as PAIR/FRAME.png, grid.png with a row for each pair, and scores.json: of real images the PSNR of "
        "the two ends and of their control, denoised from the small noise and never inverted.",
        "between",
    )
    p.add_argument("--class", dest="label", type=int, help="the class of all images (default: that of a pair's first)")
    p.add_argument("--frames", type=positive, default=7, help="images between, both ends included (default: 7)")
    return run_command(lambda: _interpolate(p.parse_args(args)))


def _interpolate(options: "argparse.Namespace") -> None:
    if options.frames < 2:
        raise UsageError(f"--frames {options.frames}: the two ends are at least two")
    module, device = loaded(options)
    (_between_images if inverts(module) else _between_seeds)(options, module, device)


def _between_images(options: "argparse.Namespace", module: Any, device: Any) -> None:
    import torch

    from diffusion.pixels import from_uint8, to_uint8
    from evaluation.report import write_json
    from evaluation.restoration import psnr

    ways = ways_of(module, options.steps, options.small, options.schedule)
    inputs = chosen_images(options, module)
    left, right = whole_pairs(inputs)
    names = [pair_name(inputs.names[i], inputs.names[j]) for i, j in zip(left, right, strict=True)]
    if options.input is not None:
        check_results(options.input, inputs.files, options.out, frame_names(names, options.frames))
    labels = wanted_labels(options, module, inputs)
    ends = (inputs.images[left], inputs.images[right])
    label, seeds = None if labels is None else labels[left], [inputs.seeds[i] for i in left]
    meter, made, denoised = meter_of(module), [], []
    for rows in torch.arange(len(left)).split(options.batch_size):
        x0, x1 = (from_uint8(images[rows]).to(device) for images in ends)
        noise = seeded([seeds[i] for i in rows.tolist()], module, device)
        own = at(label, rows, device)
        with torch.inference_mode():
            with meter.batch(options.frames * len(rows), device):
                frames = between(ways, x0, x1, options.frames, noise, own)
            made.append(to_uint8(frames).cpu())
            if ways.control is not None:
                denoised.append(torch.stack([to_uint8(ways.control(x, noise(), own)).cpu() for x in (x0, x1)], 1))
    frames = torch.cat(made)
    _write(options, names, frames, torch.cat([ends[0][:, None], frames, ends[1][:, None]], 1))
    shown = {"ends": frames[:, [0, -1]]} | ({"control": torch.cat(denoised)} if denoised else {})
    scores = {name: torch.stack([psnr(x[:, i], ends[i]) for i in (0, 1)], 1) for name, x in shown.items()}
    write_json(
        options.out / "scores.json",
        {
            **facts("interpolate", options, meter, ways),
            "classes": None if label is None else label.tolist(),
            "seeds": seeds,
            "pairs": names,
            "images": [[inputs.names[i], inputs.names[j]] for i, j in zip(left, right, strict=True)],
            "scores": {name: {"psnr": values.tolist()} for name, values in scores.items()},
        },
    )
    kept = {name: f"{float(values.mean()):.4g} dB" for name, values in scores.items()}
    print(
        f"{len(left)} pairs in {options.out / 'grid.png'}: the first image, {options.frames} between, the second; "
        f"{meter.nfe:g} network evaluations for each image between (counted) on {device}"
    )
    print(
        f"PSNR of the ends to the inputs, the inversion alone: {kept['ends']}"
        + (f"; the control, {ways.small:g} noise taken away without inversion: {kept['control']}" if denoised else "")
    )
    check_all_done(inputs)


def _between_seeds(options: "argparse.Namespace", module: Any, device: Any) -> None:
    import torch

    from diffusion.pixels import to_uint8
    from evaluation.dashboard_grids import is_planar
    from evaluation.generate import draw_labels
    from evaluation.report import write_json

    kind = f"{options.ckpt_path} holds a {type(module).__name__}"
    if is_planar(module):
        raise UsageError(f"{kind}, and its data are points in the plane: interpolate needs a model of images")
    for name in ("input", "data", "small", "schedule"):
        if getattr(options, name) is not None:
            raise UsageError(
                f"{kind}, whose model goes from noise to data only: --{name} needs a BCMModule or a DiffusionModule; "
                "without it the images between two generated ones are made"
            )
    seeds = options.seeds or list(range(16))
    if len(seeds) % 2:
        raise UsageError(f"{len(seeds)} seeds: an even number is needed, pairs are interpolated")
    left, right, label = seeds[::2], seeds[1::2], None
    if options.label is not None:
        label = one_class("--class", options.label, module, len(left))
    elif module.num_classes:
        label = draw_labels(left, torch.ones(module.num_classes))  # as `sample` draws it
    steps, meter, made = options.steps or default_steps(module), meter_of(module), []
    for rows in torch.arange(len(left)).split(options.batch_size):
        first, second = (seeded([end[i] for i in rows.tolist()], module, device) for end in (left, right))
        with meter.batch(options.frames * len(rows), device), torch.inference_mode():
            frames = generated_between(module, steps, first, second, options.frames, at(label, rows, device))
        made.append(to_uint8(frames).cpu())
    frames, names = torch.cat(made), [f"{i:06d}-{j:06d}" for i, j in zip(left, right, strict=True)]
    _write(options, names, frames, frames)
    write_json(
        options.out / "scores.json",
        {
            "task": "interpolate",
            "checkpoint": options.ckpt_path,
            "nfe": meter.nfe,
            "seconds_per_image": meter.seconds_per_image,
            "classes": None if label is None else label.tolist(),
            "seeds": [list(pair) for pair in zip(left, right, strict=True)],
            "pairs": names,
        },
    )
    print(
        f"{len(left)} pairs in {options.out / 'grid.png'}: {options.frames} images generated between two seeds; "
        f"{meter.nfe:g} network evaluations for each (counted) on {device}"
    )


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


def pair_name(first: str, second: str) -> str:
    """The folder of a pair's frames: "more/a" and "more/b" are "more/a-b"."""
    return f"{first}-{Path(second).name}"


def frame_names(pairs: Sequence[str], frames: int) -> list[str]:
    """What the frames of pairs are called: PAIR/00, PAIR/01, ..."""
    digits = max(2, len(str(frames - 1)))
    return [f"{pair}/{i:0{digits}d}" for pair in pairs for i in range(frames)]


def _write(options: "argparse.Namespace", pairs: Sequence[str], frames: "Tensor", rows: "Tensor") -> None:
    """The frames (N, frames, C, H, W) of pairs, each in a file, and the grid of `rows` (N, columns, C, H, W)."""
    from evaluation.grids import image_grid, save_png

    save_images(frames.flatten(0, 1), frame_names(pairs, options.frames), options.out)
    save_png(image_grid(rows.flatten(0, 1), rows.shape[1]), options.out / "grid.png")
