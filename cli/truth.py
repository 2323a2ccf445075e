"""`truth`: a checkpoint against the exact probability-flow ODE of its data."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cli.arguments import OneLineParser, file_to_write, positive
from cli.errors import UsageError, run_command
from cli.sample import add_checkpoint_options, default_steps, find_device

if TYPE_CHECKING:
    import argparse

    import torch
    from torch import Tensor

    from evaluation.law import Law

LIMIT = 200_000_000
"""Images x elements x trajectories of a finite set, each of which an evaluation of the exact denoiser looks at; some
thousand evaluations are made, so that this takes a core several minutes."""
DIRECTIONS = 64


def parser() -> "OneLineParser":
    """The options of `truth`."""
    p = OneLineParser(
        prog="main.py truth",
        allow_abbrev=False,
        description="Measure a checkpoint against the exact probability-flow ODE of its data, which is known for "
        "ToyDataModule's Gaussian, GaussianMixture and GaussianGrid, and for a finite set of training images (embedded "
        "digits): by noise level, the error of a consistency model's map, of a diffusion model's posterior mean; the "
        "inversion of a bidirectional model; and the distance of samples from data, beside that of data from data. "
        f"A finite set of more than {LIMIT:,} images x elements x trajectories is refused.",
    )
    add_checkpoint_options(p, batch_size=250)
    p.add_argument("--seed", type=int, default=0, help="of all points, noise and resamples (default: 0)")
    p.add_argument("--levels", type=positive, default=5, help="noise levels, log-spaced up to sigma_max (default: 5)")
    p.add_argument("--trajectories", type=positive, default=500, help="points followed at each level and in inversion "
                   "(default: 500)")  # fmt: skip
    p.add_argument("--points", type=positive, default=2000, help="samples and data that are compared (default: 2000)")
    p.add_argument("--resamples", type=positive, default=200, help="of the bootstrap, at least 20 (default: 200)")
    p.add_argument("--steps", type=positive, help="network evaluations of a sample (default: 1, or the method's own)")
    p.add_argument("--data", help="a file such as configs/data/digits.yaml (default: the data of the checkpoint's run)")
    p.add_argument("--out", type=file_to_write, help="the JSON file (default: truth.json in the run's directory)")
    return p


def truth(args: Sequence[str]) -> int:
    """Run `truth` and return the exit code."""
    return run_command(lambda: _truth(parser().parse_args(args)))


def _check(options: "argparse.Namespace") -> None:
    """Refuse what can be refused before anything is read."""
    for name, least in (("seed", 0), ("trajectories", 10), ("points", 10), ("resamples", 20)):
        if getattr(options, name) < least:
            raise UsageError(f"--{name} {getattr(options, name)}: it must be at least {least}")


def _truth(options: "argparse.Namespace") -> None:
    from dataclasses import asdict

    from rich.console import Console

    from cli.data import load_data
    from cli.quiet import quiet
    from cli.run_files import read_text, run_config, run_directory
    from evaluation.distances import directions_in
    from evaluation.law import numbers
    from evaluation.report import write_json
    from evaluation.scorer import sampled_steps
    from evaluation.truth_report import set_table
    from evaluation.truth_sets import set_distances
    from lightning_modules.checkpoint import load_module

    quiet()
    _check(options)
    device, allow = find_device(options.device), tuple(options.allow_import)
    module: Any = load_module(options.ckpt_path, allow).to(device)
    data = load_data(read_text(run_config(options.ckpt_path)), options.data, allow)
    steps = options.steps or default_steps(module)
    sampled_steps(module, [steps])  # one that it has no sampler for is told before anything is solved
    law = law_of(data, module, LIMIT // options.trajectories, device)
    directions = directions_in(law.means[0].numel(), DIRECTIONS, numbers(options.seed, "directions"))
    console = Console()
    what = f"{len(law.means):,} images, a finite set" if law.finite else f"{len(law.means)} Gaussians, std {law.std:g}"
    classes = f" of {len(law.classes)} classes" if law.classes else ""
    print(f"{data.source}: {what}{classes}; {type(module).__name__}, {module.images_seen:,} images seen")

    content: dict[str, Any] = {
        "module": type(module).__name__,
        "checkpoint": str(options.ckpt_path),
        "images_seen": module.images_seen,
        "seed": options.seed,
        "data": {"source": data.source, "components": len(law.means), "std": law.std, "classes": len(law.classes)},
    }
    content |= _trajectories(options, module, law, steps, directions, device, console)
    rows = set_distances(
        module,
        law,
        held_out(data, law),
        options.points,
        directions,
        steps=steps,
        resamples=options.resamples,
        **_shared(options, device),
    )
    content["sets"] = [asdict(row) for row in rows]
    fresh = "drawn from the training set itself, with replacement" if law.finite else "drawn from the law"
    console.print(set_table(rows, fresh))
    out = options.out or run_directory(options.ckpt_path) / "truth.json"
    write_json(out, content)
    print(f"written to {out}")


def _shared(options: "argparse.Namespace", device: "torch.device") -> dict[str, Any]:
    """What all measurements are told."""
    return {"seed": options.seed, "batch_size": options.batch_size, "device": device}


def law_of(data: Any, module: Any, limit: int, device: "torch.device") -> "Law":
    """The law of a datamodule, by classes where the module is told them.

    Args:
        data: with `components`.
        module: the method.
        limit: values of a finite set.
        device: of the network; the ODE, which needs float64, is solved there if it is a GPU of CUDA.

    Raises:
        UsageError: the datamodule knows no law, or one of other images than the model's.
        ValueError: the datamodule's, if its law is not known or too large.
    """
    from evaluation.law import Law

    if not hasattr(data, "components"):
        raise UsageError(f"a {type(data).__name__} does not tell the law of its data: it has no method components")
    means, labels, std = data.components(limit)
    if tuple(means.shape[1:]) != module.image_shape:
        theirs, ours = (" x ".join(map(str, shape)) for shape in (means.shape[1:], module.image_shape))
        raise UsageError(f"the data are {theirs}, and the model's are {ours}")
    if module.num_classes and labels is None:
        raise UsageError(f"the model is told one of {module.num_classes} classes, and the data have none")
    told = labels if module.num_classes else None
    return Law(means, std, told, device=device if device.type == "cuda" else "cpu")


def held_out(data: Any, law: "Law") -> "Tensor | None":
    """Images (M, C, H, W) float32 that a finite set was not trained on, None where there are none or any are fresh."""
    from datamodules.loader import to_float

    images = data.split("test")[0] if law.finite else None
    return None if images is None or images is data.split("train")[0] else to_float(images)


def _trajectories(
    options: "argparse.Namespace",
    module: Any,
    law: "Law",
    steps: int,
    directions: "Tensor",
    device: "torch.device",
    console: Any,
) -> dict[str, Any]:
    """Print the errors of what the method's network means, and return them as plain values."""
    from dataclasses import asdict

    from diffusion.denoisers import BidirectionalDenoiser
    from evaluation import truth as measured
    from evaluation.truth_report import gaussianity_table, inversion_table, level_table

    denoise, content = module.ema_denoiser, {}
    levels = measured.log_spaced(options.levels, denoise.sigma_min, denoise.sigma_max)
    shared = _shared(options, device)
    if measured.is_map(denoise):
        rows = measured.map_errors(denoise, law, levels, options.trajectories, **shared)
        console.print(level_table(f"Map x_t -> x at {denoise.sigma_min:g} against the exact one", rows))
        content["map"] = [asdict(row) for row in rows]
    if (mean := measured.posterior_mean_of(module)) is not None:
        rows = measured.mean_errors(mean, law, levels, options.trajectories, **shared)
        console.print(level_table("Denoiser against the exact posterior mean E[x0 | x_t]", rows))
        content["posterior_mean"] = [asdict(row) for row in rows]
    if measured.generates_along_the_ode(module):
        row = measured.generation_error(module, law, options.trajectories, steps=steps, **shared)
        console.print(
            level_table(f"Noise -> data in {steps} evaluation{'s' * (steps > 1)} against the exact map", [row])
        )
        content["generation"] = [asdict(row)]
    if not content:
        print(
            f"a {type(module).__name__} gives samples of x0 given x_t, neither a point of a trajectory nor a mean: "
            "there is no exact map to compare it with"
        )
    if isinstance(denoise, BidirectionalDenoiser):
        ways, noise = measured.inversion_truth(
            denoise, law, module.inversions, options.trajectories, directions, **shared
        )
        console.print(inversion_table(ways))
        console.print(gaussianity_table(noise))
        content |= {"inversion": [asdict(way) for way in ways], "noise": [asdict(row) for row in noise]}
    return content
