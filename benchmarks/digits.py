"""One table over the methods on the embedded digits: evaluations, fd_digits, milliseconds per image.

    python -m benchmarks.digits --json benchmarks/results/digits.json --picture docs/images/digits_methods.png

trains the teacher and every method by its config, as a user does, with the same network, batch and number of training
images, and scores 2,000 images of the same seeds. It goes on where it was stopped: a finished run is not trained again.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from benchmarks.record import record
from datamodules import DigitsDataModule
from diffusion.ode_samplers import DEIS, DPMSolver2, DPMSolverFast, DPMSolverPP2M, Euler, Heun, Sampler
from diffusion.sde_samplers import DDIM, DDPM
from evaluation.features import FeatureNetwork, Features, extract, feature_network_for
from evaluation.generate import Meter, draw_labels, generate
from evaluation.grids import image_grid, save_png
from evaluation.protocol import Source, seed_ranges
from evaluation.scorer import describe_sampling
from evaluation.scores import Score, score
from lightning_modules.checkpoint import load_module, read_checkpoint
from main import main as fewstep

CONFIGS = Path(__file__).parents[1] / "configs"
BUDGETS = (5, 10, 18, 35)
SAMPLERS: dict[str, Sampler] = {
    "Euler (DDIM)": Euler(),
    "Heun": Heun(),
    "DPM-Solver-2": DPMSolver2(),
    "DPM-Solver-fast": DPMSolverFast(),
    "DPM-Solver++(2M)": DPMSolverPP2M(),
    "3-DEIS": DEIS(),
    "Heun, churn 10": Heun(s_churn=10.0),
    "DDIM, eta 0.5": DDIM(eta=0.5),
    "DDPM": DDPM(),
}


@dataclass(frozen=True)
class Method:
    """A method's run and the numbers of evaluations that it is sampled with."""

    name: str
    config: str
    evaluations: tuple[int, ...]
    options: tuple[str, ...] = ()
    starts: tuple[str, ...] = ()
    """Options that are given the teacher's checkpoint, for a method that may start from it and need not."""


EQUAL = ("--model.init_args.total_images=600000",)
"""As many training images as the other methods have by their configs."""
TEACHER = Method("diffusion", "diffusion", ())
METHODS = (
    Method("CT", "ct", (1, 2, 4)),
    Method("BCM", "bcm", (1, 2, 4)),
    Method("CD", "cd", (1, 2, 4)),
    Method("CTM", "ctm", (1, 2)),
    Method("PD to 1", "pd", (1,)),
    Method("PD to 2", "pd", (2,), ("--model.init_args.end_steps=2",)),
    Method("KD", "kd", (1,)),
    Method("1-RF", "rectified_flow", (1, 2)),
    Method("2-RF", "reflow", (1, 2)),
    Method("2-RF, distilled", "rf_distill", (1,)),
    Method("UFOGen", "ufogen", (1, 4), EQUAL),
    Method(
        "UFOGen from diffusion",
        "ufogen",
        (1, 4),
        (*EQUAL, "--model.init_args.discriminator.init_args.width=512"),  # to hold the diffusion model's network
        starts=("init_from", "discriminator_init_from"),
    ),
    Method("SIDDM", "siddm", (1, 4), EQUAL),
    Method("DDGAN", "ddgan", (1, 4), EQUAL),
)


def run_folder(root: Path, method: Method) -> Path:
    """Where a method's run lies."""
    return root / method.name.lower().replace(" ", "_").replace(",", "") / method.config / "000"


def train(root: Path, method: Method, images: int | None, runs: dict[str, Path]) -> Path:
    """Train a method, or go on with its run, and return its last checkpoint.

    Args:
        root: folder of all runs.
        method: what to train.
        images: training images in the place of the config's.
        runs: config -> checkpoint of what was trained before, the teachers.
    """
    folder = run_folder(root, method)
    last = folder / "checkpoints" / "last.ckpt"
    settings = yaml.safe_load((CONFIGS / f"{method.config}.yaml").read_text())["model"]["init_args"]
    goal = images or settings["total_images"]
    if last.is_file() and read_checkpoint(last)["images_seen"] >= goal:
        return last
    if last.is_file():
        args = ["fit", "--ckpt_path", str(last)]
    else:
        args = ["fit", "--config", str(CONFIGS / f"{method.config}.yaml"), *method.options]
        if "teacher" in settings:
            args.append(f"--model.init_args.teacher={runs[Path(settings['teacher']).parts[1]]}")
        args += [f"--model.init_args.{name}={runs[TEACHER.config]}" for name in method.starts]
        if "pairs" in settings and "cache" in settings["pairs"]["init_args"]:
            args.append(f"--model.init_args.pairs.init_args.cache={root / 'pairs'}")
        if images:
            args.append(f"--model.init_args.total_images={images}")
    if code := fewstep([*args, f"--trainer.default_root_dir={folder.parents[1]}"]):
        raise SystemExit(code)
    return last


@dataclass(frozen=True)
class Judged:
    """The judge, what it compares with, and the seeds and labels that every method is given."""

    network: FeatureNetwork
    train: Features
    seeds: range
    label: Tensor

    @classmethod
    def of_digits(cls, num_images: int) -> "Judged":
        """The shipped classifier of the digits and their training split."""
        data = DigitsDataModule(conditional=True)
        network = feature_network_for(data.image_shape)
        images, labels = data.uint8_images("train")
        seeds = range(num_images)
        return cls(network, extract(network, images), seeds, draw_labels(seeds, torch.bincount(labels)))

    def row(self, name: str, module: Any, steps: int) -> tuple[Score, Tensor]:
        """The score of a module's samples with `steps` evaluations, and the first of them."""
        meter = Meter(module.ema_denoiser.network)
        images = generate(module.sample, self.seeds, module.image_shape, steps=steps, label=self.label, meter=meter)
        source = Source(
            name=name,
            steps=steps,
            sampling=describe_sampling(module, steps),
            nfe=meter.nfe,
            seconds_per_image=meter.seconds_per_image,
            batch_size=min(500, len(images)),
            seeds=seed_ranges(self.seeds),
            images_seen=module.images_seen,
            device="cpu",
            dtype="float32",
        )
        judged = extract(self.network, images)
        return score(self.network, judged, self.train, source, "train", self.label), images[:16]


def table(title: str, scores: Sequence[Score]) -> Any:
    """Rows of method, evaluations, fd_digits, share of images read, recall, milliseconds per image."""
    from rich.table import Table

    shown = Table(title=title)
    shown.add_column("")
    for heading in ("NFE", "fd_digits", "read > 0.9", "recall", "ms per image"):
        shown.add_column(heading, justify="right")
    for s in scores:
        source = s.protocol.source
        shown.add_row(
            source.name,
            f"{source.nfe:g}",
            f"{s.distances['fd_digits']:.3f}",
            f"{s.alone['confident_digits']:.1%}",
            f"{s.distances['recall_digits']:.2f}",
            f"{1e3 * (source.seconds_per_image or 0):.3f}",
        )
    return shown


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("runs/digits"), help="folder of the runs")
    parser.add_argument("--methods", nargs="+", choices=[m.name for m in METHODS], help="by default all")
    parser.add_argument("--images", type=int, help="training images of each method (default: the configs')")
    parser.add_argument("--num-images", type=int, default=2000, help="images scored")
    parser.add_argument("--json", type=Path, help="write the results here as well")
    parser.add_argument("--picture", type=Path, help="write a PNG here: the teacher by Heun, then few steps")
    return parser.parse_args(argv)


def with_their_makers(methods: Sequence[Method]) -> list[Method]:
    """The methods and before them those whose models they start from."""
    wanted: list[Method] = []
    for method in methods:
        settings = yaml.safe_load((CONFIGS / f"{method.config}.yaml").read_text())["model"]["init_args"]
        maker = Path(settings["teacher"]).parts[1] if "teacher" in settings else None
        needed = next((m for m in METHODS if m.config == maker), None)
        for m in [*(with_their_makers([needed]) if needed else []), method]:
            if m not in wanted:
                wanted.append(m)
    return wanted


def main(argv: Sequence[str] | None = None) -> None:
    """Train, score, print, and write what was asked for."""
    from rich.console import Console

    options, console = parse(argv), Console()
    methods = with_their_makers([m for m in METHODS if not options.methods or m.name in options.methods])
    runs = {TEACHER.config: train(options.root, TEACHER, options.images, {})}
    checkpoints = {}
    for method in methods:
        checkpoints[method.name] = train(options.root, method, options.images, runs)
        runs.setdefault(method.config, checkpoints[method.name])

    torch.set_num_threads(1)
    judged = Judged.of_digits(options.num_images)
    teacher: Any = load_module(runs[TEACHER.config])
    baseline, few, pictures = [], [], []
    for name, sampler in SAMPLERS.items():
        teacher.sampler = sampler
        for budget in BUDGETS:
            result, images = judged.row(name, teacher, sampler.at_most(budget))
            baseline.append(result)
            pictures += [images] if (name, budget) == ("Heun", BUDGETS[-1]) else []
    for method in methods:
        module: Any = load_module(checkpoints[method.name])
        for steps in method.evaluations:
            result, images = judged.row(method.name, module, steps)
            few.append(result)
            pictures.append(images)
    console.print(table("The diffusion model by each sampler, at most 5, 10, 18, 35 evaluations", baseline))
    console.print(table("Few evaluations", few))
    if options.picture:
        save_png(image_grid(torch.cat(pictures), columns=16), options.picture)
    if options.json:
        result = {
            "samplers": {name: repr(sampler) for name, sampler in SAMPLERS.items()},
            "protocol": asdict(few[0].protocol) | {"source": None},
            "rows": [asdict(s.protocol.source) | s.distances | s.alone for s in [*baseline, *few]],
        }
        record(options.json, "digits", argv, result, private=(options.root, options.picture))


if __name__ == "__main__":
    main()
