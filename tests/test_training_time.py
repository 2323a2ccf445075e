"""The seconds spent in training are in the checkpoint, over all parts of a run."""

import torch
from small_runs import config, fit
from test_resume import middle_and_last, resumed_from

from lightning_modules import run
from lightning_modules.checkpoint import load_module, read_checkpoint


def test_the_clock(monkeypatch):
    """Neither the sanity check nor validation counts, nor what comes after the end."""
    now = 0.0
    monkeypatch.setattr(run.time, "perf_counter", lambda: now)
    clock = run.MeasureTime()
    clock.on_load_checkpoint(None, None, {"training_seconds": 1000.0})

    def then(hook, seconds):
        nonlocal now
        now += seconds
        if hook:
            getattr(clock, hook)(None, None)
        checkpoint = {}
        clock.on_save_checkpoint(None, None, checkpoint)
        return checkpoint["training_seconds"] - 1000

    assert then("on_validation_start", 1) == 0  # the sanity check
    assert then("on_validation_end", 1) == 0
    assert then("on_train_start", 1) == 0
    assert then(None, 5) == 5
    assert then("on_validation_start", 2) == then("on_validation_end", 3) == 7
    assert then("on_train_end", 4) == then(None, 9) == 11


def test_a_resumed_run_goes_on_from_its_seconds(tmp_path):
    middle, last = middle_and_last(fit(tmp_path, config(images=256)))
    before = read_checkpoint(middle)["training_seconds"]
    assert 0 < before < last["training_seconds"] < 120
    resumed = resumed_from(middle, tmp_path)
    assert resumed["training_seconds"] > before
    (path,) = (tmp_path / "resumed").glob("*/*/checkpoints/last.ckpt")
    assert load_module(path).training_seconds == resumed["training_seconds"]


def test_an_old_checkpoint_counts_as_no_seconds(tmp_path):
    path = fit(tmp_path, config(images=128)) / "checkpoints" / "last.ckpt"
    old = read_checkpoint(path)
    del old["training_seconds"]
    torch.save(old, tmp_path / "old.ckpt")
    assert load_module(tmp_path / "old.ckpt").training_seconds == 0.0
    assert resumed_from(tmp_path / "old.ckpt", tmp_path, "--model.init_args.total_images=192")["training_seconds"] > 0
