"""A comparison in words: how its numbers were made, and what it leaves out; every sentence from what was found."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from cli.compare_plan import Plan
from cli.compare_score import Result
from cli.compare_training import Training
from evaluation.comparison import InversionRow, Measured, Row, table_names
from evaluation.restoration_rows import Repaired, RestorationRow


@dataclass(frozen=True)
class Findings:
    """All that a report tells.

    Args:
        title: the comparison's name.
        spread: what ± is over, see `spread_over`; empty for single values.
        threads: of each process.
        results: by method, in the order of the plan.
        rows: of the methods.
        real: rows of real images.
        inversions: of those that invert.
        restored: restorations; none where the plan asks for none.
        training: by method; None where no TensorBoard files lie beside the checkpoint.
        absent: methods of this project that no checkpoint is of.
        failed: trainings that have no scores, and why.
    """

    title: str
    spread: str
    threads: int
    results: Mapping[str, Result]
    rows: Sequence[Row]
    real: Sequence[Row]
    inversions: Sequence[InversionRow]
    training: Mapping[str, Training | None]
    absent: Sequence[str]
    failed: Mapping[str, str]
    restored: Sequence[RestorationRow] = ()

    def repaired(self) -> list[Repaired]:
        """What the restorations' rows were made of: all that did not fail, the rows beside last."""
        return repaired(self.results)

    def first(self, split: str) -> Measured:
        """Any score against a split; all have its protocol."""
        return next(m for result in self.results.values() for m in result.measured if m.protocol.reference == split)


def repaired(results: Mapping[str, Result]) -> list[Repaired]:
    """All restorations that did not fail, those of no method last."""
    made = [one for result in results.values() for one in result.restored if not isinstance(one, str)]
    return [*made, *next(iter(results.values())).unrestored]


def spread_over(plan: Plan) -> str:
    """What the deviations of a plan's scores are over; empty where there is one score of each."""
    trainings, ranges = len(plan.training_seeds or [None]), plan.seed_ranges
    return listed([f"{n} {what}" for n, what in ((trainings, "trainings"), (ranges, "ranges of seeds")) if n > 1], "x")


def listed(items: Iterable[object], last: str = "and") -> str:
    """a, b and c."""
    texts = [str(item) for item in items]
    return f" {last} ".join(filter(None, [", ".join(texts[:-1]), texts[-1]])) if texts else ""


def protocol_in_words(findings: Findings) -> list[str]:
    """How the scores were made, a sentence or two each."""
    measured = [m for result in findings.results.values() for m in result.measured]
    sources = [m.protocol.source for m in measured]
    train, test = (findings.first(split).protocol for split in ("train", "test"))
    seeds = list(dict.fromkeys(s.seeds for s in sources))

    def each(name: str) -> str:
        return listed(dict.fromkeys(getattr(s, name) for s in sources), "or")

    hashes = [train.features_sha256, *filter(None, train.judges_sha256.split(","))]
    others = " The others are of the same recipe, from other seeds; the first one's numbers stand in the main tables."
    return [
        f"Images: against the training split, {train.images:,} generated images and {train.reference_images:,} real "
        f"ones enter a distance, against the test split {test.images:,} and {test.reference_images:,}. Numbers that "
        f"need no real images are of {train.images_alone:,} generated ones. Distances are biased in the number of "
        f"images, so that numbers against different splits do not compare.",
        f"Seeds: each score is repeated over {len(seeds)} range{'s' * (len(seeds) > 1)} of seeds, {listed(seeds)}, the "
        f"same for every method; an image depends on its seed alone. "
        + f"± is the sample standard deviation over {findings.spread}. " * bool(findings.spread)
        + "A method is trained once: what another training would give is not in its ±."
        * ("trainings" not in findings.spread),
        f"Judge{'s' * (len(hashes) > 1)}: features of {train.features}, weights of SHA-256 {listed(hashes)}; "
        f"resize of the images: {train.resize}.{others * (len(hashes) > 1)}",
        f"Images become integers by {train.quantisation}.",
        f"Data: SHA-256 {next(iter(findings.results.values())).data_sha256} of both splits, the same for all.",
        f"Weights: the exponential moving average of each method (rate {each('ema_rate')}), in {each('dtype')}.",
        "NFE: evaluations of the network per image, counted by a hook on the network while it generates; nothing is "
        "computed from the number of steps.",
        f"Time: wall-clock milliseconds per image in batches of {each('batch_size')} on {each('device')}, one process "
        f"with {findings.threads} thread{'s' * (findings.threads > 1)}, the judge not counted: the median over the "
        "batches after a warm-up batch, and over the ranges of seeds the median again. What else the machine did "
        "meanwhile is not known.",
        f"Libraries: {listed(dict.fromkeys(m.protocol.libraries for m in measured), 'or')}.",
    ]


def sampling_table(findings: Findings) -> tuple[list[str], list[list[str]]]:
    """Head and rows: how the images of each row were made."""
    head = [
        "method",
        "module",
        "levels or sampler",
        "evaluations asked for",
        "counted",
        "images of training",
        "EMA rate",
    ]
    rows = []
    for name, result in findings.results.items():
        by_steps = {m.steps: m.protocol.source for m in reversed(result.measured)}
        for steps, source in reversed(by_steps.items()):
            row = [name, result.pictures.module, source.sampling or "the method's own, see its configuration"]
            row += [str(steps), f"{source.nfe:g}", f"{source.images_seen:,}", f"{source.ema_rate:g}"]
            rows.append(row)
    return head, rows


def what_is_missing(findings: Findings) -> list[str]:
    """What a reader may look for and does not find, and why."""
    return [
        *(f"{name} has no scores: {reason}." for name, reason in findings.failed.items()),
        *_evaluations(findings),
        *_training(findings),
        *_inversions(findings),
        *_restorations(findings),
        *_numbers(findings),
        *([f"Methods of this project that are not compared here: {listed(findings.absent)}."] * bool(findings.absent)),
    ]


def _evaluations(findings: Findings) -> Iterator[str]:
    asked = {m.steps for result in findings.results.values() for m in result.measured}
    for name, result in findings.results.items():
        refused = result.pictures.refused
        if refused:
            reason = next(iter(refused.values()))
            yield f"{name}: no sampler of NFE {listed(sorted(refused), 'or')} ({reason})."
        left = sorted(asked - {m.steps for m in result.measured} - refused.keys())  # type: ignore[type-var]
        if left:
            yield f"{name}: not scored at NFE {listed(left, 'or')}, which it has a sampler for: the plan does not ask."


def _training(findings: Findings) -> Iterator[str]:
    without = [name for name, training in findings.training.items() if training is None]
    if without:
        yield f"No training curve of {listed(without)}: no TensorBoard files with a loss lie beside the checkpoint."
    untimed = [name for name in findings.results if not _seconds(findings, name)]
    if untimed:
        yield f"No training time of {listed(untimed)}: the checkpoint does not hold it."


def _seconds(findings: Findings, name: str) -> float | None:
    return next(row.training_seconds for row in findings.rows if row.method == name)


def _inversions(findings: Findings) -> Iterator[str]:
    without = [name for name, result in findings.results.items() if not result.inversions]
    if without:
        yield f"No inversion pairs of {listed(without)}, which {'has' if len(without) == 1 else 'have'} no inversion."
    for name, result in findings.results.items():
        yield from (f"{name}: an inversion failed ({one})." for one in result.inversions if isinstance(one, str))


def _restorations(findings: Findings) -> Iterator[str]:
    if not findings.restored:
        return
    without = [name for name, result in findings.results.items() if not result.restored]
    if without:
        yield f"No restoration by {listed(without)}: no way of the plan is one of theirs."
    for name, result in findings.results.items():
        refused = dict.fromkeys(one for one in result.restored if isinstance(one, str))
        yield from (f"{name}: no {one}." for one in refused)


def _numbers(findings: Findings) -> Iterator[str]:
    names = dict.fromkeys(name for row in findings.rows for name in table_names(row))
    of_models = [name for name in names if not any(name in row.values for row in findings.real)]
    yield f"No {listed(['NFE', 'time', *of_models])} of real images, which no model made."
    for name in names:
        without = list(dict.fromkeys(row.method for row in findings.rows if name not in row.values))
        if without:
            told = [n for n in without if not findings.results[n].pictures.conditional]
            why = f": {listed(told)} cannot be told a class" if name.startswith("obeyed_") and told == without else ""
            yield f"No {name} of {listed(without)}{why}."
        broken = [
            f"{row.method} with {row.steps} against {row.reference}"
            for row in findings.rows
            if name in row.values and not math.isfinite(row.values[name].mean)
        ]
        if broken:
            yield f"{name} is not a finite number for {listed(broken)}."
    if not findings.spread:
        yield "No deviations: every number is of a single range of seeds."
