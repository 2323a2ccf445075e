"""Amplified noise beside added noise of equal level: how good the images are and how far from the original.

    python -m benchmarks.amplified --config configs/studies/amplified.yaml --jobs 2 --json docs/studies/amplified.json

The config is one of `main.py compare`; its methods, each a BCM, are trained or taken trained. The test split is noised
to each level in both ways and denoised (`evaluation/variations.py`); the judge compares the results with the training
split.
"""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import record
from cli.compare_plan import parse_plan
from cli.compare_train import train_all
from cli.data import load_data
from cli.run_files import read_text, run_config
from evaluation.features import extract, feature_network_for
from evaluation.variations import ADDED, Variation, score_variations
from lightning_modules.checkpoint import load_module

SMALL = (0.07, 0.15, 0.3)
LARGE = (0.5, 1.0, 2.0, 4.0, 80.0)


@dataclass(frozen=True)
class Row:
    """What one training's model did."""

    method: str
    seed: int | None
    variation: Variation


def table(rows: Sequence[Row], main: str) -> Any:
    """One row for each method and way, means over the trainings."""
    from rich.table import Table

    trainings = len({row.seed for row in rows})
    shown = Table(title="Test images noised to a level and denoised", caption=f"means over {trainings} trainings")
    for heading in ("method", "level", "noise", f"{main}, train", "squared error", "of features"):
        shown.add_column(heading, justify="left" if heading in ("method", "noise") else "right")
    ways = dict.fromkeys((r.method, r.variation.large, r.variation.noise, r.variation.small) for r in rows)
    for method, large, noise, small in sorted(ways, key=lambda way: (way[0], way[1], way[2] == ADDED, way[3] or 0)):
        here = [r.variation for r in rows if (r.method, r.variation.large, r.variation.small) == (method, large, small)]
        numbers = [
            statistics.fmean(values)
            for values in zip(*((v.quality[main], v.error, v.feature_error) for v in here), strict=True)
        ]
        told = noise if small is None else f"{noise} from {small:g}"
        shown.add_row(method, f"{large:g}", told, *(f"{number:.4g}" for number in numbers))
    return shown


def main(argv: Sequence[str] | None = None) -> None:
    """Train, score, print, and write what was asked for."""
    from rich.console import Console

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", nargs="+", type=float, default=SMALL, help="levels of noise that is amplified")
    parser.add_argument("--large", nargs="+", type=float, default=LARGE, help="levels that all is denoised from")
    parser.add_argument("--json", type=Path, help="write the results here as well")
    options, others = parser.parse_known_args(argv)
    plan, jobs, threads = parse_plan(others)
    torch.set_num_threads(threads)
    rounds = [(small, large) for large in options.large for small in options.small if small < large]
    trained, rows = train_all(plan, jobs, threads, partial(print, flush=True)).checkpoints, []
    for name in plan.methods:
        for training in plan.trainings(name):
            module: Any = load_module(trained[training])
            data: Any = load_data(read_text(run_config(str(trained[training]))))
            judge = feature_network_for(module.image_shape, plan.inception_weights)
            images, labels = data.uint8_images("test")
            judge.check(extract(judge, images), labels)
            reference = extract(judge, data.uint8_images("train")[0])
            label = labels if module.num_classes else None
            found = score_variations(module.ema_denoiser, judge, images, reference, rounds, label=label)
            rows += [Row(name, training.seed, variation) for variation in found]
    first = next(iter(rows[0].variation.quality))
    Console(width=100).print(table(rows, first))
    if options.json:
        record(options.json, "amplified", argv, {"rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    main()
