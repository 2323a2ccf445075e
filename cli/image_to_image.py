"""`image-to-image`: noise images to a level and generate from there."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.arguments import OneLineParser, folder_to_write, parse_seeds, positive
from cli.errors import UsageError, run_command
from cli.inputs import at, check_all_done, chosen_images, make_folders, save_images, wanted_labels
from cli.invert import stacked
from cli.sample import add_checkpoint_options, find_device

if TYPE_CHECKING:
    import argparse

    from torch import Tensor

SHOWN = 256
"""Images in grid.png at most."""


def strength(text: str) -> float:
    """A number above 0 and at most 1."""
    from argparse import ArgumentTypeError

    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise ArgumentTypeError(f"{text!r} is not a number above 0 and at most 1")
    return value


def parser() -> "OneLineParser":
    """The options of `image-to-image`."""
    p = OneLineParser(
        prog="main.py image-to-image",
        allow_abbrev=False,
        description="Noise images to a level, and generate from there with a few-step generator: what the noise hides "
        "is made anew, what it leaves is kept. Writes each result, and grid.png: inputs, noised inputs, results.",
    )
    add_checkpoint_options(p)
    source, start = p.add_mutually_exclusive_group(), p.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", type=Path, help="an image file, or a folder of them, cut to the central square and "
                        "resized (default: test images of the run's data)")  # fmt: skip
    source.add_argument("--data", help="a file such as configs/data/digits.yaml (default: the data of the "
                        "checkpoint's run)")  # fmt: skip
    start.add_argument("--strength", type=strength, help="how far up to go: 1 is pure noise, 0.5 the level halfway in "
                       "the cosine schedule's time")  # fmt: skip
    start.add_argument("--level", type=float, help="the noise level itself, in the place of a strength")
    p.add_argument("--seeds", type=parse_seeds, default=None, help="which test images, counted from 0, and the seeds "
                   "of their noise (default: 0-15); with --input the seeds alone, one per image, or several of one "
                   "image (default: 0, 1, ...)")  # fmt: skip
    p.add_argument("--steps", type=positive, default=1, help="network evaluations, from the level down (default: 1)")
    p.add_argument("--class", dest="label", type=int, help="the class to make of all images (default: their own)")
    p.add_argument("--out", type=folder_to_write, default=Path("edits"), help="folder to write to (default: edits)")
    return p


def image_to_image(args: Sequence[str]) -> int:
    """Run `image-to-image` and return the exit code."""
    return run_command(lambda: _image_to_image(parser().parse_args(args)))


def _image_to_image(options: "argparse.Namespace") -> None:
    import torch
    from torch import Tensor

    from cli.quiet import quiet
    from cli.schedule_file import levels_text
    from diffusion import samplers
    from diffusion.denoisers import GeneratorDenoiser
    from diffusion.pixels import from_uint8
    from diffusion.rng import ImageNoise
    from evaluation.generate import Meter, generate
    from evaluation.grids import save_png
    from lightning_modules.checkpoint import load_module

    quiet()
    device = find_device(options.device)
    module: Any = load_module(options.ckpt_path, tuple(options.allow_import)).to(device)
    if (reason := refusal(module)) is not None:
        raise UsageError(f"{options.ckpt_path} holds a {type(module).__name__}, {reason}")
    wanted = wanted_level(module, options)
    levels = levels_down(module, wanted, options.steps)
    inputs = chosen_images(options, module)
    labels, denoise = wanted_labels(options, module, inputs), module.ema_denoiser
    generator = isinstance(denoise, GeneratorDenoiser)
    make_folders(inputs.names, options.out)

    def edit(noise: ImageNoise, steps: int, rows: Tensor | None) -> Tensor:
        chosen = torch.arange(len(noise)) if rows is None else rows.cpu()
        x0 = from_uint8(inputs.images[chosen].to(device))
        label = at(labels, chosen, device)
        drawing, low = (denoise.drawing(noise), 0.0) if generator else (denoise, denoise.sigma_min)
        return samplers.image_to_image(drawing, x0, levels, noise, label, low)

    meter = Meter(denoise.network)
    results = generate(
        edit,
        inputs.seeds,
        module.image_shape,
        steps=options.steps,
        label=torch.arange(len(inputs.seeds)),  # not classes: which images a batch is of
        batch_size=options.batch_size,
        device=device,
        meter=meter,
    )
    save_images(results, inputs.names, options.out)
    images, seeds = inputs.images[:SHOWN], inputs.seeds[:SHOWN]
    noised = noised_picture(images, levels[0], ImageNoise(seeds, module.image_shape))
    save_png(stacked(images, noised, results[:SHOWN]), options.out / "grid.png")
    nearest = "" if f"{wanted:.4g}" == f"{levels[0]:.4g}" else f" (the rung nearest to {wanted:.4g})"
    print(
        f"{len(results)} images in {options.out}, made from the level{'s' * (len(levels) > 1)} {levels_text(levels)}"
        f"{nearest}: {meter.nfe:g} network evaluations each (counted), {1 / meter.seconds_per_image:,.0f} images/s "
        f"on {device}"
    )
    check_all_done(inputs)


def gives_mean(module: Any) -> bool:
    """Whether a model's evaluation is the posterior mean E[x0 | x], at every level: that of a diffusion model is.

    What was distilled from one has the same denoiser, and gives samples.
    """
    from diffusion.denoisers import EDMDenoiser

    return type(module.ema_denoiser) is EDMDenoiser and hasattr(module, "sampler")


def refusal(module: Any) -> str | None:
    """Why a model cannot generate from a level in the middle, None if it can."""
    from diffusion.denoisers import EDMDenoiser, FlowDenoiser
    from evaluation.dashboard_grids import is_planar
    from lightning_modules.kd import KDModule
    from lightning_modules.pd import PDModule

    if is_planar(module):
        return "and its data are points in the plane: image-to-image needs a model of images"
    if isinstance(module, KDModule | PDModule):
        reason = "which was distilled to generate from pure noise alone"
    elif isinstance(module.ema_denoiser, EDMDenoiser | FlowDenoiser):
        reason = "whose one evaluation is a mean of many images, a blurred one"
    else:
        return None
    return (
        f"{reason}: image-to-image needs a few-step generator such as a CTModule, CDModule, CTMModule, BCMModule or "
        "UFOGenModule"
    )


def wanted_level(module: Any, options: "argparse.Namespace") -> float:
    """The level that the options ask for.

    Raises:
        UsageError: it is none of the model's.
    """
    from diffusion.samplers import strength_level

    low, high = module.denoiser.sigma_min, module.denoiser.sigma_max
    if options.level is None:
        return strength_level(options.strength, low, high)
    if not low < options.level <= high:
        raise UsageError(
            f"--level {options.level:g}: it must lie above this model's sigma_min = {low:g}, and at most at its "
            f"sigma_max = {high:g}"
        )
    return options.level


def levels_down(module: Any, start: float, steps: int) -> tuple[float, ...]:
    """The descending levels of so many evaluations from `start`, evenly spaced in the cosine schedule's time.

    A generator that was trained at a ladder of few levels knows no others: then they are rungs, spread evenly over
    those below, from the rung that is nearest to `start` in that time.

    Raises:
        UsageError: the ladder has fewer rungs.
    """
    import torch

    from diffusion.grids import CosineGrid, GivenLevels
    from diffusion.ladder import Ladder

    low, high = module.denoiser.sigma_min, module.denoiser.sigma_max
    scale, ladder = CosineGrid(), getattr(module, "ladder", None)
    if ladder is None or ladder.substeps > 1:
        return tuple(scale.levels(steps + 1, low, start)[:-1])
    rungs = ladder.levels(low, high)  # the lowest is where generation ends
    distance = scale(rungs[1:]) - scale(torch.tensor(start, dtype=torch.float64))
    place = 1 + int(distance.abs().argmin())
    if steps > place:
        offered = " and ".join(f"{rung:.4g}" for rung in rungs[1 : place + 1].flip(0).tolist())
        raise UsageError(f"--steps {steps}: this model was trained at fewer levels from there down: {offered}")
    below = Ladder(GivenLevels((tuple(rungs[: place + 1].flip(0).tolist()),)), place)
    return below.schedule(steps, low, float(rungs[place]))


def noised_picture(images: "Tensor", level: float, noise: Any) -> "Tensor":
    """Images at the level where generation starts, uint8, divided by sqrt(1 + 9 level^2): in the end noise whose three
    standard deviations are white.

    Args:
        images: uint8 (N, C, H, W).
        level: sigma.
        noise: fresh `ImageNoise` of their seeds, whose first draw it is.
    """
    from diffusion.pixels import from_uint8, to_uint8
    from diffusion.samplers import add_initial_noise

    x = add_initial_noise(from_uint8(images), level, noise)
    return to_uint8(x / (1 + 9 * level**2) ** 0.5)
