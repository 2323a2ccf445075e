"""`search-schedule`: the noise levels of few-step sampling that a checkpoint scores best with."""

import shlex
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cli.arguments import OneLineParser, file_to_write, positive
from cli.errors import UsageError, run_command
from cli.sample import add_checkpoint_options, find_device

if TYPE_CHECKING:
    import argparse

    from cli.level_score import LevelScore
    from evaluation.schedule_search import Evaluations, Levels

FIRST_SEED = 1_000_000
"""`test` generates from the seeds 0, 1, ..., so that its score of what was found is of images not searched with."""
TRIALS = 40


def parser() -> "OneLineParser":
    """The options of `search-schedule`."""
    p = OneLineParser(
        prog="main.py search-schedule",
        allow_abbrev=False,
        description="Find the noise levels of sampling with few network evaluations that minimise the Frechet distance "
        "(fd_digits, FID) of generated images to the training split. The first level is sigma_max. Ternary search adds "
        "one level of a grid at a time between those already found, and assumes that the score has one minimum there; "
        "Optuna moves all levels at once. Every score is kept in a file, so that an interrupted search goes on where "
        "it was. The result is a file for sample --schedule FILE and test --schedule FILE; with --inversion the levels "
        "of an inversion are searched in the same way, for the least error of training images made again from their "
        "noise, and the file is for invert --schedule FILE.",
    )
    add_checkpoint_options(p, batch_size=500)
    p.add_argument("--steps", type=positive, default=2, help="network evaluations, at least 2 (default: 2)")
    p.add_argument("--inversion", action="store_true", help="search the levels from image to noise instead")
    p.add_argument("--both_ways", action="store_true", help="of --inversion: the way back visits the levels too "
                   "(default: it is one evaluation)")  # fmt: skip
    p.add_argument("--method", choices=("ternary", "optuna"), default="ternary", help="default: ternary")
    p.add_argument("--grid", type=positive, default=40, help="points of the Karras grid from sigma_max to sigma_min, "
                   "for ternary search and --check (default: 40)")  # fmt: skip
    p.add_argument("--trials", type=positive, help=f"of Optuna (default: {TRIALS})")
    p.add_argument("--check", action="store_true", help="also score the grid around the result, each level moved alone "
                   "between its neighbours; the best of all is written")  # fmt: skip
    p.add_argument("--num_images", type=positive, help="images for each score (default: as many as test generates; 500 "
                   "of --inversion)")  # fmt: skip
    p.add_argument("--first_seed", type=positive, default=FIRST_SEED, help=f"the images' seeds are this and the next "
                   f"ones (default: {FIRST_SEED}; test uses 0, 1, ...)")  # fmt: skip
    p.add_argument("--data", help="a file such as configs/data/digits.yaml (default: the data of the checkpoint's run)")
    p.add_argument(
        "--inception_weights", help="file of Inception's weights, for images that are neither 8x8 nor 28x28 grey"
    )
    p.add_argument(
        "--cache", type=file_to_write, help="file of scores (default: schedule_search.json in the run's directory)"
    )
    p.add_argument("--out", type=file_to_write, help="file to write (default: schedule_STEPS_steps.yaml, of "
                   "--inversion inversion_STEPS_steps.yaml, in the run's directory)")  # fmt: skip
    return p


def search_schedule(args: Sequence[str]) -> int:
    """Run `search-schedule` and return the exit code."""
    return run_command(lambda: _search(parser().parse_args(args), args))


def _check(options: "argparse.Namespace") -> None:
    """Refuse what can be refused before anything is read."""
    if options.steps < 2:
        raise UsageError("--steps 1: a single evaluation starts at sigma_max, there is no level to search")
    if options.grid <= options.steps:
        raise UsageError(f"--grid {options.grid}: {options.steps} evaluations need at least {options.steps + 1} points")
    if options.num_images is not None and options.num_images < 10:
        raise UsageError(f"--num_images {options.num_images}: at least 10 are needed")
    if options.trials is not None and options.method != "optuna":
        raise UsageError("--trials is for --method optuna; ternary search ends by itself")
    if options.both_ways and not options.inversion:
        raise UsageError("--both_ways is of --inversion")
    if options.method == "optuna":
        from evaluation.schedule_search import import_optuna

        import_optuna()


def _search(options: "argparse.Namespace", args: Sequence[str]) -> None:
    from cli.quiet import quiet

    quiet()
    _check(options)
    from cli.data import load_data
    from cli.inversion_score import InversionLevelScore
    from cli.run_files import read_text, run_config
    from cli.schedule_file import level_range
    from cli.schedule_score import ScheduleScore
    from diffusion.noise import karras_grid
    from evaluation.dashboard_grids import is_planar
    from evaluation.schedule_search import Evaluations
    from lightning_modules.checkpoint import load_module

    device, allow, began = find_device(options.device), tuple(options.allow_import), time.monotonic()
    module: Any = load_module(options.ckpt_path, allow).to(device)
    if not options.inversion:
        level_range(module)  # refused before the data are read
    if is_planar(module):
        raise UsageError("levels are searched by a score of images, and these data are points")
    data = load_data(read_text(run_config(options.ckpt_path)), options.data, allow)
    score: LevelScore = (InversionLevelScore if options.inversion else ScheduleScore)(module, data, device, options)
    evaluations, own, (low, high) = Evaluations(score), score.own(options.steps), score.bounds
    grid = karras_grid(options.grid - 1, low, high).flip(0).tolist()

    print(f"protocol: {score.protocol}")
    beside = [f"1 evaluation {score.number(evaluations((high,)))}"]
    if own is not None:
        beside.append(f"the checkpoint's own levels {_scored(score, evaluations, own)}")
    found, assumed = _run(options, score, evaluations, grid, own)
    remarks = [f"beside it: {', '.join(beside)}", f"{options.method}: {_scored(score, evaluations, found)}", assumed]
    if options.check:
        remarks.append(_compare(score, evaluations, grid, found))
    best = evaluations.best(options.steps)
    if evaluations((high,)) <= evaluations(best):
        remarks.append(f"1 evaluation is no worse than {options.steps}: this checkpoint gains nothing by more")
    remarks += score.remarks(best)
    _write(options, args, module, score, best, evaluations(best), remarks, time.monotonic() - began)


def _scored(score: "LevelScore", evaluations: "Evaluations", levels: "Levels") -> str:
    return f"{score.text(levels)} ({score.number(evaluations(levels))})"


def _run(
    options: "argparse.Namespace",
    score: "LevelScore",
    evaluations: "Evaluations",
    grid: list[float],
    own: "Levels | None",
) -> tuple["Levels", str]:
    """The search itself: the levels, and what it assumes in words."""
    from evaluation.schedule_search import greedy_search, joint_search

    if options.method == "optuna":
        trials = options.trials or TRIALS
        start = own if own is not None and own[0] == grid[0] else None
        levels = joint_search(evaluations, grid[-1], grid[0], options.steps, trials, start=start)
        return levels, f"assumed: nothing; {trials} trials over continuous levels prove nothing either"
    found = greedy_search(evaluations, grid, options.steps)
    doubt = f"contradict it by {score.number(found.bump)}" if found.bump > 0 else "do not contradict it"
    more = "" if options.check else "; --check scores the grid around it"
    return found.levels, f"assumed: one minimum between fixed levels (unimodal); the points scored {doubt}{more}"


def _compare(score: "LevelScore", evaluations: "Evaluations", grid: list[float], found: "Levels") -> str:
    """Score the grid around the result, and tell how far the result is from its best, in words."""
    from evaluation.schedule_search import bump, grid_lines

    lines = list(grid_lines(grid, found))
    scores = [[evaluations(levels) for levels in line] for line in lines]
    best = min((levels for line in lines for levels in line), key=evaluations, default=found)
    gap = evaluations(found) - evaluations(best)
    better = (
        f"the best is {_scored(score, evaluations, best)}, lower by {score.number(gap)}"
        if gap > 0
        else "none is better"
    )
    height = max(map(bump, scores))
    shape = f"not unimodal, with a hill of {score.number(height)}" if height > 0 else "unimodal"
    return f"check: {sum(map(len, lines))} points of the grid, each level moved alone: {better} ({shape})"


def _write(
    options: "argparse.Namespace",
    args: Sequence[str],
    module: Any,
    score: "LevelScore",
    best: "Levels",
    value: float,
    remarks: list[str],
    seconds: float,
) -> None:
    """Write the schedule, and say what was found, where it is, and what to type next."""
    from cli.checkpoints import program, write_text
    from cli.report import duration
    from cli.run_files import run_directory

    kind = "inversion" if options.inversion else "schedule"
    out = options.out or run_directory(options.ckpt_path) / f"{kind}_{options.steps}_steps.yaml"
    chosen = f"--ckpt_path {shlex.quote(options.ckpt_path)} --schedule {shlex.quote(str(out))}"
    commands = [f"{program()} {use}" for use in score.uses(chosen)]
    headline = f"{score.text(best)}, {score.name} {score.number(value)}"
    about = [
        f"The best levels for {options.steps} network evaluations: {headline}",
        *remarks,
        f"protocol: {score.protocol}",
        f"checkpoint: {options.ckpt_path} (sha256 {score.checkpoint}), {module.images_seen:,} images seen",
        f"found by: {program()} search-schedule {shlex.join(args)}",
        *(f"use: {command}" for command in commands),
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, score.file(best, about))
    print(f"best:     {headline} ({score.rows} scores, {score.new} of them new, in {duration(seconds)})")
    for remark in remarks:
        print(f"          {remark}")
    print(f"scores:   {score.cache.path}\nschedule: {out}\nnext:")
    for command in commands:
        print(f"  {command}")
