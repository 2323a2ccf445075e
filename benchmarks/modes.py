"""Which modes of a 5x5 grid of Gaussians do diffusion-GANs find, and does a plain GAN with the same networks?

    python -m benchmarks.modes --json benchmarks/results/modes.json --figure docs/images/modes.png     docs/results.md
    python -m benchmarks.modes --methods UFOGen GAN --seeds 0 --images 100000                          a quick look

Every method trains the same two networks (DDGAN's discriminator sees pairs, SIDDM's has a decoder) for the same number
of steps, on one thread, and is sampled in one and in four evaluations. A mode is covered by at least 20 of 10,000
samples within three standard deviations, a twentieth of its share.
"""

import argparse
import json
import logging
import shlex
import statistics
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from benchmarks.mixture import rounded, train
from benchmarks.timing import commit, machine
from datamodules.toy import GaussianGrid, ToyDataModule
from diffusion.adversarial import GradientPenalty, Relativistic
from diffusion.curricula import CosineDecay
from diffusion.ladder import AnyLevelBelow, Ladder
from diffusion.rng import ImageNoise
from evaluation.distances import half_circle, sliced_wasserstein
from evaluation.grids import save_png, scatter_plot
from lightning_modules import DDGANModule, SIDDMModule, UFOGenModule
from lightning_modules.players import Player
from networks import MLP, MLPDiscriminator

GRID = GaussianGrid()
SIZE = {"width": 64, "depth": 2, "embedding_channels": 32}
STEPS = (1, 4)
COVERED = 0.002
"""Share of the samples that must lie near a mode."""


def shared(images: int, seed: int, gamma: float = 0.1, latent: int = 0, **discriminator: Any) -> dict[str, Any]:
    """What all methods share: networks, optimizers and loss; the penalty's weight is each method's own."""
    adam = partial(torch.optim.Adam, lr=1e-3, betas=(0.0, 0.99), fused=True)
    player = Player(adam, CosineDecay(warmup=0.01, final=0.02))
    return {
        "network": partial(MLP, **SIZE, input_frequencies=2, latent_size=latent),
        "discriminator": partial(MLPDiscriminator, **SIZE, input_frequencies=3, **discriminator),
        "image_shape": ToyDataModule.image_shape,
        "total_images": images,
        "gan_loss": Relativistic(),
        "penalty": GradientPenalty(gamma, fake=True, interval=8),
        "generator_player": player,
        "discriminator_player": player,
        "sigma_data": 0.7,
        "ema_rates": (0.999,),
        "seed": seed,
    }


def ufogen(images: int, seed: int) -> UFOGenModule:
    """Judged at any level below, by a discriminator that is told the source."""
    return UFOGenModule(judged=AnyLevelBelow(), **shared(images, seed, source_level=True))


def siddm(images: int, seed: int) -> SIDDMModule:
    """With its regressor and the decoder's denoising."""
    return SIDDMModule(**shared(images, seed, latent=2, decoded_channels=4))


def ddgan(images: int, seed: int) -> DDGANModule:
    """With a latent and a discriminator of pairs."""
    return DDGANModule(**shared(images, seed, gamma=0.01, latent=2))


def gan(images: int, seed: int) -> UFOGenModule:
    """From pure noise to the data in one rung, judged at the data, without reconstruction: a GAN."""
    return UFOGenModule(ladder=Ladder(steps=1), reconstruction_weight=0.0, **shared(images, seed))


METHODS: dict[str, Callable[[int, int], LightningModule]] = {
    "UFOGen": ufogen,
    "SIDDM": siddm,
    "DDGAN": ddgan,
    "GAN": gan,
}


@dataclass(frozen=True)
class Score:
    """How samples lie on the grid.

    Args:
        modes: covered, of 25.
        near: share of samples within three standard deviations of a mode (of the data: 98.9 %).
        imbalance: Kullback-Leibler divergence of the modes' shares among those from equal ones, in nats.
        sw: sliced Wasserstein distance from fresh data.
    """

    modes: int
    near: float
    imbalance: float
    sw: float


@dataclass(frozen=True)
class Run:
    """A method, seed and number of evaluations, the score, and the training's seconds on the wall and of CPU time."""

    method: str
    seed: int
    steps: int
    score: Score
    wall_seconds: float
    cpu_seconds: float


def score(points: Tensor, grid: GaussianGrid = GRID) -> Score:
    """Of points (N, 2)."""
    points = points.double()
    distance, mode = torch.cdist(points, grid.means.double()).min(1)
    near = distance < 3 * grid.std
    counts = torch.bincount(mode[near], minlength=grid.side**2).double()
    shares = counts / counts.sum().clamp(min=1)
    fresh = grid.sample(len(points), torch.Generator().manual_seed(2))
    return Score(
        int((counts >= COVERED * len(points)).sum()),
        float(near.double().mean()),
        float(torch.xlogy(shares, shares * len(counts)).sum()),
        sliced_wasserstein(points, fresh, half_circle(64)),
    )


@torch.no_grad()
def samples(module: Any, steps: int, n: int) -> Tensor:
    """n points (n, 2) of the averaged generator."""
    return module.sample(ImageNoise(range(n), ToyDataModule.image_shape), steps).flatten(1)


def table(runs: Sequence[Run], images: int) -> Any:
    """One row for each method and number of evaluations: modes in every seed, medians of the rest."""
    from rich.table import Table

    shown = Table(title=f"5x5 Gaussians, {images:,} training points", caption="medians; modes of every seed")
    for heading in ("method", "NFE", "modes", "within 3 std", "imbalance", "SW", "CPU s"):
        shown.add_column(heading, justify="left" if heading == "method" else "right", no_wrap=True)
    for method, steps in dict.fromkeys((run.method, run.steps) for run in runs):
        rows = [run for run in runs if (run.method, run.steps) == (method, steps)]
        near = [run.score.near for run in rows]
        shown.add_row(
            method,
            str(steps),
            " ".join(str(run.score.modes) for run in rows),
            f"{statistics.median(near):.1%} (least {min(near):.1%})",
            f"{statistics.median(run.score.imbalance for run in rows):.4f}",
            f"{statistics.median(run.score.sw for run in rows):.4f}",
            f"{statistics.median(run.cpu_seconds for run in rows):.0f}",
        )
    return shown


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--images", type=int, default=900_000, help="training points of every run")
    parser.add_argument("--batch-size", type=int, default=64, help="points per step")
    parser.add_argument("--points", type=int, default=10_000, help="samples that are scored")
    parser.add_argument("--json", type=Path, help="write the results here as well")
    parser.add_argument("--figure", type=Path, help="draw the first seed's samples here")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Train, score, print, and write what was asked for."""
    from rich.console import Console

    options, console = parse(argv), Console(width=100)  # of the table
    torch.set_num_threads(1)
    data_score = score(GRID.sample(options.points, torch.Generator().manual_seed(3)))
    console.print(f"data: {data_score}")
    runs: list[Run] = []
    drawn: dict[str, Tensor] = {}
    for seed in options.seeds:
        data = ToyDataModule(GRID, n=200_000, batch_size=options.batch_size, seed=seed)
        for method in options.methods:
            torch.manual_seed(seed)
            module = METHODS[method](options.images, seed)
            wall, cpu = train(module, data)
            for steps in STEPS if method != "GAN" else STEPS[:1]:
                points = samples(module, steps, options.points)
                run = Run(method, seed, steps, score(points), wall, cpu)
                runs.append(run)
                drawn.setdefault(f"{method}, {steps}", points[:2000, :, None, None])
                console.print(f"{method}, seed {seed}, {steps} evaluations, {wall:.0f} s: {run.score}")
    console.print(table(runs, options.images))
    if options.figure:
        save_png(scatter_plot([(name, points, None) for name, points in drawn.items()], limit=1.3), options.figure)
    if options.json:
        own = {str(path) for path in (options.json, options.figure) if path}  # a user's paths are no result
        words = ["PATH" if word in own else word for word in (sys.argv[1:] if argv is None else argv)]
        result = {
            "command": shlex.join(["python", "-m", "benchmarks.modes", *words]),
            "commit": commit(),
            "machine": machine(torch.device("cpu")),
            "images": options.images,
            "batch_size": options.batch_size,
            "data": asdict(data_score),
            "runs": [asdict(run) for run in runs],
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(rounded(result), indent=1) + "\n")


if __name__ == "__main__":
    # here, since they hold for the whole process
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    main()
