"""Peak memory of one case: on a CPU in a process of its own, on a GPU as torch's allocator counts it."""

import multiprocessing
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import torch

Calls: TypeAlias = dict[str, Callable[[], Any]]

STEPS = 2  # the optimizer takes its memory in the first


def _resident() -> float:
    """The most memory that this process has held so far, MB."""
    status = Path("/proc/self/status")
    if status.is_file():  # on Linux ru_maxrss starts at what the parent process held
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1.024e-3
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def _measure(connection: Any, build: Callable[[], Callable[[], None]], threads: int) -> None:
    torch.set_num_threads(threads)
    before = _resident()
    step = build()
    for _ in range(STEPS):
        step()
    connection.send(_resident() - before)
    connection.close()


def peak_memory(build: Callable[[], Callable[[], None]], threads: int) -> float:
    """MB that building a case and taking its steps adds to the process, on a CPU.

    Args:
        build: makes the step; it must be picklable.
        threads: of torch, in the new process.

    Raises:
        RuntimeError: the process failed.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(theirs, build, threads))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise RuntimeError("the process whose memory was measured failed; what it said is above") from None
    finally:
        process.join()


def gpu_peak_memory(build: Callable[[], Calls], device: torch.device) -> tuple[Calls, float]:
    """What was built, and MB that a case holds at most in its steps, of what torch allocates on a GPU.

    The first step, which compiles and takes the optimizer's memory, is not counted but for what it leaves.

    Args:
        build: makes the calls, the training step among them as "step".
        device: the GPU; what is allocated on it before is not counted.
    """
    before = torch.cuda.memory_allocated(device)
    calls = build()
    calls["step"]()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    for _ in range(STEPS):
        calls["step"]()
    torch.cuda.synchronize(device)
    return calls, (torch.cuda.max_memory_allocated(device) - before) / 1e6
