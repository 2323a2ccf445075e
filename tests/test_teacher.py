"""A teacher by path: when it is read, what may be one, and what a start without it says and leaves behind."""

import os
import shutil

import pytest
import torch
import yaml
from small_runs import PAIRS_OF_A_TEACHER, config, fit

from lightning_modules.teacher import Teacher
from main import main


def test_a_teacher_is_read_when_needed_frozen_and_without_gradient(teacher):
    t = Teacher(teacher)
    assert t._denoise is None
    x = torch.zeros(2, 1, 8, 8, requires_grad=True)
    assert not t(x, 1.0).requires_grad
    assert not t.denoise.training and not any(p.requires_grad for p in t.denoise.parameters())


@pytest.mark.parametrize(
    ("path", "config_name"),
    [("runs/diffusion_cifar10/000/checkpoints/last.ckpt", "diffusion_cifar10"), ("nowhere.ckpt", "diffusion")],
)
def test_a_missing_teacher_is_one_line_that_names_the_command(path, config_name, tmp_path, capsys, monkeypatch):
    import yaml

    (tmp_path / "cd.yaml").write_text(yaml.safe_dump(config("CDModule", teacher=path)))
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", "cd.yaml"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"there is no teacher {path}" in err
    assert f"python main.py fit --config configs/{config_name}.yaml trains one" in err


def start(folder, content, capsys):
    """The exit code and the error of a fit in `folder`."""
    (folder / "start.yaml").write_text(yaml.safe_dump(content))
    options = ["--config", str(folder / "start.yaml"), "--trainer.default_root_dir", str(folder / "runs")]
    code = main(["fit", *options])
    return code, capsys.readouterr().err


def test_a_start_that_fails_takes_no_number(teacher, tmp_path, capsys):
    """The next run is 000, as configs that name it expect."""
    code, _ = start(tmp_path, config("CDModule", teacher=str(tmp_path / "none.ckpt")), capsys)
    assert code == 2 and not list(tmp_path.glob("runs/*/*"))
    assert fit(tmp_path, config("CDModule", images=64, teacher=teacher), name="start").name == "000"


def test_of_a_teachers_other_runs_the_newest_is_named(teacher, tmp_path, capsys):
    for number in ("001", "002"):
        (folder := tmp_path / "runs" / "diffusion" / number / "checkpoints").mkdir(parents=True)
        shutil.copy(teacher, folder / "last.ckpt")
    os.utime(tmp_path / "runs/diffusion/001/checkpoints/last.ckpt", (1, 1))
    missing = tmp_path / "runs/diffusion/000/checkpoints/last.ckpt"
    code, err = start(tmp_path, config("CDModule", teacher=str(missing)), capsys)
    assert code == 2 and err.count("\n") == 1
    assert f"--model.init_args.teacher {tmp_path}/runs/diffusion/002/checkpoints/last.ckpt" in err


def test_a_consistency_model_is_no_teacher(tmp_path, capsys):
    last = fit(tmp_path, config("CTModule", images=64)) / "checkpoints" / "last.ckpt"
    code, err = start(tmp_path, config("CDModule", teacher=str(last)), capsys)
    assert code == 2 and err.count("\n") == 1
    assert f"{last} holds a CTModule, which has no ODE to follow" in err


def test_velocities_start_no_posterior_mean(teacher, flow, tmp_path, capsys):
    """The same weights would mean something else, and training would go on without a word."""
    reflow = config("RectifiedFlowModule", teacher=teacher, pairs=PAIRS_OF_A_TEACHER)
    for content, path, student in ((config("CDModule", teacher=flow), flow, "ConsistencyDenoiser"),
                                   (reflow, teacher, "FlowDenoiser")):  # fmt: skip
        code, err = start(tmp_path, content, capsys)
        assert code == 2 and err.count("\n") == 1
        assert err.startswith(f"error: {path} holds a ") and f"a {student} cannot start" in err


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ({"width": 24}, "of another shape "),
        ({"depth": 2}, "it lacks network.first.1.bias"),
        ({"depth": 1, "width": 16}, None),
    ],
)
def test_a_network_that_does_not_fit_is_told_in_words(network, said, teacher, tmp_path, capsys):
    content = config("CDModule", images=64, teacher=teacher)
    content["model"]["init_args"]["network"]["init_args"] |= network
    code, err = start(tmp_path, content, capsys)
    if said is None:
        assert code == 0
    else:
        assert code == 2 and err.count("\n") == 1 and f"the network of {teacher} does not fit: " in err
        assert said.replace("network.", "") in err


def test_another_standard_deviation_of_the_data_is_refused(teacher, tmp_path, capsys):
    code, err = start(tmp_path, config("CDModule", teacher=teacher, sigma_data=0.7), capsys)
    assert code == 2 and "has sigma_data=0.5, and this run 0.7" in err
