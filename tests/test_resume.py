"""A run that was stopped and resumed is the run that was not: bit for bit, on the CPU."""

import os
import shutil

import pytest
import torch
import yaml
from lightning.pytorch import Callback
from small_runs import ADVERSARIAL, DISTILLED, MODULES, PAIRS_OF_A_TEACHER, config, fit

from cli.checkpoints import KeepCheckpoints, VerifiedCheckpointIO
from lightning_modules.checkpoint import CheckpointError, read_checkpoint
from main import main

DECAY = {"class_path": "diffusion.curricula.CosineDecay", "init_args": {"warmup": 0.3}}


def leaves(value, name=""):
    """(name, leaf) of everything in a nested checkpoint."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from leaves(item, f"{name}.{i}")
    else:
        yield name, value


def assert_same_training_state(first, second):
    """Weights, averages, optimizer, schedule and position of two checkpoints are equal to the last bit."""
    for section in ("state_dict", "optimizer_states", "lr_schedulers", "images_seen", "global_step"):
        mine, theirs = dict(leaves(first[section], section)), dict(leaves(second[section], section))
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            same = torch.equal(value, theirs[name]) if isinstance(value, torch.Tensor) else value == theirs[name]
            assert same, name


def resumed_from(checkpoint, tmp_path, *options):
    """The last checkpoint of a run that goes on from another one, with nothing but the checkpoint given."""
    root = tmp_path / "resumed"
    assert main(["fit", "--ckpt_path", str(checkpoint), "--trainer.default_root_dir", str(root), *options]) == 0
    (last,) = root.glob("*/*/checkpoints/last.ckpt")
    return read_checkpoint(last)


def middle_and_last(run):
    """The path of the checkpoint before the last of a run, and the content of the last."""
    folder = run / "checkpoints"
    return sorted(folder.glob("images_*.ckpt"))[-2], read_checkpoint(folder / "last.ckpt")


def decayed(module):
    """Options that give every optimizer a schedule."""
    if module not in ADVERSARIAL:
        return {"lr_factor": DECAY}
    return {key: {**MODULES[module][key], "lr_factor": DECAY} for key in ("generator_player", "discriminator_player")}


@pytest.mark.parametrize("module", MODULES)
def test_exact(module, teacher, tmp_path):
    """Dropout, a learning-rate schedule and validation on the way, 1,600 images: more than an epoch."""
    given = {"teacher": teacher} if module in DISTILLED else {}
    content = config(module, images=1600, ema_rates=[0.99, 0.9], **given, **decayed(module))
    content["model"]["init_args"]["network"]["init_args"]["dropout"] = 0.2
    content["trainer"]["val_check_interval"] = 7
    content["checkpoints"]["every_n_images"] = 800
    middle, last = middle_and_last(fit(tmp_path, content))
    assert read_checkpoint(middle)["images_seen"] == 832 and last["images_seen"] == 1600
    assert_same_training_state(resumed_from(middle, tmp_path), last)


def test_exact_with_a_previous_flow(flow, tmp_path):
    """Reflow."""
    content = config("RectifiedFlowModule", teacher=flow, pairs=PAIRS_OF_A_TEACHER)
    middle, last = middle_and_last(fit(tmp_path, content))
    assert_same_training_state(resumed_from(middle, tmp_path), last)


def test_resuming_does_not_look_for_what_the_run_started_from(teacher, tmp_path):
    """The weights come from the checkpoint, and the file may be gone."""
    start = tmp_path / "start.ckpt"
    shutil.copy(teacher, start)
    middle, last = middle_and_last(fit(tmp_path, config("CTModule", init_from=str(start))))
    start.unlink()
    assert_same_training_state(resumed_from(middle, tmp_path), last)


def test_exact_with_a_target_network(tmp_path):
    """CT's target network and its rate are part of the state."""
    steps = {"class_path": "diffusion.curricula.SquareRootSteps", "init_args": {"s0": 2, "s1": 8}}
    rate = {"class_path": "diffusion.curricula.TargetRate", "init_args": {"steps": steps, "mu0": 0.9}}
    middle, last = middle_and_last(fit(tmp_path, config("CTModule", target_rate=rate)))
    assert_same_training_state(resumed_from(middle, tmp_path), last)


def test_exact_with_the_target_network_of_distillation(teacher, tmp_path):
    """CD's averages at a constant rate."""
    middle, last = middle_and_last(fit(tmp_path, config("CDModule", teacher=teacher, target_rate=0.9)))
    assert any(name.startswith("target.") for name in last["state_dict"])
    assert_same_training_state(resumed_from(middle, tmp_path), last)


def test_exact_with_pairs_made_in_advance(teacher, tmp_path):
    """KD's come from their file: the resumed run makes none, and stands at the same place in them."""
    pairs = {"class_path": "lightning_modules.teacher_pairs.CachedPairs"}
    pairs["init_args"] = {**PAIRS_OF_A_TEACHER["init_args"], "count": 100, "cache": str(tmp_path / "pairs")}
    middle, last = middle_and_last(fit(tmp_path, config("KDModule", teacher=teacher, pairs=pairs)))
    (made,) = (tmp_path / "pairs").iterdir()
    before = made.stat()
    assert_same_training_state(resumed_from(middle, tmp_path), last)
    (still,) = (tmp_path / "pairs").iterdir()
    assert (still, still.stat().st_ino, still.stat().st_mtime_ns) == (made, before.st_ino, before.st_mtime_ns)


def test_exact_with_labels_left_out(tmp_path):
    """Which images lose their label is a function of the position too."""
    content = config("DiffusionModule", label_dropout=0.3)
    content["data"]["init_args"]["conditional"] = True
    middle, last = middle_and_last(fit(tmp_path, content))
    assert_same_training_state(resumed_from(middle, tmp_path), last)


def test_exact_with_accumulated_gradients(tmp_path):
    """A checkpoint is never written in the middle of an accumulation: its gradients would be lost."""
    content = config(images=768)
    content["trainer"]["accumulate_grad_batches"] = 3
    content["checkpoints"]["every_n_images"] = 320
    middle, last = middle_and_last(fit(tmp_path, content))
    assert read_checkpoint(middle)["images_seen"] % 192 == 0
    assert_same_training_state(resumed_from(middle, tmp_path), last)


def test_a_finished_run_can_be_made_longer(tmp_path):
    run = fit(tmp_path, config(images=256))
    longer = resumed_from(run / "checkpoints" / "last.ckpt", tmp_path, "--model.init_args.total_images=384")
    assert longer["images_seen"] == 384 and longer["global_step"] == 6


def test_the_seed_of_another_run_gives_another_run(tmp_path):
    """The comparison above can fail."""
    middle, last = middle_and_last(fit(tmp_path, config()))
    with pytest.raises(AssertionError):
        assert_same_training_state(resumed_from(middle, tmp_path, "--seed_everything=5"), last)


def test_a_truncated_checkpoint_is_refused_and_the_previous_one_is_named(tmp_path, capsys):
    run = fit(tmp_path, config(images=256))
    folder = run / "checkpoints"
    last, previous = folder / "last.ckpt", folder / "images_000000000192.ckpt"
    content = last.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"<html>"):
        last.write_bytes(damaged)  # a hard link: images_000000000256.ckpt is damaged too
        for command in (["fit"], ["test"], ["sample"], ["invert"]):
            capsys.readouterr()
            assert main([*command, "--ckpt_path", str(last)]) == 2
            err = capsys.readouterr().err
            assert err.count("\n") == 1 and f"the previous one is {previous}" in err
    assert resumed_from(previous, tmp_path)["images_seen"] == 256


def test_a_flipped_bit_is_refused(tmp_path):
    """torch.load would take it without a word."""
    path = tmp_path / "a.ckpt"
    VerifiedCheckpointIO().save_checkpoint({"state_dict": {"w": torch.ones(1000)}}, path)
    content = bytearray(path.read_bytes())
    content[content.index(b"\x00\x00\x80\x3f" * 10) + 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="does not match its"):
        read_checkpoint(path)
    (tmp_path / "a.ckpt.sha256").unlink()
    assert not torch.equal(torch.load(path)["state_dict"]["w"], torch.ones(1000))
    with pytest.raises(CheckpointError, match="in it does not match its checksum"):  # the archive's own
        read_checkpoint(path)


@pytest.mark.parametrize("killed_in", ["torch.save", "os.fsync"])
def test_a_write_that_is_cut_short_leaves_the_old_checkpoint(killed_in, tmp_path, monkeypatch):
    path, io = tmp_path / "a.ckpt", VerifiedCheckpointIO()
    io.save_checkpoint({"state_dict": {"w": torch.zeros(1)}}, path)
    real = torch.save

    def cut_short(*args):
        if killed_in == "torch.save":
            real({"state_dict": {}}, args[1])
        raise KeyboardInterrupt

    monkeypatch.setattr(killed_in, cut_short)
    with pytest.raises(KeyboardInterrupt):
        io.save_checkpoint({"state_dict": {"w": torch.ones(1)}}, path)
    assert read_checkpoint(path)["state_dict"]["w"] == 0


def test_last_is_a_link_and_takes_no_room(tmp_path):
    folder = fit(tmp_path, config(images=256)) / "checkpoints"
    assert os.path.samefile(folder / "last.ckpt", folder / "images_000000000256.ckpt")


def test_a_run_that_diverges_stops_with_its_last_good_checkpoint(tmp_path, capsys):
    """The NaN guard, as the command line shows it: one line, exit code 1, and how to go on."""
    content = config(images=6400)
    content["checkpoints"]["every_n_images"] = 64
    content["trainer"]["callbacks"] = None
    (tmp_path / "nan.yaml").write_text(yaml.safe_dump(content))
    options = ["--model.init_args.optimizer.init_args.lr=1e38", "--trainer.default_root_dir", str(tmp_path / "runs")]
    assert main(["fit", "--config", str(tmp_path / "nan.yaml"), *options]) == 1
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "steps in a row had a non-finite gradient" in errors[0]
    (last,) = (tmp_path / "runs").glob("*/*/checkpoints/last.ckpt")
    assert f"fit --ckpt_path {last}" in out
    assert read_checkpoint(last)["images_seen"] < 6400


def test_an_exception_in_a_step_writes_no_checkpoint(tmp_path, monkeypatch):
    """A step may have been taken by half; only the ones written between steps are kept."""

    def broken(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == 5:
            raise KeyError("broken")

    monkeypatch.setattr(Callback, "on_train_batch_end", broken)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config()))
    with pytest.raises(KeyError):
        main(["fit", "--config", str(tmp_path / "c.yaml"), "--trainer.default_root_dir", str(tmp_path / "runs")])
    assert {p.name for p in tmp_path.glob("runs/*/*/checkpoints/images_*.ckpt")} == {
        "images_000000000128.ckpt",
        "images_000000000256.ckpt",
    }


def test_few_are_kept(tmp_path):
    content = config(images=512)
    content["checkpoints"] = {"every_n_images": 64, "keep": 3}
    names = sorted(p.name for p in (fit(tmp_path, content) / "checkpoints").glob("images_*.ckpt"))
    assert names == [f"images_{n:012d}.ckpt" for n in (384, 448, 512)]
    with pytest.raises(ValueError, match="keep=1"):
        KeepCheckpoints(keep=1)
    with pytest.raises(ValueError, match="every_n_images=0"):
        KeepCheckpoints(every_n_images=0)
