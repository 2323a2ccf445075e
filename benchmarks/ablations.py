"""What UFOGen's parts do on the digits: discriminator's level, reconstruction's weight, regulariser, where it starts.

    python -m benchmarks.ablations --json benchmarks/results/ablations.json          docs/results.md
    python -m benchmarks.ablations --variants default previous --seeds 0             a quick look

Every variant is configs/ufogen.yaml with one thing changed, trained as a user does, and scored by its averaged weights
in one and in four evaluations. The diffusion model that one starts from is that of configs/diffusion.yaml. It goes on
where it was stopped: a finished run is not trained again.
"""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.digits import TEACHER, Judged, Method, train
from benchmarks.record import record
from evaluation.scores import Score
from lightning_modules.checkpoint import load_module

STEPS = (1, 4)
UNTOLD = ("discriminator.init_args.source_level=false",)
"""The discriminator is not told the level that a sample was made from; where it is the rung above, it knows."""
PREVIOUS = ("judged=diffusion.ladder.PreviousLevel", *UNTOLD)
VP = ("ladder.grid=diffusion.grids.VPGrid",)
LEVELS = {
    "default": (),
    "previous": PREVIOUS,
    "independent": (
        "judged=diffusion.ladder.IndependentLevel",
        "judged.init_args.law=diffusion.levels.LogNormal",
        "judged.init_args.law.init_args.mean=-0.5",
        "judged.init_args.law.init_args.std=1.0",
    ),
    "below, not told": UNTOLD,
    "VP, previous": (*VP, *PREVIOUS),
    "VP, below": VP,
}
WEIGHTS = {
    "KL": ("reconstruction=diffusion.weightings.ForwardKL",),
    "constant": ("reconstruction=diffusion.weightings.ConstantGap",),
    "none": ("reconstruction_weight=0.0",),
    "SNR, weight 1": ("reconstruction_weight=1.0",),
}
REGULARISERS = {
    "R1": ("penalty.init_args.fake=false",),
    "aR1 + aR2": (
        "penalty=diffusion.adversarial.ApproximatePenalty",
        "penalty.init_args.weight=100.0",
        "penalty.init_args.sigma=0.01",
        "penalty.init_args.fake=true",
        "penalty.init_args.interval=4",
    ),
    "no penalty": ("penalty=null",),
    "non-saturating, R1": ("gan_loss=diffusion.adversarial.NonSaturating", "penalty.init_args.fake=false"),
    "clamped logits": (
        "gan_loss=diffusion.adversarial.NonSaturating",
        "gan_loss.init_args.limit=0.5",
        "penalty=null",
    ),
}
FROM_DIFFUSION = "from diffusion"
STARTS = {
    "discriminator of 512": ("discriminator.init_args.width=512",),  # to hold the diffusion model's network
    FROM_DIFFUSION: ("discriminator.init_args.width=512",),
}
VARIANTS: dict[str, tuple[str, ...]] = {**LEVELS, **WEIGHTS, **REGULARISERS, **STARTS}


def method(name: str, seed: int) -> Method:
    """A variant's run."""
    options = [f"--model.init_args.{option}" for option in VARIANTS[name]]
    starts = ("init_from", "discriminator_init_from") if name == FROM_DIFFUSION else ()
    return Method(f"{name} {seed}", "ufogen", STEPS, (*options, f"--seed_everything={seed}"), starts)


def row(name: str, seed: int, steps: int, result: Score) -> dict[str, Any]:
    """Plain values of a score."""
    return {"variant": name, "seed": seed, "steps": steps, **result.distances, **result.alone}


def table(rows: Sequence[dict[str, Any]], images: int) -> Any:
    """One row for each variant: medians over the seeds, and fd_digits of every seed."""
    from rich.table import Table

    shown = Table(title=f"UFOGen on the digits, {images:,} images; medians, and fd_digits of every seed")
    for heading in ("variant", "NFE 1: fd", "seeds", "recall", "read", "NFE 4: fd", "seeds", "recall", "read"):
        shown.add_column(heading, justify="left" if heading == "variant" else "right")
    for name in dict.fromkeys(r["variant"] for r in rows):
        cells = []
        for steps in STEPS:
            here = [r for r in rows if (r["variant"], r["steps"]) == (name, steps)]
            fd, recall, read = ([r[key] for r in here] for key in ("fd_digits", "recall_digits", "confident_digits"))
            cells += [f"{statistics.median(fd):.3f}", " ".join(f"{value:.2f}" for value in fd)]
            cells += [f"{statistics.median(recall):.2f}", f"{statistics.median(read):.1%}"]
        shown.add_row(name, *cells)
    return shown


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("runs/ablations"), help="folder of the runs")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=200_000, help="training images of each run")
    parser.add_argument("--num-images", type=int, default=2000, help="images scored")
    parser.add_argument("--json", type=Path, help="write the results here as well")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Train, score, print, and write what was asked for."""
    from rich.console import Console

    options, console = parse(argv), Console(width=120)
    torch.set_num_threads(1)
    judged = Judged.of_digits(options.num_images)
    rows, protocol = [], None
    teacher = {TEACHER.config: train(options.root, TEACHER, None, {})} if FROM_DIFFUSION in options.variants else {}
    for seed in options.seeds:
        for name in options.variants:
            module: Any = load_module(train(options.root, method(name, seed), options.images, teacher))
            for steps in STEPS:
                result, _ = judged.row(name, module, steps)
                rows.append(row(name, seed, steps, result))
                protocol = asdict(result.protocol) | {"source": None}
    console.print(table(rows, options.images))
    if options.json:
        result = {
            "images": options.images,
            "variants": {name: list(VARIANTS[name]) for name in options.variants},
            "protocol": protocol,
            "rows": rows,
        }
        record(options.json, "ablations", argv, result, private=(options.root,))


if __name__ == "__main__":
    main()
