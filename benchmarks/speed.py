"""How fast training and sampling are, beside the official code.

    python -m benchmarks.speed --size small
    python -m benchmarks.speed --size both --official-cm CHECKOUT --official-bcm CHECKOUT --json out.json
    OMP_NUM_THREADS=1 python -m benchmarks.speed --threads 1 --clock cpu     on a machine that others use as well

Diffusion, CT, ECT, CD, BCM and UFOGen are timed on a small network and on one of the CIFAR-10 kind, ours and, given
checkouts, the official code on its own network of the same shape: NVlabs/edm for diffusion, openai/consistency_models
for CT and CD, locuslab/ect for ECT, Mosasaur5526/BCM-iCT-torch for BCM. (NVlabs/denoising-diffusion-gan has its step
inside a script that needs a GPU and its compiled operators.) All cases of a method take turns in one process; speed-ups
are medians of the rounds' own ratios.
"""

import argparse
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.memory import gpu_peak_memory, peak_memory
from benchmarks.official import Official, checkout_commit
from benchmarks.official_edm import OfficialEDM
from benchmarks.ours import METHODS, UNCOMPILED, Ours, Variant
from benchmarks.record import record
from benchmarks.shapes import SHAPES, Shape
from benchmarks.timing import Times, interleave, matrix_product, speedup
from datamodules.loader import TrainingBatches

VARIANTS = {
    "float32": Variant(channels_last=True),  # as a Trainer runs it on a CPU
    "contiguous": Variant(),
    "unfused": Variant(channels_last=True, fused=False),
    "compile": Variant(channels_last=True, compiled=True),
    "bfloat16": Variant(bfloat16=True),
    "bfloat16_channels_last": Variant(bfloat16=True, channels_last=True),
    "bfloat16_compile": Variant(bfloat16=True, channels_last=True, compiled=True),
}
MEASURES = ("step", "gradient", "sample_1", "sample_2", "sample_18")
OFFICIAL = {
    "edm": "NVlabs/edm",
    "cm": "openai/consistency_models",
    "ect": "locuslab/ect",
    "bcm": "Mosasaur5526/BCM-iCT-torch",
}
CHECKOUTS: dict[str, tuple[str, type[Official] | type[OfficialEDM]]] = {
    "diffusion": ("edm", OfficialEDM),
    "ct": ("cm", Official),
    "ect": ("ect", OfficialEDM),
    "cd": ("cm", Official),
    "bcm": ("bcm", Official),
}
"""Whose code a method is timed beside, and how it is run."""


HALF = "official float16"


@dataclass
class Row:
    """One case: seconds, what they are made of, and how they compare.

    Args:
        method, size, measure: of `METHODS`; of `SHAPES`; of `MEASURES`.
        code: "official" (float32), "official float16" or a variant's name.
        batch_size: images per step or samples at once.
        seconds: median, q1, q3, min on the chosen clock.
        tflop: operations of the convolutions, matrix products and attention, in 10^12.
        rate: those per second over the machine's own rate for matrix products, in float32 on a CPU and in bfloat16
            on a GPU.
        speedup: over the official code in float32 in the same run, median, q1, q3; empty without it.
        speedup_half: over the official code in float16, likewise.
        peak_mb: memory that the step adds; None where it was not measured.
    """

    method: str
    size: str
    code: str
    measure: str
    batch_size: int
    seconds: dict[str, float]
    tflop: float
    rate: float
    speedup: dict[str, float] = field(default_factory=dict)
    speedup_half: dict[str, float] = field(default_factory=dict)
    peak_mb: float | None = None


@dataclass(frozen=True)
class Case:
    """What the cases of a method are built from; picklable, so that another process can build one.

    Args:
        method: of `METHODS`.
        shape: of the network.
        batch_size: images per step.
        device: where it runs.
        variant: of ours, or None for the official code.
        checkout: of the official code.
        half: of the official code, in float16.
    """

    method: str
    shape: Shape
    batch_size: int
    device: torch.device
    variant: Variant | None = None
    checkout: Path | None = None
    half: bool = False

    @property
    def name(self) -> str:
        """What it is called in tables."""
        return self.variant.name if self.variant is not None else HALF if self.half else "official"

    def build(self) -> dict[str, Callable[[], Any]]:
        """The calls that are timed, by measure."""
        x0 = torch.rand(self.batch_size, *self.shape.image_shape, device=self.device) * 2 - 1
        if self.variant is not None:
            return Ours(self.method, self.shape, self.variant, self.device).calls(x0)
        assert self.checkout is not None
        official = CHECKOUTS[self.method][1]
        return official(self.checkout, self.method, self.shape, self.batch_size, self.device, self.half).calls(x0)

    def build_step(self) -> Callable[[], Any]:
        """The training step alone."""
        return self.build()["step"]


def operations(call: Callable[[], Any]) -> int:
    """Floating-point operations of a call, as PyTorch counts them: two per multiply-add.

    Of the second call: in the first UFOGen's penalty is due, whose gradient within a step the counter cannot follow.
    """
    call()
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def built(case: Case, memory: bool) -> tuple[dict[str, Callable[[], Any]], float | None]:
    """The calls of a case, and if asked for the MB that its step takes at most."""
    if memory and case.device.type == "cuda":
        return gpu_peak_memory(case.build, case.device)
    peak = peak_memory(case.build_step, torch.get_num_threads()) if memory else None
    return case.build(), peak


def measure(
    cases: list[Case], method: str, size: str, measures: Collection[str], repeats: int, clock: str, memory: bool
) -> list[Row]:
    """Time all cases of one method and size in turn; the official code's, if any, is the first."""
    device = cases[0].device
    made = {case.name: built(case, memory) for case in cases}
    calls = {(name, what): call for name, (of, _) in made.items() for what, call in of.items() if what in measures}
    flops = {key: operations(call) for key, call in calls.items() if "compile" not in key[0]}
    product, product_flops = matrix_product(device)
    timed = interleave({**calls, ("matrix product", ""): product}, repeats, device=device)
    per_second = product_flops / timed.pop(("matrix product", "")).summary(clock)["median"]
    rows = []
    for (name, what), times in timed.items():
        # a compiled loss has the operations of the others
        flop = flops.get((name, what), next((f for (_, w), f in flops.items() if w == what), 0))
        seconds = times.summary(clock)
        full, half = (
            speedup(timed[code, what], times, clock) if (code, what) in timed and "official" not in name else {}
            for code in ("official", HALF)
        )
        rows.append(
            Row(
                method,
                size,
                name,
                what,
                cases[0].batch_size,
                seconds,
                flop / 1e12,
                flop / seconds["median"] / per_second,
                full,
                half,
                made[name][1] if what == "step" else None,
            )
        )
    return rows


def loader_seconds(shape: Shape, batch_size: int, device: torch.device, clock: str) -> float:
    """Mean seconds per batch of flipped RGB images over one whole epoch, its shuffle included."""
    images = torch.randint(0, 256, (128 * batch_size, *shape.image_shape), dtype=torch.uint8, device=device)

    def epoch() -> None:
        batches = iter(TrainingBatches(images, None, batch_size, flip=True))
        for _ in range(128):
            next(batches)

    times: Times = interleave({"epoch": epoch}, repeats=5, device=device)["epoch"]
    return times.summary(clock)["median"] / 128


def table(rows: list[Row]) -> Any:
    """The rows of one method and size as a rich table."""
    from rich.table import Table

    title = f"{rows[0].method.upper()}, {rows[0].size} network, {rows[0].batch_size} images"
    shown = Table(title=title, caption="step: loss, backward, optimizer, averages; sample_n: n evaluations")
    for heading in ("code", "what"):
        shown.add_column(heading)
    for heading in ("seconds", "IQR", "min", "of matmul", "MB", "speed-up", "over float16"):
        shown.add_column(heading, justify="right")
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        s, ratios = row.seconds, (row.speedup, row.speedup_half)
        shown.add_row(
            row.code,
            row.measure,
            f"{s['median']:.3g}",
            f"{(s['q3'] - s['q1']) / s['median']:.0%}",
            f"{s['min']:.3g}",
            f"{row.rate:.0%}",
            "" if row.peak_mb is None else f"{row.peak_mb:.0f}",
            *(f"{r['median']:.2f} [{r['q1']:.2f}, {r['q3']:.2f}]" if r else "" for r in ratios),
            end_section=following is None or following.code != row.code,
        )
    return shown


def applies(variant: Variant, method: str) -> bool:
    """Whether a method can run so."""
    return (variant.fused or method == "bcm") and not (variant.compiled and method in UNCOMPILED)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=[*SHAPES, "both"], default="small", help="network")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=["float32", "bfloat16"], metavar="V")
    parser.add_argument("--measures", nargs="+", choices=MEASURES, default=list(MEASURES), help="what is timed")
    for name, of in OFFICIAL.items():
        parser.add_argument(f"--official-{name}", type=Path, metavar="CHECKOUT", help=f"of {of}")
    parser.add_argument("--batch-size", type=int, help="images per step; by default 16 (small) and 2 (cifar)")
    parser.add_argument("--repeats", type=int, default=10, help="rounds")
    parser.add_argument("--threads", type=int, help="of torch; by default as many as it takes")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: this process's CPU time")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="leave out the peak memory")
    parser.add_argument("--json", type=Path, help="write the results here as well")
    options = parser.parse_args(argv)
    options.checkouts = {name: getattr(options, f"official_{name}") for name in OFFICIAL}
    if any(options.checkouts.values()) and options.device.type == "cpu" and torch.cuda.is_available():
        parser.error("the official code runs on the GPU that it sees: CUDA_VISIBLE_DEVICES= hides it, or --device cuda")
    if options.device.type != "cpu" and options.clock == "cpu":
        parser.error("--clock cpu sees nothing of a GPU's time")
    return options


def main(argv: list[str] | None = None) -> None:
    """Measure, print, and write what was asked for."""
    options = parse(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    from rich.console import Console

    console, rows, loading = Console(), [], {}
    for size in list(SHAPES) if options.size == "both" else [options.size]:
        shape = SHAPES[size]
        batch_size = options.batch_size or shape.batch_size
        for method in options.methods:
            case = partial(Case, method, shape, batch_size, options.device)
            checkout = options.checkouts[CHECKOUTS[method][0]] if method in CHECKOUTS else None
            halves = (False, True) if options.device.type == "cuda" else (False,)
            cases = [case(checkout=checkout, half=half) for half in halves] if checkout else []
            variants = [name for name in options.variants if applies(VARIANTS[name], method)]
            cases += [case(variant=VARIANTS[name]) for name in variants]
            measured = measure(cases, method, size, options.measures, options.repeats, options.clock, options.memory)
            rows += measured
            console.print(table(measured))
            steps = [r.seconds["median"] for r in measured if r.measure == "step" and "official" not in r.code]
            if steps:
                seconds = loader_seconds(shape, batch_size, options.device, options.clock)
                loading[f"{method} {size}"] = {"seconds": seconds, "share_of_fastest_step": seconds / min(steps)}
    for name, loaded in loading.items():
        console.print(f"{name}: loading a batch takes {loaded['share_of_fastest_step']:.2%} of our fastest step")
    if options.json:
        result = {
            "official": {name: checkout_commit(path) for name, path in options.checkouts.items() if path},
            "clock": options.clock,
            "loading": loading,
            "rows": [asdict(row) for row in rows],
        }
        record(options.json, "speed", argv, result, device=options.device, private=options.checkouts.values())


if __name__ == "__main__":
    main()
