"""Brings every method of a comparison to its checkpoint: by `fit` in a process of its own, or from a finished run."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

from cli.compare_plan import Plan, entry_config
from cli.errors import UsageError
from lightning_modules.checkpoint import read_checkpoint


def checkpoints(plan: Plan, jobs: int, threads: int, say: Callable[[str], None] = print) -> dict[str, Path]:
    """The last checkpoint of every method; what is not trained to its end is, `jobs` at a time.

    Raises:
        UsageError: a training failed, or a run has no checkpoint; others that are under way end first.
    """
    done: dict[str, Path] = {}
    waiting = plan.order()
    running: dict[Future[Path], str] = {}
    with ThreadPoolExecutor(jobs) as pool:
        while waiting or running:
            ready = [n for n in waiting if all(other in done for other in plan.methods[n].checkpoints.values())]
            for name in ready[: jobs - len(running)]:
                waiting.remove(name)
                running[pool.submit(_checkpoint, plan, name, dict(done), threads, say)] = name
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(future)
                done[name] = future.result()
    return done


def _checkpoint(plan: Plan, name: str, done: dict[str, Path], threads: int, say: Callable[[str], None]) -> Path:
    """One method's."""
    entry = plan.methods[name]
    if entry.run is not None:
        return _of_run(entry.run)
    folder, goal = plan.folder(name), plan.goal(name)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, lambda: say(f"{name}: another process trains it, waiting")) as lock:
        last = last_checkpoint(folder)
        seen = read_checkpoint(last)["images_seen"] if last else 0
        if last and seen >= goal:
            say(f"{name}: trained already, {last}")
            return last
        if last:
            say(f"{name}: training goes on at {seen:,} of {goal:,} images, {folder / 'log.txt'}")
            args = ["--ckpt_path", str(last)]
        else:
            say(f"{name}: training of {goal:,} images, {folder / 'log.txt'}")
            args = ["--config", str(entry_config(entry)), *entry.options]
            args += [f"--{option}={done[other].absolute()}" for option, other in entry.checkpoints.items()]
            if plan.total_images:
                args.append(f"--model.init_args.total_images={plan.total_images}")
        code = _fit([*args, f"--trainer.default_root_dir={folder}"], folder / "log.txt", threads, lock)
        last = last_checkpoint(folder)
        if code or last is None or read_checkpoint(last)["images_seen"] < goal:
            raise UsageError(f"{name}: its training ended early (exit code {code}): {_last_line(folder / 'log.txt')}")
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
