"""kill -9 at random moments: whatever is resumed comes to the same weights, optimizers and averages, bit for bit.

pytest -m slow -n 0 tests/torture --kills 20 --kill_seed 0
"""

import random
import signal
import time

import pytest
from processes import FAMILIES, Run, last_of, quiet_options, until, write_config
from small_runs import config
from test_resume import assert_same_training_state

from lightning_modules.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow
STEPS, EVERY = 300, 10


@pytest.mark.parametrize("module", FAMILIES)
def test_killed_at_random_moments(module, kills, kill_seed, tmp_path, capsys):
    """A kill comes a random time after the process was started, or after a checkpoint was seen to be written."""
    content = config(module, images=64 * STEPS)
    content["model"]["init_args"]["network"]["init_args"]["dropout"] = 0.1
    content["checkpoints"]["every_n_images"] = 64 * EVERY
    path = write_config(tmp_path, content)
    whole = tmp_path / "whole"
    code, said = Run(quiet_options(path, whole), tmp_path / "whole.log").wait()
    assert code == 0, said
    expected = read_checkpoint(last_of(whole))
    seconds = expected["training_seconds"]
    assert expected["images_seen"] == 64 * STEPS

    moments = random.Random(f"{kill_seed} {module}")
    done, chains, positions = 0, 0, []
    while done < kills:
        directory = tmp_path / f"killed_{chains}"
        log, chains = tmp_path / f"killed_{chains}.log", chains + 1
        while True:
            last, run = last_of(directory), Run(quiet_options(path, directory), log)
            if done < kills:
                if moments.random() < 0.8:  # else in the middle of the start, or at its end
                    before = last.stat().st_mtime_ns if last.exists() else None
                    until(lambda last=last, before=before: last.exists() and last.stat().st_mtime_ns != before, run)
                time.sleep(moments.uniform(0, 2 * seconds / max(kills, 4)))
                run.signal(signal.SIGKILL)
            code, said = run.wait()
            if code == 0:
                break
            assert code == -signal.SIGKILL, said
            done += 1
            positions.append(read_checkpoint(last)["images_seen"] // 64 if last.exists() else 0)
        assert "cannot be read" not in said, said
        assert_same_training_state(read_checkpoint(last), expected)
    with capsys.disabled():
        print(f"\n{module}: {done} kills in {chains} runs (seed {kill_seed}); last checkpoints at steps {positions}")
