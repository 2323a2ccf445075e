"""`sample --sampler NAME --sampler.ARGUMENT VALUE` and `--guidance`."""

import inspect
import re

import numpy as np
import pytest
import torch
from small_runs import config, fit

from cli.sampler_options import SAMPLERS, read_sampler, split_sampler_options
from diffusion import ode_samplers, sde_samplers
from diffusion.grids import GivenLevels, KarrasGrid, VPGrid
from diffusion.guidance import Guidance
from diffusion.ode_samplers import DEIS, Euler, Heun, Sampler
from diffusion.sde_samplers import DDIM
from lightning_modules import load_module
from main import main


@pytest.fixture(scope="module")
def guidable(tmp_path_factory):
    """A checkpoint of a class-conditional diffusion run with label dropout, which tells its classes apart."""
    content, folder = config("DiffusionModule", 128, label_dropout=0.2), tmp_path_factory.mktemp("edm")
    content["data"]["init_args"]["conditional"] = True
    checkpoint = torch.load(fit(folder, content) / "checkpoints" / "last.ckpt", weights_only=True)
    generator = torch.Generator().manual_seed(0)
    for value in checkpoint["state_dict"].values():  # hardly trained, it gives the same for every class
        if value.is_floating_point():
            value.add_(0.3 * torch.randn(value.shape, generator=generator))
    torch.save(checkpoint, folder / "guidable.ckpt")
    return str(folder / "guidable.ckpt")


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    run = fit(tmp_path_factory.mktemp("rf"), config("RectifiedFlowModule", 128), name="rf")
    return str(run / "checkpoints" / "last.ckpt")


@pytest.fixture(scope="module")
def consistency(tmp_path_factory):
    return str(fit(tmp_path_factory.mktemp("ct"), config("CTModule", 128), name="ct") / "checkpoints" / "last.ckpt")


def generate(ckpt, folder, *options):
    """The exit code of `sample`, and its images where there are any."""
    code = main(["sample", "--ckpt_path", ckpt, "--seeds", "0-2", "--npz", "--no-grid", "--out", str(folder), *options])
    return code, np.load(folder / "samples.npz")["arr_0"].astype(int) if code == 0 else None


def test_the_help_names_every_sampler(capsys):
    """The list stands in the help as text, so that no torch is needed; here it is held to the classes."""
    classes = {
        name
        for module in (ode_samplers, sde_samplers)
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, Sampler) and not inspect.isabstract(value)
    }
    assert classes == set(SAMPLERS) and len(SAMPLERS) == len(classes)
    assert main(["sample", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"\b{name}\b", text) for name in SAMPLERS) and "--guidance W" in text


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_by_its_name(guidable, name, tmp_path, capsys):
    code, images = generate(guidable, tmp_path, "--sampler", name, "--steps", "5")
    assert code == 0 and images.shape == (3, 8, 8, 1)
    assert f"3 images in {tmp_path}: {name}, 5 network evaluations each (counted)" in capsys.readouterr().out


def test_the_default_is_the_modules_own(guidable, tmp_path, capsys):
    _, own = generate(guidable, tmp_path)
    assert "Heun, 35 network evaluations each (counted)" in capsys.readouterr().out
    assert np.array_equal(own, generate(guidable, tmp_path, "--sampler=Heun")[1])
    churned = generate(guidable, tmp_path, "--sampler", "Heun", "--sampler.s_churn", "40")[1]
    assert not np.array_equal(own, churned)


def test_arguments_and_files(tmp_path):
    def parsed(*args):
        rest, taken = split_sampler_options(["--seeds", "0", *args, "--steps=3"])
        assert rest == ["--seeds", "0", "--steps=3"]
        return read_sampler(taken)

    assert parsed("--sampler", "Heun", "--sampler.s_churn", "40") == Heun(s_churn=40.0)
    assert parsed("--sampler=Euler", "--sampler.grid", "KarrasGrid", "--sampler.grid.rho=3") == Euler(KarrasGrid(3.0))
    sampler = parsed("--sampler", "DEIS", "--sampler.degree", "2", "--sampler.variable", "VPGrid")
    assert sampler == DEIS(degree=2, variable=VPGrid())
    levels = parsed("--sampler", "Euler", "--sampler.grid", "GivenLevels", "--sampler.grid.schedules", "[[80, 2, 0.3]]")
    assert levels == Euler(GivenLevels([[80.0, 2.0, 0.3]]))
    path = tmp_path / "churned.yaml"
    path.write_text("class_path: diffusion.ode_samplers.Heun\ninit_args: {s_churn: 3, s_noise: 1.01}\n")
    assert parsed("--sampler", str(path)) == Heun(s_churn=3.0, s_noise=1.01)
    assert parsed("--sampler", str(path), "--sampler.s_churn", "5") == Heun(s_churn=5.0, s_noise=1.01)


def test_a_rectified_flow_takes_them_too(flow, tmp_path, capsys):
    assert generate(flow, tmp_path, "--sampler", "DPMSolverPP2M", "--steps", "4")[0] == 0
    assert "DPMSolverPP2M, 4 network evaluations each (counted)" in capsys.readouterr().out


def test_guidance(guidable, tmp_path, capsys):
    options = ["--sampler", "Euler", "--class", "3", "--steps"]
    plain = generate(guidable, tmp_path, *options, "6")[1]
    guided = generate(guidable, tmp_path, *options, "6", "--guidance", "3")[1]
    assert "Euler, guidance 3, 12 network evaluations each (counted)" in capsys.readouterr().out
    assert not np.array_equal(plain, guided)
    assert np.array_equal(plain, generate(guidable, tmp_path, *options, "6", "--guidance", "1")[1])
    assert "guidance 1, 6 network evaluations" in capsys.readouterr().out
    inside = sum(0.2 < sigma <= 5.0 for sigma in Euler().levels(6))
    generate(guidable, tmp_path, *options, "6", "--guidance", "3", "--guidance_interval", "0.2", "5")
    assert 0 < inside < 6 and f"guidance 3, {6 + inside} network evaluations" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sampler", "Heum"], "--sampler Heum: there is no such sampler; did you mean Heun? (Euler, Heun, "),
        (["--sampler", "Sampler"], "there is no such sampler"),
        (["--sampler"], "--sampler needs a value"),
        (["--sampler", "--steps", "3"], "--sampler needs a value"),
        (["--sampler.s_churn", "3"], "--sampler.s_churn needs --sampler NAME"),
        (["--sampler", "Heun", "--sampler.s_chrn", "3"], "has no argument s_chrn; did you mean s_churn?"),
        (["--sampler", "Heun", "--sampler.s_churn", "much"], "float expected, not much"),
        (["--sampler", "Heun", "--sampler.s_churn=-3"], "s_churn=-3.0"),
        (["--sampler", "DDIM", "--sampler.eta", "2"], "eta=2.0: it lies in [0, 1]"),
        (["--sampler", "Heun", "--sampler.grid", "KarasGrid"], "KarrasGrid?"),
        (["--sampler", "Heun", "--steps", "4"], "steps=4: Heun takes 1, 3, 5, ... evaluations"),
        (["--sampler", "os.system"], "os.system may not stand in a config"),
        (["--sampler", "elsewhere.Heun"], "elsewhere.Heun is outside the allowed packages"),
        (["--sampler", "networks.MLP"], "networks.MLP"),
        (["--sampler", "nowhere.yaml"], "--sampler nowhere.yaml: there is no such file"),
        (["--guidance", "-1"], "weight=-1.0"),
        (["--guidance_interval", "0", "1"], "--guidance_interval needs --guidance W"),
        (["--guidance", "2", "--guidance_interval", "5", "1"], "sigma_low=5.0"),
    ],
)
def test_wrong_use_is_one_line(guidable, options, message, tmp_path, capsys):
    assert generate(guidable, tmp_path / "out", *options)[0] == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and message in err
    assert not (tmp_path / "out" / "samples.npz").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("class_path: os.system\n", "os.system may not stand in a config"),
        ("a: [", "it cannot be read as YAML"),
        ("s_churn: 3\n", "it must hold class_path"),
    ],
)
def test_a_bad_file_is_one_line(guidable, content, message, tmp_path, capsys):
    (tmp_path / "sampler.yaml").write_text(content)
    assert generate(guidable, tmp_path, "--sampler", str(tmp_path / "sampler.yaml"))[0] == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and message in err


def test_other_models_take_no_sampler(consistency, flow, tmp_path, capsys):
    assert generate(consistency, tmp_path, "--sampler", "Heun")[0] == 2
    assert "--sampler Heun: it solves the equation of a diffusion model" in (err := capsys.readouterr().err)
    assert "a CTModule has its own way to sample" in err and err.count("\n") == 1
    for ckpt, name in ((consistency, "CTModule"), (flow, "RectifiedFlowModule")):
        assert generate(ckpt, tmp_path, "--guidance", "2")[0] == 2
        assert f"--guidance 2: a {name} cannot be guided" in capsys.readouterr().err


def test_guidance_of_a_model_trained_with_every_label_is_refused(tmp_path, capsys):
    """An older checkpoint does not say how it was trained: it was, with every label."""
    content = config("DiffusionModule", 128)
    content["data"]["init_args"]["conditional"] = True
    last = fit(tmp_path, content) / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    for name in ("label_dropout", "sampler", "guidance"):
        checkpoint["hyper_parameters"].pop(name, None)
    torch.save(checkpoint, tmp_path / "older.ckpt")
    for path in (last, tmp_path / "older.ckpt"):
        assert generate(str(path), tmp_path, "--guidance", "2")[0] == 2
        assert "guidance=2.0: this model was trained with label_dropout=0" in capsys.readouterr().err


def test_sampler_and_guidance_of_a_config(tmp_path, capsys):
    """They stand in the checkpoint's configuration, and are what it samples with."""
    sampler = {"class_path": "diffusion.sde_samplers.DDIM", "init_args": {"eta": 0.5}}
    content = config("DiffusionModule", 128, label_dropout=0.1, sampler=sampler, guidance={"weight": 2})
    content["data"]["init_args"]["conditional"] = True
    last = str(fit(tmp_path, content) / "checkpoints" / "last.ckpt")
    module = load_module(last)
    assert module.sampler == DDIM(eta=0.5) and module.guidance == Guidance(2.0)
    assert generate(last, tmp_path, "--steps", "4")[0] == 0
    assert "DDIM, guidance 2, 8 network evaluations each (counted)" in capsys.readouterr().out
