"""Brings every method of a comparison to its checkpoint: by `fit` in a process of its own, or from a finished run."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cli.compare_plan import Plan, Training
from cli.errors import UsageError
from lightning_modules.checkpoint import read_checkpoint


@dataclass
class Trained:
    """What became of the trainings."""

    checkpoints: dict[Training, Path] = field(default_factory=dict)
    failed: dict[Training, str] = field(default_factory=dict)
    """Why, in one line."""


def train_all(plan: Plan, jobs: int, threads: int, say: Callable[[str], None] = print) -> Trained:
    """The last checkpoint of every training; what is not trained to its end is, `jobs` at a time.

    One that fails does not keep the others from their end.

    Raises:
        UsageError: a run that the plan names has no checkpoint.
    """
    trained = Trained()
    for name, entry in plan.methods.items():
        if entry.run is not None:
            trained.checkpoints[Training(name)] = _of_run(entry.run)
    waiting = [t for n in plan.order() if plan.methods[n].trained for t in plan.trainings(n)]
    running: dict[Future[Path], Training] = {}
    with ThreadPoolExecutor(jobs) as pool:
        while waiting or running:
            for training in list(waiting):
                given = plan.given(training)
                lost = [str(other) for other in given.values() if other in trained.failed]
                if lost:
                    waiting.remove(training)
                    trained.failed[training] = f"it needs {lost[0]}, which failed"
                elif len(running) < jobs and all(other in trained.checkpoints for other in given.values()):
                    waiting.remove(training)
                    paths = {option: trained.checkpoints[other] for option, other in given.items()}
                    running[pool.submit(_train, plan, training, paths, threads, say)] = training
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                training = running.pop(future)
                try:
                    trained.checkpoints[training] = future.result()
                except TrainingFailed as error:
                    trained.failed[training] = str(error)
                    say(f"{training}: {error}")
    return trained


class TrainingFailed(Exception):
    """Why, in one line."""


def _train(plan: Plan, training: Training, given: dict[str, Path], threads: int, say: Callable[[str], None]) -> Path:
    """The checkpoint of one training, whose options of checkpoints are given."""
    entry, folder, goal = plan.methods[training.name], plan.folder(training), plan.goal(training.name)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, lambda: say(f"{training}: another process trains it, waiting")) as lock:
        last = last_checkpoint(folder)
        seen = read_checkpoint(last)["images_seen"] if last else 0
        if last and seen >= goal:
            say(f"{training}: trained already, {last}")
            return last
        if last:
            say(f"{training}: training goes on at {seen:,} of {goal:,} images, {folder / 'log.txt'}")
            args = ["--ckpt_path", str(last)]
        else:
            say(f"{training}: training of {goal:,} images, {folder / 'log.txt'}")
            args = ["--config", str(plan.config(training.name)), *plan.options, *entry.options]
            args += [f"--{option}={path.absolute()}" for option, path in given.items()]
            if training.seed is not None:
                args.append(f"--seed_everything={training.seed}")
            if plan.total_images:
                args.append(f"--model.init_args.total_images={plan.total_images}")
        code = _fit([*args, f"--trainer.default_root_dir={folder}"], folder / "log.txt", threads, lock)
        last = last_checkpoint(folder)
        if code or last is None or read_checkpoint(last)["images_seen"] < goal:
            raise TrainingFailed(f"its training ended early (exit code {code}): {_last_line(folder / 'log.txt')}")
        return last


def last_checkpoint(folder: Path) -> Path | None:
    """The newest run's last checkpoint below a method's folder, None if there is none."""
    found = sorted(folder.glob("*/*/checkpoints/last.ckpt"))
    return found[-1] if found else None


@contextmanager
def locked(folder: Path, if_taken: Callable[[], None]) -> Iterator[int]:
    """Hold a folder's lock, a file descriptor; a child that inherits it goes on holding it when this process is killed.

    Args:
        folder: it exists.
        if_taken: called once if there is a wait.
    """
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if_taken()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


def _fit(args: list[str], log: Path, threads: int, lock: int) -> int:
    """Run `fit` and return its exit code."""
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
    with log.open("a") as file:
        command = [sys.executable, "-m", "main", "fit", *args, "--trainer.enable_progress_bar=false"]
        path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [environment.get("PYTHONPATH")])])
        environment["PYTHONPATH"] = path  # `main` is found from any folder
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment, pass_fds=(lock,), check=False
        ).returncode


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text().splitlines() if line.strip()]
    return lines[-1] if lines else f"{log} is empty"


def _of_run(run: str) -> Path:
    """The checkpoint of a run that the user names by its directory or by the file."""
    path = Path(run) / "checkpoints" / "last.ckpt" if Path(run).is_dir() else Path(run)
    if not path.is_file():
        raise UsageError(f"there is no checkpoint {path}")
    return path
