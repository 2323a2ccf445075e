"""Restoration side by side: tasks x methods x evaluations, every method over the model that it is made for.

    python -m benchmarks.restoration --checkpoints CT=PATH BCM=PATH UFOGen=PATH diffusion=PATH I2SB=PATH \\
        --json benchmarks/results/restoration_digits.json --picture docs/images/restoration_digits.png

Test images are damaged, restored by `main.py restore`'s own functions and scored: PSNR and SSIM to the clean image, the
PSNR of the result damaged again against what was given (consistency), and the judge's distance of all results to the
clean training images; where the images allow it and --lpips asks for it, LPIPS. A model that was trained for one task
has rows there alone, so that its name may stand for several checkpoints. Rows of what was given, of the clean images
and, under what inverts, of the control stand beside.
"""

import argparse
import contextlib
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.record import record
from benchmarks.restoration_table import key_of
from benchmarks.shapes import CPU
from cli.data import load_data
from cli.errors import UsageError
from cli.restore_levels import Way
from cli.restore_methods import FEW_STEP, INVERTING, MANY_STEP, PAIRED, methods_of, paired_name
from cli.restore_operators import operator_of
from cli.restore_run import Restored, Restorer
from cli.restore_tasks import Damage
from cli.restore_trial import Judge, Trial
from cli.run_files import read_text, run_config
from evaluation.features import feature_network_for
from evaluation.grids import image_grid, save_png
from evaluation.real_features import FOLDER, real_features
from evaluation.restoration import Perceptual, psnr
from lightning_modules.checkpoint import load_module
from tasks.masks import half_mask, random_mask

TASKS: dict[str, Callable[[int, int], Damage]] = {
    "inpaint": lambda height, width: Damage("inpaint"),
    "inpaint half": lambda height, width: Damage("inpaint", half_mask(height, width)),
    "inpaint random": lambda height, width: Damage("inpaint", random_mask(height, width, kept=0.3)),
    "upscale 2": lambda height, width: Damage("upscale", factor=2),
    "upscale 2 noisy": lambda height, width: Damage("upscale", factor=2, noise=0.1),
    "upscale 2 bicubic": lambda height, width: Damage("upscale", factor=2, bicubic=True),
    "upscale 4": lambda height, width: Damage("upscale", factor=4),
    "unblur": lambda height, width: Damage("unblur"),
    "colourise": lambda height, width: Damage("colourise"),
    "jpeg 10": lambda height, width: Damage("jpeg", quality=10),
}
"""What was done to images of so many pixels."""
STEPS = {"few": (1, 2, 4, 8), "many": (4, 8, 20, 100), "paired": (1, 2, 4, 8, 20, 100)}
SHOWN = 12
"""Images of a row of the picture."""
LEVELS = {"zero-shot": (1.0, 2.0, 5.0), "corrected": (1.0, 2.0, 5.0), "blind": (0.1, 0.2, 0.4)}
"""First levels that are tried; the table has the best by PSNR on validation images, which are not scored."""
SMALL = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Levels of the small noise that are tried likewise, of the methods that invert."""


@dataclass(frozen=True)
class Row:
    """Means over the images of one noise seed.

    Args:
        task, model, method: names; method "given", "clean" and "control" are the rows beside.
        steps: noise levels visited; None where nothing is.
        level: the first of them.
        small: level of the small noise, of the methods that invert.
        seed: of the noise.
        nfe: counted.
        milliseconds: per image.
        scores: psnr, ssim, consistency and the judge's distance, by name.
    """

    task: str
    model: str
    method: str
    steps: int | None
    level: float | None
    seed: int
    nfe: float
    milliseconds: float | None
    scores: dict[str, float]
    small: float | None = None


class Bench:
    """One model on one task.

    Args:
        model: its name.
        module: in evaluation mode.
        task: of `TASKS`.
        images, labels: of the test split, uint8 (N, C, H, W) and (N,) or None.
        judge: of the results.
        count: test images that are scored; as many others choose the first level.
        lpips: another score, or None.
        device: where the model runs.
        batch_size: images per forward pass.

    Raises:
        UsageError: the model was trained for another task.
    """

    def __init__(
        self,
        model: str,
        module: Any,
        task: str,
        images: Tensor,
        labels: Tensor | None,
        judge: Judge,
        count: int,
        lpips: Perceptual | None = None,
        device: torch.device = CPU,
        batch_size: int = 64,
    ):
        self.model, self.task, self.images, self.judge, self.count = model, task, images, judge, count
        self.lpips, self.restorer = lpips, Restorer(module.to(device), device, batch_size)
        self.operator = operator_of(TASKS[task](*module.image_shape[1:]), module)
        self.labels = labels if module.num_classes else None

    def trial(self, first: int = 0, seed: int = 0) -> Trial:
        """The images from `first` on, with noise of other seeds for every `seed`."""
        return Trial.of(self.operator, self.images, self.labels, range(first, first + self.count), seed)

    def run(self, way: Way, seed: int, controlled: bool = False) -> tuple[Row, Tensor]:
        """The row of a method, or of its control, and the results."""
        trial = self.trial(seed=seed)
        made: Restored = (self.restorer.control if controlled else self.restorer.restore)(trial.problem, way)
        scores, milliseconds = trial.scores(made.images, self.judge, self.lpips), 1000 * made.seconds_per_image
        levels, small = made.levels, way.small if way.method in INVERTING else None
        row = Row(
            self.task, self.model, made.method, len(levels), levels[0], seed, made.nfe, milliseconds, scores, small
        )
        return row, made.images

    def beside(self) -> list[tuple[Row, Tensor]]:
        """What was given and the clean images."""
        trial = self.trial()
        return [
            (Row(self.task, self.model, name, None, None, 0, 0.0, None, trial.scores(x, self.judge, self.lpips)), x)
            for name, x in trial.beside().items()
        ]

    def best_way(self, method: str, steps: int) -> Way:
        """The first level, or that of the small noise, with the best PSNR on other images; or the method's own."""
        levels: tuple[Way, ...] = tuple(Way(method, steps, level) for level in LEVELS.get(method, ()))
        smalls = tuple(Way(method, steps, small=small) for small in SMALL if method in INVERTING)
        tried, trial = {}, self.trial(first=self.count)
        for way in levels + smalls:
            with contextlib.suppress(UsageError):  # a ladder that has not so many rungs below, or too much noise
                made = self.restorer.restore(trial.problem, way)
                tried[way] = float(psnr(made.images, trial.truth).mean())
        return max(tried, key=lambda way: tried[way]) if tried else Way(method, steps)


def numbers_of(module: Any, many: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Names of the methods of a model, with the levels that they are run at; `many` is a diffusion model's."""
    offered, ladder = methods_of(module), getattr(module, "ladder", None)
    if paired_name(module) is not None:
        return dict.fromkeys(offered, STEPS["paired"])
    if offered is MANY_STEP:
        few = tuple(n for n in many if n <= 20)  # RePaint evaluates every level ten times
        return {name: many if name != "repaint" else few for name in offered}
    steps = tuple(n for n in STEPS["few"] if ladder is None or n < ladder.steps)
    return {name: tuple(n for n in steps if name not in INVERTING or n < 8) for name in offered}


def rows_of(
    bench: Bench,
    seeds: Sequence[int],
    many: tuple[int, ...],
    pictures: dict[str, Tensor],
    methods: Sequence[str] | None = None,
) -> Iterator[Row]:
    """All rows of a model on a task, or those of some methods alone."""
    for row, images in bench.beside():
        pictures[row.method] = images[:SHOWN]
        yield row
    for method, numbers in numbers_of(bench.restorer.module, many).items():
        for steps in numbers if methods is None or method in methods else ():
            try:
                way = bench.best_way(method, steps)
                made = [bench.run(way, seed) for seed in seeds]
            except ValueError as error:  # an operator that the method is not made for
                print(f"{bench.task}, {bench.model}, {method}: {error}")
                continue
            for seed, (row, images) in zip(seeds, made, strict=True):
                pictures[f"{bench.model}, {method} {steps}"] = images[:SHOWN]
                yield row
                if method in INVERTING and steps == numbers[0]:
                    yield bench.run(way, seed, controlled=True)[0]


def table(rows: Sequence[Row], task: str) -> Any:
    """One row for every model, method and number of levels: means over the seeds."""
    from rich.table import Table

    names = list(rows[0].scores)
    shown = Table(title=task)
    for heading in ("model", "method", "levels", "from", "small", "NFE", "ms", *names):
        shown.add_column(heading, justify="left" if heading in ("model", "method") else "right")
    groups = [(key_of(asdict(row)), row) for row in rows]
    for key in dict.fromkeys(key for key, _ in groups):
        here = [row for other, row in groups if other == key]
        first = here[0]
        timed = [r.milliseconds for r in here if r.milliseconds is not None]
        shown.add_row(
            *key[:2],
            "" if first.steps is None else str(first.steps),
            *("" if value is None else f"{value:g}" for value in (first.level, first.small)),
            f"{first.nfe:g}",
            f"{statistics.median(timed):.3g}" if timed else "",
            *(f"{statistics.fmean(r.scores[name] for r in here):.4g}" for name in names),
        )
    return shown


def main(argv: Sequence[str] | None = None) -> None:
    """Restore, score, print, and write what was asked for."""
    from rich.console import Console

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", nargs="+", required=True, metavar="NAME=PATH")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=["inpaint", "upscale 2", "unblur"])
    parser.add_argument("--count", type=int, default=180, help="test images scored; as many others choose levels")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the noise")
    parser.add_argument(
        "--many", nargs="+", type=int, default=list(STEPS["many"]), help="levels of a diffusion model's methods"
    )
    parser.add_argument(
        "--methods", nargs="+", choices=[*FEW_STEP, *INVERTING, *MANY_STEP, *PAIRED], help="these alone (default: all)"
    )
    parser.add_argument("--lpips", action="store_true", help="of colour images of at least 32 pixels")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", type=torch.device, default=CPU, help="of the models")
    parser.add_argument("--batch-size", type=int, default=64, help="images per forward pass")
    parser.add_argument("--json", type=Path, help="write the results here as well")
    parser.add_argument("--picture", type=Path, help="draw up to 12 images by every method of the first task here")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    paths = [item.split("=", 1) for item in options.checkpoints]
    rows: list[Row] = []
    pictures: dict[str, dict[str, Tensor]] = {task: {} for task in options.tasks}
    judge: Judge | None = None
    lpips: Perceptual | None = None
    place = (options.device, options.batch_size)
    for task in options.tasks:
        for model, path in paths:
            module: Any = load_module(path)
            data: Any = load_data(read_text(run_config(path)))
            if judge is None:
                network = feature_network_for(module.image_shape)
                images, labels = data.uint8_images("train")
                judge = Judge(network, real_features(network, images, Path("runs") / FOLDER))
                network.check(judge.reference, labels)
            if options.lpips and lpips is None:
                lpips = Perceptual(module.image_shape)
            try:
                bench = Bench(model, module, task, *data.uint8_images("test"), judge, options.count, lpips, *place)
            except UsageError as error:
                print(f"{task}, {model}: {error}")
                continue
            rows += rows_of(bench, options.seeds, tuple(options.many), pictures[task], options.methods)
        Console(width=120).print(table([r for r in rows if r.task == task], task))
    if options.picture:
        images = pictures[options.tasks[0]]
        save_png(image_grid(torch.cat(list(images.values())), min(SHOWN, options.count)), options.picture)
        print(f"{options.picture}, rows: {'; '.join(images)}")
    if options.json:
        private = tuple(Path(item) for item in options.checkpoints)
        content = {"count": options.count, "rows": [asdict(row) for row in rows]}
        record(options.json, "restoration", argv, content, options.device, (*private, options.picture))


if __name__ == "__main__":
    main()
