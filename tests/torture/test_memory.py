"""Memory, open files and processes stay as they are over 5,000 steps with 50 validations and 50 drawings.

pytest -m slow -n 0 -s tests/torture/test_memory.py
"""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from processes import Run, quiet_options, write_config
from small_runs import config

pytestmark = pytest.mark.slow
PAGE = os.sysconf("SC_PAGE_SIZE")


def reading(pid):
    """Resident memory, MB; open files; child processes; threads."""
    process = Path(f"/proc/{pid}")
    resident = int((process / "statm").read_text().split()[1]) * PAGE / 1e6
    children = sum(len((task / "children").read_text().split()) for task in (process / "task").iterdir())
    return resident, len(list((process / "fd").iterdir())), children, len(list((process / "task").iterdir()))


@pytest.mark.parametrize("module", ["BCMModule", "UFOGenModule"])
def test_flat(module, steps, tmp_path, capsys):
    """The first fifth is left out: allocators and caches fill. A leak of 1 kB a step would be 4 MB; the line fitted to
    what is left rises by less than 2 MB, every file is closed again, and no process is left over."""
    content = config(module, images=64 * steps)
    content["trainer"]["val_check_interval"] = steps // 50
    content["checkpoints"]["every_n_images"] = content["grids"]["every_n_images"] = 64 * (steps // 50)
    path, directory, readings = write_config(tmp_path, content), tmp_path / "run", []
    run = Run(quiet_options(path, directory), tmp_path / "log.txt")
    while run.alive():
        if list(directory.glob("checkpoints/last.ckpt")):  # it trains
            try:
                readings.append(reading(run.pid))
            except (FileNotFoundError, ProcessLookupError, IndexError):
                break
        time.sleep(0.1)
    code, said = run.wait()
    assert code == 0, said
    resident, files, children, threads = np.array(readings[len(readings) // 5 : -5]).T
    x = np.linspace(0, 0.8 * steps, len(resident))
    slope = np.polyfit(x, resident, 1)[0]
    with capsys.disabled():
        print(
            f"\n{module}: {steps} steps, {len(resident)} readings: {resident[0]:.1f} MB resident at a fifth of the run,"
            f" {resident[-1]:.1f} at its end, {1000 * slope:+.2f} kB a step (fitted); open files {files.min():.0f} to"
            f" {files.max():.0f}, {files[-1]:.0f} at the end; threads {threads.min():.0f} to {threads.max():.0f};"
            f" child processes at most {children.max():.0f}"
        )
    assert len(resident) > 50
    assert slope * 0.8 * steps < 2
    assert np.median(files[-20:]) <= np.median(files[:20]) and np.median(threads[-20:]) <= np.median(threads[:20])
    assert children.max() == 0
