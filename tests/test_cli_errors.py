"""Wrong use of the command line is one line that names it and the nearest valid name, exit code 2, no traceback."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml
from small_runs import config

from main import COMMANDS, main

ROOT = Path(__file__).parents[1]


@pytest.fixture
def base(tmp_path):
    """Arguments of a run that would start."""
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(config()))
    return ["fit", "--config", str(tmp_path / "base.yaml"), "--trainer.default_root_dir", str(tmp_path / "runs")]


def error_of(args, capsys):
    """The one line that main prints, with exit code 2."""
    assert main(args) == 2
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1 and err[0].startswith("error: "), err
    return err[0]


TYPED = [
    (["--modle", "3"], "no option modle; did you mean model?"),
    (["--trainer.max_epoch", "3"], "no option trainer.max_epoch; did you mean trainer.max_epochs?"),
    (
        ["--model.init_args.total_image", "3"],
        "model: lightning_modules.BCMModule has no argument total_image; did you mean total_images?",
    ),
    (
        ["--model.init_args.network.init_args.widht", "3"],
        "model.init_args.network: networks.MLP has no argument widht; did you mean width?",
    ),
    (["--model.init_args.total_images", "abc"], "model.init_args.total_images: int expected, not abc"),
    (["--trainer.max_steps", "ten"], "trainer.max_steps: int expected, not ten"),
    (["--model", "BCNModule"], "no class BCNModule; did you mean lightning_modules.BCMModule?"),
    (["--data", "DigitDataModule"], "no class DigitDataModule; did you mean datamodules.DigitsDataModule?"),
    (["--data.init_args.batch_size", "0"], "batch_size=0"),
    (["--model.init_args.sigma_min", "-1"], "sigma_min=-1.0"),
    (["--model.init_args.network.init_args.dropout", "2"], "dropout"),
    (["--model.init_args.optimizer.init_args.lr", "-1"], "Invalid learning rate: -1.0"),
    (["--model.init_args.init_from", "nowhere.ckpt"], "there is no checkpoint nowhere.ckpt"),
    (["--checkpoints.keep", "1"], "keep=1"),
    (["--trainer.accelerator", "abacus"], "abacus"),
    (["--inception_weights", "3", "--scores.steps", "[0]"], "steps=[0]"),  # a short name of scores.inception_weights
    (["--allow-import"], "--allow-import needs the name of a package"),
    (["--allow-import", "jsonargparse"], "--allow-import jsonargparse"),
]


@pytest.mark.parametrize(("args", "expected"), TYPED, ids=[" ".join(args) for args, _ in TYPED])
def test_typed(args, expected, base, capsys):
    assert expected in error_of([*base, *args], capsys)


WRITTEN = [
    ("modle: 3", "no option modle; did you mean model?"),
    ("trainer: {max_epoch: 3}", "no option trainer.max_epoch; did you mean trainer.max_epochs?"),
    (
        "model: {init_args: {pairs: {init_args: {steps: {init_args: {s00: 3}}}}}}",
        "pairs.init_args.steps: diffusion.curricula.DoublingSteps has no argument s00; did you mean s0?",
    ),
    (
        "model: {init_args: {network: {init_args: {width: abc}}}}",
        "model.init_args.network.init_args.width: int expected, not abc",
    ),
    ("trainer: {devices: {a: 1}}", "trainer.devices: list[int] or str or int expected"),
    (
        "model: {class_path: lightning_modules.BCNModule}",
        "no class lightning_modules.BCNModule; did you mean lightning_modules.BCMModule?",
    ),
    (
        "model: {init_args: {distance: {class_path: diffusion.distancess.PseudoHuber}}}",
        "no class diffusion.distancess.PseudoHuber; did you mean diffusion.distances.PseudoHuber?",
    ),
    (
        "model: {class_path: lightning_module.BCMModule}",
        "outside the allowed packages; did you mean lightning_modules.BCMModule?",
    ),
    ("model: {class_path: networks.MLP}", "networks.MLP does not correspond to a subclass of LightningModule"),
    ("data: data/nowhere.yaml", "data: there is no file data/nowhere.yaml"),
    ("model: {init_args: {network: network/nowhere.yaml}}", "there is no file network/nowhere.yaml"),
    ("a: [1", "flow sequence"),
]


@pytest.mark.parametrize(("text", "expected"), WRITTEN, ids=[text for text, _ in WRITTEN])
def test_written(text, expected, base, tmp_path, capsys):
    (tmp_path / "wrong.yaml").write_text(text)
    assert expected in error_of([*base, "--config", str(tmp_path / "wrong.yaml")], capsys)


def test_nothing_is_kept_of_a_run_that_did_not_start(base, tmp_path, capsys):
    error_of([*base, "--data.init_args.batch_size", "0"], capsys)
    assert not (tmp_path / "runs").exists()


def test_missing(tmp_path, capsys):
    assert "data and model must be given: use --config" in error_of(["fit"], capsys)
    needs = error_of(
        ["fit", "--model", "lightning_modules.BCMModule", "--data", "datamodules.DigitsDataModule"], capsys
    )
    assert "lightning_modules.BCMModule needs network, pairs" in needs
    (tmp_path / "bcm.yaml").write_text("")
    assert "bcn.yaml; did you mean bcm.yaml?" in error_of(["fit", "--config", str(tmp_path / "bcn.yaml")], capsys)
    assert "test needs --ckpt_path FILE" in error_of(["test"], capsys)
    assert "there is no checkpoint nowhere.ckpt" in error_of(["test", "--ckpt_path", "nowhere.ckpt"], capsys)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["fitt"], "no command fitt; did you mean fit?"),
        (["sample"], "--ckpt_path"),
        (["sample", "--ckpt_path", "nowhere.ckpt"], "there is no checkpoint nowhere.ckpt"),
        (["sample", "--ckpt_path", "x", "--stepz", "2"], "no option --stepz; did you mean --steps?"),
        (["sample", "--ckpt_path", "x", "--steps", "0"], "whole number of at least 1"),
        (["sample", "--ckpt_path", "x", "--seeds", "5-3"], "not a list of seeds"),
        (["sample", "--ckpt_path", "x", "--device", "abacus"], "--device abacus"),
        (["predict", "--ckpt_path", "x", "--stepz", "2"], "no option --stepz"),
        (["invert", "--ckpt_path", "nowhere.ckpt"], "there is no checkpoint nowhere.ckpt"),
    ],
)
def test_other_commands(args, expected, capsys):
    assert expected in error_of(args, capsys)


def test_a_defect_keeps_its_traceback(base, monkeypatch):
    """What no user can mend is not made to look like wrong use."""

    def broken(*_):
        int("broken")  # a ValueError, but not one that was raised for the user

    monkeypatch.setattr("lightning_modules.BCMModule.training_step", broken)
    with pytest.raises(ValueError, match="invalid literal"):
        main(base)


def test_help_imports_nothing_heavy(tmp_path):
    """The top-level help and that of sample and invert are there before torch could be."""
    script = """
        import sys
        from main import main
        for args in (["--help"], [], ["fitt"], ["sample", "--help"], ["invert", "--help"], ["reference", "--help"]):
            main(args)
        heavy = {"torch", "numpy", "lightning", "jsonargparse", "yaml"} & set(sys.modules)
        assert not heavy, heavy
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in COMMANDS:
        assert f"\n  {command}" in done.stdout


@pytest.mark.parametrize(
    "args",
    [
        ["sample", "--ckpt_path", "torn.ckpt", "--seeds", "0"],
        ["fit", "--config", "torn.ckpt", "--model.init_args.nonsense", "1"],
    ],
)
def test_debug_shows_where_an_error_comes_from(args, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("torn.ckpt").write_bytes(b"no checkpoint")
    assert main(args) == 2
    plain = capsys.readouterr().err
    assert plain.count("\n") == 1 and plain.startswith("error: ")
    for words in ([*args, "--debug"], ["--debug", *args]):
        assert main(words) == 2
        told = capsys.readouterr().err
        assert told.startswith("Traceback (most recent call last):") and told.endswith(plain)
    assert main(args) == 2 and capsys.readouterr().err == plain
