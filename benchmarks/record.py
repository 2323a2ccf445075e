"""What a benchmark writes beside its table: the command, the commit, the machine, and the numbers."""

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch


def machine(device: torch.device) -> dict[str, Any]:
    """What a timing depends on beside the code."""
    model = platform.processor()
    information = Path("/proc/cpuinfo")
    if information.is_file():
        lines = information.read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def commit() -> str:
    """The commit of this repository, with a + where the tree differs from it."""
    folder = Path(__file__).parent
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=folder, capture_output=True, text=True)
    dirty = subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=folder, capture_output=True)
    return (head.stdout.strip() or "unknown") + ("+" if dirty.returncode else "")


def rounded(value: Any) -> Any:
    """Numbers to four digits, for a small file."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def record(
    path: Path,
    benchmark: str,
    argv: Sequence[str] | None,
    content: dict[str, Any],
    device: torch.device | None = None,
    private: Iterable[Path | None] = (),
) -> None:
    """Write a result as JSON.

    Args:
        path: the file; its folder is made.
        benchmark: the module's name, as in `python -m benchmarks.NAME`.
        argv: the words of its command line; None for those of this process.
        content: the numbers.
        device: where it ran; None for the CPU.
        private: a user's own paths, which are no result and are written as PATH; `path` is one.
    """
    own = {str(word) for word in (path, *private) if word}
    words = ["PATH" if word in own else word for word in (sys.argv[1:] if argv is None else argv)]
    head = {
        "command": shlex.join(["python", "-m", f"benchmarks.{benchmark}", *words]),
        "commit": commit(),
        "machine": machine(device or torch.device("cpu")),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rounded(head | content), indent=1) + "\n")
