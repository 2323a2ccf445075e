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
from cli import restore
from cli.data import load_data
from cli.errors import UsageError
from cli.inputs import Inputs, test_images
from cli.restore_levels import levels_for
from cli.restore_methods import FEW_STEP, INVERTING, MANY_STEP, Case, control, method_for, paired_name
from cli.restore_operators import operator_of
from cli.run_files import read_text, run_config
from diffusion.denoisers import BidirectionalDenoiser, EDMDenoiser
from diffusion.pixels import to_uint8
from evaluation.features import FeatureNetwork, Features, extract, feature_network_for
from evaluation.generate import Meter
from evaluation.grids import image_grid, save_png
from evaluation.restoration import Perceptual, psnr
from lightning_modules.checkpoint import load_module

Method = Callable[[Case], Tensor]
TASKS: dict[str, tuple[str, ...]] = {
    "inpaint": ("--task", "inpaint"),
    "upscale 2": ("--task", "upscale", "--factor", "2"),
    "upscale 4": ("--task", "upscale", "--factor", "4"),
    "unblur": ("--task", "unblur"),
    "colourise": ("--task", "colourise"),
    "jpeg 10": ("--task", "jpeg", "--quality", "10"),
}
STEPS = {"few": (1, 2, 4, 8), "many": (20, 100), "paired": (1, 2, 4, 8, 20, 100)}
LEVELS = {"zero-shot": (1.0, 2.0, 5.0), "corrected": (1.0, 2.0, 5.0), "blind": (0.1, 0.2, 0.4)}
"""First levels that are tried; the table has the best by PSNR on validation images, which are not scored."""


@dataclass(frozen=True)
class Row:
    """Means over the images of one noise seed.

    Args:
        task, model, method: names; method "given", "clean" and "control" are the rows beside.
        steps: noise levels visited; None where nothing is.
        level: the first of them.
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


@dataclass(frozen=True)
class Judge:
    """The feature network and the clean training images' features."""

    network: FeatureNetwork
    reference: Features

    def distance(self, images: Tensor) -> dict[str, float]:
        """The first distance of `scores_against`, by its name."""
        features = extract(self.network, images)
        n, m = self.network.compared(len(features), len(self.reference))
        found = self.network.scores_against(features.first(n), self.reference.subset(m))
        name = next(iter(found))
        return {name: found[name]}


class Bench:
    """One model on one task.

    Args:
        model: its name.
        module: in evaluation mode.
        path: the checkpoint.
        task: of `TASKS`.
        judge: of the results.
        count: test images that are scored; as many others choose the first level.
        lpips: LPIPS too.
    """

    def __init__(self, model: str, module: Any, path: str, task: str, judge: Judge, count: int, lpips: bool = False):
        self.model, self.module, self.path, self.task, self.judge = model, module, path, task, judge
        self.count = count
        self.lpips = Perceptual(module.image_shape) if lpips else None

    def options(self, *more: str, first: int = 0, seed: int = 0) -> argparse.Namespace:
        """As typed for `restore`; the images from `first` on, with noise of other seeds for every `seed`."""
        options = restore.parser().parse_args(
            ["--ckpt_path", self.path, *TASKS[self.task], "--seeds", f"{first}-{first + self.count - 1}", *more]
        )
        options.noise = [i + 1_000_000 * seed for i in options.seeds]
        return options

    def given(self, options: argparse.Namespace) -> tuple[Inputs, Any, Tensor]:
        """The clean images, the operator and the measurement."""
        inputs, operator = test_images(options, self.module), operator_of(options, self.module)
        return inputs, operator, restore.observed(operator, inputs)

    def made(self, options: argparse.Namespace, run: Method, meter: Meter) -> Tensor:
        """Results of a method (N, C, H, W) uint8."""
        inputs, operator, y = self.given(options)
        levels = levels_for(options, self.module)
        device, labels = torch.device("cpu"), inputs.labels
        return restore.restored(
            run, options, self.module, operator, y, options.noise, labels, levels, device, meter
        )  # fmt: skip

    def run(self, options: argparse.Namespace, controlled: bool = False) -> tuple[Row, Tensor]:
        """The row of a method, or of its control, and the results."""
        meter = Meter(self.module.ema_denoiser.network)
        images = self.made(options, control if controlled else method_for(options.method, self.module), meter)
        levels = (options.small,) if controlled else levels_for(options, self.module)
        method, seed = "control" if controlled else options.method, options.noise[0] // 1_000_000
        scores, milliseconds = self.scores(images, options), 1000 * meter.seconds_per_image
        row = Row(self.task, self.model, method, len(levels), levels[0], seed, meter.nfe, milliseconds, scores)
        return row, images

    def beside(self) -> list[tuple[Row, Tensor]]:
        """What was given and the clean images."""
        options = self.options()
        inputs, operator, y = self.given(options)
        images = {"given": to_uint8(operator.pseudo_inverse(y).clamp(-1, 1)), "clean": inputs.images}
        return [
            (Row(self.task, self.model, name, None, None, 0, 0.0, None, self.scores(x, options)), x)
            for name, x in images.items()
        ]

    def scores(self, images: Tensor, options: argparse.Namespace) -> dict[str, float]:
        """Means."""
        inputs, operator, y = self.given(options)
        found = restore.scores_of(images, inputs.images, operator, y, self.lpips)
        return {name: statistics.fmean(values) for name, values in found.items()} | self.judge.distance(images)

    def best_level(self, method: str, steps: int) -> tuple[str, ...]:
        """The first level with the best PSNR on other images."""
        tried = {}
        for level in LEVELS.get(method, ()):
            options = self.options("--method", method, "--steps", str(steps), "--level", str(level), first=self.count)
            with contextlib.suppress(UsageError):  # a ladder that has not so many rungs below
                meter = Meter(self.module.ema_denoiser.network)
                images = self.made(options, method_for(method, self.module), meter)
                tried[level] = float(psnr(images, self.given(options)[0].images).mean())
        return ("--level", str(max(tried, key=lambda level: tried[level]))) if tried else ()


def methods_of(module: Any) -> dict[str, tuple[int, ...]]:
    """Names of the methods of a model, with the numbers of levels that they are run at."""
    denoise = module.ema_denoiser
    if (name := paired_name(module)) is not None:
        return {name: STEPS["paired"]}
    if type(denoise) is EDMDenoiser:
        return {name: STEPS["many"] if name != "repaint" else STEPS["many"][:1] for name in MANY_STEP}
    names = [*FEW_STEP, *(INVERTING if isinstance(denoise, BidirectionalDenoiser) else ())]
    ladder = getattr(module, "ladder", None)
    steps = tuple(n for n in STEPS["few"] if ladder is None or n < ladder.steps)
    return {name: tuple(n for n in steps if name not in INVERTING or n < 8) for name in names}


def rows_of(bench: Bench, seeds: Sequence[int], pictures: dict[str, Tensor]) -> Iterator[Row]:
    """All rows of a model on a task; none of one that was trained for another."""
    try:
        operator_of(bench.options(), bench.module)
    except UsageError as error:
        print(f"{bench.task}, {bench.model}: {error}")
        return
    for row, images in bench.beside():
        pictures[row.method] = images[:12]
        yield row
    for method, numbers in methods_of(bench.module).items():
        for steps in numbers:
            level = bench.best_level(method, steps)
            for seed in seeds:
                options = bench.options("--method", method, "--steps", str(steps), *level, seed=seed)
                try:
                    row, images = bench.run(options)
                except (ValueError, UsageError) as error:  # an operator that the method is not made for
                    print(f"{bench.task}, {bench.model}, {method}: {error}")
                    break
                pictures[f"{bench.model}, {method} {steps}"] = images[:12]
                yield row
                if method in INVERTING and steps == numbers[0]:
                    yield bench.run(options, controlled=True)[0]


def table(rows: Sequence[Row], task: str) -> Any:
    """One row for every model, method and number of levels: means over the seeds."""
    from rich.table import Table

    names = list(rows[0].scores)
    shown = Table(title=task)
    for heading in ("model", "method", "levels", "from", "NFE", "ms", *names):
        shown.add_column(heading, justify="left" if heading in ("model", "method") else "right")
    for key in dict.fromkeys((r.model if r.nfe else "", r.method, r.steps) for r in rows):
        here = [r for r in rows if (r.model if r.nfe else "", r.method, r.steps) == key]
        first = here[0]
        timed = [r.milliseconds for r in here if r.milliseconds is not None]
        shown.add_row(
            *key[:2],
            "" if first.steps is None else str(first.steps),
            "" if first.level is None else f"{first.level:g}",
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
    parser.add_argument("--lpips", action="store_true", help="of colour images of at least 32 pixels")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the results here as well")
    parser.add_argument("--picture", type=Path, help="draw 12 images by every method of the first task here")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    paths = [item.split("=", 1) for item in options.checkpoints]
    rows: list[Row] = []
    pictures: dict[str, dict[str, Tensor]] = {task: {} for task in options.tasks}
    judge: Judge | None = None
    for task in options.tasks:
        for model, path in paths:
            module: Any = load_module(path)
            if judge is None:
                data: Any = load_data(read_text(run_config(path)))
                network = feature_network_for(module.image_shape)
                judge = Judge(network, extract(network, data.uint8_images("train")[0]))
            bench = Bench(model, module, path, task, judge, options.count, options.lpips)
            rows += rows_of(bench, options.seeds, pictures[task])
        Console(width=120).print(table([r for r in rows if r.task == task], task))
    if options.picture:
        images = pictures[options.tasks[0]]
        save_png(image_grid(torch.cat(list(images.values())), 12), options.picture)
        print(f"{options.picture}, rows: {'; '.join(images)}")
    if options.json:
        private = tuple(Path(item) for item in options.checkpoints)
        content = {"count": options.count, "rows": [asdict(row) for row in rows]}
        record(options.json, "restoration", argv, content, private=(*private, options.picture))


if __name__ == "__main__":
    main()
