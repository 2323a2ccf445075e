"""How near one-step models come to the exact map of a Gaussian mixture in the plane.

    python -m benchmarks.mixture                                      the table of docs/results.md
    python -m benchmarks.mixture --methods CT CD --seeds 0 --images 100000      a quick look
    python -m benchmarks.mixture --json benchmarks/results/mixture.json --figure docs/images/mixture.png

The map takes x = sigma_max z along the probability-flow ODE to sigma_min. For a mixture the denoiser is known, so the
map is, to any accuracy. Every method trains the same network on the same number of images from random weights, on one
thread; what a method needs a teacher for, the exact denoiser does.
"""

import argparse
import logging
import statistics
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from benchmarks.mixture_limit import consistency_training_limit, descend
from benchmarks.mixture_methods import EXACT, GAP, METHODS, TOY
from benchmarks.record import record
from datamodules.toy import ToyDataModule
from diffusion.exact import flow_map
from diffusion.noise import karras_grid
from diffusion.solvers import Step, euler_step, heun_step, solve
from evaluation.distances import half_circle, sliced_wasserstein

SIGMA_MIN, SIGMA_MAX = 0.002, 80.0
DIRECTIONS = half_circle(64)


@dataclass(frozen=True)
class Truth:
    """Starting points and where the exact map takes them.

    Args:
        z: standard normal, (N, 2, 1, 1) float32.
        ends: of the trajectories from sigma_max z, (N, 2) float64.
        error: root mean square distance of the ends from those computed with half as many steps.
        fresh: points of the distribution, (N, 2).
    """

    z: Tensor
    ends: Tensor
    error: float
    fresh: Tensor


@dataclass(frozen=True)
class Score:
    """How far a map is from the exact one; distances are Euclidean, in data units.

    Args:
        rmse, median: of the distance between a point's image and its exact image.
        wrong: share of points whose image is nearest to another mode than their exact image.
        between: share of points whose image is more than five standard deviations from every mode.
        sw: sliced Wasserstein distance of the images from fresh data.
    """

    rmse: float
    median: float
    wrong: float
    between: float
    sw: float


@dataclass(frozen=True)
class Run:
    """One training: method, seed, its score, and what it took on the wall and of this process's CPU time."""

    method: str
    seed: int
    score: Score
    wall_seconds: float
    cpu_seconds: float


def truth(n: int, steps: int = 512) -> Truth:
    """n starting points, always the same, and their exact ends by `steps` Runge-Kutta steps."""
    z = torch.randn(n, 2, 1, 1, generator=torch.Generator().manual_seed(1))
    ends, coarse = (flow_map(EXACT, SIGMA_MAX * z, SIGMA_MAX, SIGMA_MIN, k).flatten(1) for k in (steps, steps // 2))
    fresh = TOY.sample(n, torch.Generator().manual_seed(2))
    return Truth(z, ends, float((ends - coarse).square().sum(1).mean().sqrt()), fresh)


def nearest(points: Tensor) -> tuple[Tensor, Tensor]:
    """Distance of points (N, 2) from the nearest mode, and which it is."""
    distance, mode = torch.cdist(points.double(), TOY.means.double()).min(1)
    return distance, mode


def score(images: Tensor, exact: Truth) -> Score:
    """Compare the images (N, 2, 1, 1) of the starting points with the exact ones."""
    points = images.flatten(1).double()
    distance = (points - exact.ends).norm(dim=1)
    from_mode, mode = nearest(points)
    return Score(
        float(distance.square().mean().sqrt()),
        float(distance.median()),
        float((mode != nearest(exact.ends)[1]).double().mean()),
        float((from_mode > 5 * TOY.std).double().mean()),
        sliced_wasserstein(points, exact.fresh, DIRECTIONS),
    )


@torch.no_grad()
def references(exact: Truth) -> dict[str, Score]:
    """The exact map itself, solvers with the exact denoiser, and the posterior mean, which is what a diffusion model
    makes of noise in one evaluation."""
    start = SIGMA_MAX * exact.z

    def solved(step: Step, intervals: int) -> Score:
        levels = karras_grid(intervals, SIGMA_MIN, SIGMA_MAX).flip(0).float()
        return score(solve(step, EXACT, start, levels[:, None].expand(-1, len(start))), exact)

    return {
        "exact map": score(exact.ends, exact),
        "Heun, 17 steps": solved(heun_step, 17),
        "Euler, 32 steps": solved(euler_step, 32),
        "posterior mean": score(EXACT(start, SIGMA_MAX), exact),
    }


def training_limit(exact: Truth, points: int = 500) -> float:
    """RMSE of what CT would learn at its last gaps with a perfect network and a squared distance."""
    levels = descend(GAP.gap, SIGMA_MIN, SIGMA_MAX)
    ends = consistency_training_limit(EXACT, SIGMA_MAX * exact.z[:points].flatten(1), levels)
    return float((ends - exact.ends[:points]).square().sum(1).mean().sqrt())


@torch.no_grad()
def one_step(module: Any, z: Tensor) -> Tensor:
    """The map of z (N, 2, 1, 1) that the averaged weights make in one evaluation."""
    return module.sample(lambda: z, 1)


def train(module: LightningModule, data: ToyDataModule) -> tuple[float, float]:
    """Train quietly to the module's end on the CPU; seconds on the wall and of CPU time."""
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=-1,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    wall, cpu = time.perf_counter(), time.process_time()
    trainer.fit(module, datamodule=data)
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(method: str, images: int, seed: int, data: ToyDataModule, exact: Truth) -> tuple[Run, Tensor]:
    """Train one method from random weights; the run, and the images of the starting points (N, 2, 1, 1)."""
    torch.manual_seed(seed)
    module = METHODS[method](images, seed)
    wall, cpu = train(module, data)
    points = one_step(module, exact.z)
    return Run(method, seed, score(points, exact), wall, cpu), points


def medians(runs: list[Run]) -> dict[str, float]:
    """The median of every number over the seeds."""
    rows = [{**asdict(run.score), "wall_seconds": run.wall_seconds, "cpu_seconds": run.cpu_seconds} for run in runs]
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def table(runs: dict[str, list[Run]], known: dict[str, Score], images: int, floor: float) -> Any:
    """Medians over the seeds, and the references, as a rich table."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    seeds = len(next(iter(runs.values()))) if runs else 0
    shown = Table(
        title=f"{images:,} training images, medians of {seeds} seeds",
        caption=f"SW: sliced Wasserstein distance from fresh data, {floor:.4f} between two sets of data; CPU seconds",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    shown.add_column("map", no_wrap=True)
    for heading in ("RMSE", "over seeds", "median", "wrong", "between", "SW", "s", "images/s"):
        shown.add_column(heading, justify="right", no_wrap=True)

    def row(s: dict[str, float], spread: str = "", *cost: str) -> tuple[str, ...]:
        shares = f"{s['wrong']:.2%}", f"{s['between']:.2%}"
        return f"{s['rmse']:.4f}", spread, f"{s['median']:.4f}", *shares, f"{s['sw']:.4f}", *cost

    for method, all_seeds in runs.items():
        middle, rmse = medians(all_seeds), [run.score.rmse for run in all_seeds]
        seconds = middle["cpu_seconds"]
        cost = f"{seconds:.0f}", f"{images / seconds:,.0f}"
        shown.add_row(method, *row(middle, f"{min(rmse):.3f}-{max(rmse):.3f}", *cost))
    shown.add_section()
    for name, reference in known.items():
        shown.add_row(name, *row(asdict(reference)))
    return shown


def figure(points: dict[str, Tensor], exact: Truth, path: Path, shown: int = 4000) -> None:
    """One-step samples of every method, coloured by their distance from the exact images."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from PIL import Image

    panels = Figure(figsize=(2.4 * len(points) + 0.7, 2.7), dpi=100, layout="constrained")
    axes = panels.subplots(1, len(points), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (method, images) in zip(axes, points.items(), strict=True):
        at = images.flatten(1)[:shown].double()
        error = (at - exact.ends[:shown]).norm(dim=1)
        order = error.argsort()
        at, error = at[order], error[order].clamp(min=1e-3)
        dots = axis.scatter(*at.T, c=error, s=1.5, cmap="viridis", norm=LogNorm(1e-3, 1), linewidths=0)
        axis.set(title=method, aspect="equal", xlim=(-1, 1), ylim=(-1, 1), xticks=[], yticks=[])
    panels.colorbar(dots, ax=axes, label="distance from the exact map", shrink=0.9)
    FigureCanvasAgg(panels).draw()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(panels.canvas.buffer_rgba())).convert("RGB").quantize(160).save(path, optimize=True)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=1_000_000, help="training images of every run")
    parser.add_argument("--batch-size", type=int, default=512, help="images per step")
    parser.add_argument("--points", type=int, default=20_000, help="starting points that are compared")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--json", type=Path, help="write the results here as well")
    parser.add_argument("--figure", type=Path, help="draw the first seed's samples here")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Train, compare, print, and write what was asked for."""
    options = parse(argv)
    torch.set_num_threads(options.threads)
    from rich.console import Console

    exact = truth(options.points)
    console = Console(width=max(Console().width, 88))  # of the table
    console.print(f"exact map: {options.points:,} points, 512 steps differ from 256 by {exact.error:.1e} (RMS)")
    runs: dict[str, list[Run]] = {method: [] for method in options.methods}
    drawn: dict[str, Tensor] = {}
    for seed in options.seeds:
        data = ToyDataModule(TOY, n=200_000, batch_size=options.batch_size, seed=seed)
        for method in options.methods:
            run, points = measure(method, options.images, seed, data, exact)
            runs[method].append(run)
            drawn.setdefault(method, points)
            console.print(f"{method}, seed {seed}: RMSE {run.score.rmse:.4f}, {run.cpu_seconds:.0f} s of CPU time")
    known = references(exact)
    floor = sliced_wasserstein(TOY.sample(options.points, torch.Generator().manual_seed(3)), exact.fresh, DIRECTIONS)
    console.print(table(runs, known, options.images, floor))
    limit = training_limit(exact)
    console.print(f"CT's limit with a perfect network and a squared distance: RMSE {limit:.4f}")
    if options.figure:
        figure(drawn, exact, options.figure)
    if options.json:
        result = {
            "images": options.images,
            "batch_size": options.batch_size,
            "exact_error": exact.error,
            "data_sliced_wasserstein": floor,
            "ct_limit_rmse": limit,
            "references": {name: asdict(reference) for name, reference in known.items()},
            "medians": {method: medians(all_seeds) for method, all_seeds in runs.items()},
            "runs": [asdict(run) for all_seeds in runs.values() for run in all_seeds],
        }
        record(options.json, "mixture", argv, result, private=(options.figure,))


if __name__ == "__main__":
    # here, since they hold for the whole process
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    main()
