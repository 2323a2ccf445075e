"""Which modes of a 5x5 grid of Gaussians do diffusion-GANs find, and does a plain GAN with the same networks?

    python -m benchmarks.modes --json benchmarks/results/modes.json --figure docs/images/modes.png --jobs 2
    python -m benchmarks.modes --methods UFOGen GAN --seeds 0 --images 100000                          a quick look

Every method trains the same two networks (DDGAN's discriminator sees pairs, SIDDM's has a decoder) for the same number
of steps, on one thread, and is sampled in one and in four evaluations. SIDDM and DDGAN, whose four rungs are made for
four, can be trained with a single rung as well (--methods "SIDDM, one rung"). A mode is covered by at least 20 of
10,000 samples within three standard deviations, a twentieth of its share.
"""

import argparse
import logging
import statistics
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from benchmarks.mixture import train
from benchmarks.record import record
from datamodules.toy import GaussianGrid, ToyDataModule
from diffusion.adversarial import GradientPenalty, Relativistic
from diffusion.curricula import CosineDecay
from diffusion.grids import GivenLevels
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


BY_ANY_LEVEL = Ladder(GivenLevels(((80.0, 2.0, 0.5, 0.12, 0.002),)))
"""Of UFOGen: its highest rungs lie where the modes merge (they are 0.5 apart), the lowest near their width."""
BY_NEIGHBOURS = Ladder(GivenLevels(((80.0, 0.5, 0.25, 0.12, 0.002),)))
CLOSER = Ladder(GivenLevels(((80.0, 0.35, 0.2, 0.1, 0.002),)))
"""Of chains, SIDDM's and DDGAN's: from no rung is it more than a few modes to the next."""
ONE_RUNG = Ladder(steps=1)


def shared(
    images: int, seed: int, gamma: float = 0.1, lr: float = 1e-3, interval: int = 8, **discriminator: Any
) -> dict[str, Any]:
    """What all share: networks, optimizer, loss; ladder, penalty and learning rate are each method's own."""
    adam = partial(torch.optim.Adam, lr=lr, betas=(0.0, 0.99), fused=True)
    player = Player(adam, CosineDecay(warmup=0.01, final=0.02))
    return {
        "network": partial(MLP, **SIZE, input_frequencies=3, latent_size=2),
        "discriminator": partial(MLPDiscriminator, **SIZE, input_frequencies=3, **discriminator),
        "image_shape": ToyDataModule.image_shape,
        "total_images": images,
        "gan_loss": Relativistic(),
        "penalty": GradientPenalty(gamma, fake=True, interval=interval),
        "generator_player": player,
        "discriminator_player": player,
        "sigma_data": 0.7,
        "ema_rates": (0.999,),
        "seed": seed,
    }


def ufogen(images: int, seed: int) -> UFOGenModule:
    """Judged at any level below, by a discriminator that is told the source."""
    return UFOGenModule(judged=AnyLevelBelow(), ladder=BY_ANY_LEVEL, **shared(images, seed, source_level=True))


def siddm(images: int, seed: int, ladder: Ladder = BY_NEIGHBOURS, gamma: float = 0.001, **own: float) -> SIDDMModule:
    """With its regressor and the decoder's denoising."""
    return SIDDMModule(ladder=ladder, **shared(images, seed, gamma, decoded_channels=4, **own))


def ddgan(images: int, seed: int, ladder: Ladder = CLOSER, gamma: float = 0.01, **own: float) -> DDGANModule:
    """With a discriminator of pairs, penalised twice as often."""
    return DDGANModule(ladder=ladder, **shared(images, seed, gamma, interval=4, **own))


def gan(images: int, seed: int) -> UFOGenModule:
    """From pure noise to the data in one rung, judged at the data, without reconstruction: a GAN."""
    return UFOGenModule(ladder=ONE_RUNG, reconstruction_weight=0.0, **shared(images, seed, lr=5e-4))


DEFAULT = ("UFOGen", "SIDDM", "DDGAN", "GAN")
METHODS: dict[str, Callable[[int, int], LightningModule]] = {
    "UFOGen": ufogen,
    "SIDDM": siddm,
    "DDGAN": ddgan,
    "SIDDM, one rung": partial(siddm, ladder=ONE_RUNG, gamma=0.1, lr=5e-4),
    "DDGAN, one rung": partial(ddgan, ladder=ONE_RUNG, gamma=0.1, lr=5e-4),
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


def run(work: tuple[str, int], images: int, batch_size: int, n: int) -> list[tuple[Run, Tensor]]:
    """Train a method at a seed, score n points at each number of evaluations; with some of them for the figure."""
    method, seed = work
    torch.set_num_threads(1)
    data = ToyDataModule(GRID, n=200_000, batch_size=batch_size, seed=seed)
    torch.manual_seed(seed)
    module: Any = METHODS[method](images, seed)
    wall, cpu = train(module, data)
    results = []
    for steps in STEPS[: module.ladder.steps]:
        points = samples(module, steps, n)
        results.append((Run(method, seed, steps, score(points), wall, cpu), points[:2000, :, None, None]))
    return results


def runs_of(options: argparse.Namespace) -> Iterator[list[tuple[Run, Tensor]]]:
    """`run` for all seeds and methods, in order, by `jobs` processes."""
    work = [(method, seed) for seed in options.seeds for method in options.methods]
    task = partial(run, images=options.images, batch_size=options.batch_size, n=options.points)
    if options.jobs == 1:
        yield from map(task, work)
    else:
        with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn"), initializer=quiet) as pool:
            yield from pool.map(task, work)


def quiet() -> None:
    """Lightning says nothing; for the whole process."""
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)


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
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(DEFAULT))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--images", type=int, default=1_000_000, help="training points of every run")
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
    for results in runs_of(options):
        for found, points in results:
            runs.append(found)
            drawn.setdefault(f"{found.method}, {found.steps}", points)
            console.print(f"{found.method}, seed {found.seed}, {found.steps} evaluations: {found.score}")
    console.print(table(runs, options.images))
    if options.figure:
        save_png(scatter_plot([(name, points, None) for name, points in drawn.items()], limit=1.3), options.figure)
    if options.json:
        result = {
            "images": options.images,
            "batch_size": options.batch_size,
            "data": asdict(data_score),
            "runs": [asdict(run) for run in runs],
        }
        record(options.json, "modes", argv, result, private=(options.figure,))


if __name__ == "__main__":
    quiet()
    main()
