"""A class path in a config or a checkpoint is code: only the allowed packages may be named."""

import sys

import jsonargparse
import pytest
import torch
import yaml
from small_runs import config, fit

from lightning_modules import load_module
from lightning_modules.allowed import restricted_imports
from lightning_modules.checkpoint import CheckpointError
from main import main


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A package outside this project, which leaves a trace when it is imported."""
    (tmp_path / "foreign_networks").mkdir()
    code = "from networks import MLP\n\n\nclass Foreign(MLP):\n    pass\n"
    (tmp_path / "foreign_networks" / "__init__.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    yield "foreign_networks"
    sys.modules.pop("foreign_networks", None)


def with_network(class_path):
    content = config(images=64)
    content["model"]["init_args"]["network"]["class_path"] = class_path
    return content


@pytest.mark.parametrize(
    "class_path", ["os.system", "subprocess.Popen", "builtins.exec", "torch.hub.load", "torch.load", "jsonargparse.CLI"]
)
@pytest.mark.parametrize("place", ["network", "distance", "callbacks"])
def test_code_that_runs_code_is_refused(class_path, place, tmp_path, capsys):
    content = config(images=64)
    if place == "callbacks":
        content["trainer"]["callbacks"] = [{"class_path": class_path, "init_args": {"args": "touch gone"}}]
    else:
        content["model"]["init_args"][place] = class_path
    (tmp_path / "evil.yaml").write_text(yaml.safe_dump(content))
    assert main(["fit", "--config", str(tmp_path / "evil.yaml")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and class_path in err


def test_a_foreign_package_is_refused_without_being_imported(foreign, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(with_network("foreign_networks.Foreign")))
    assert main(["fit", "--config", str(tmp_path / "c.yaml")]) == 2
    assert "--allow-import foreign_networks allows it" in capsys.readouterr().err
    assert foreign not in sys.modules


def test_a_foreign_package_can_be_allowed(foreign, tmp_path, capsys):
    run = fit(tmp_path, with_network("foreign_networks.Foreign"), "--allow-import", foreign)
    last = str(run / "checkpoints" / "last.ckpt")
    with pytest.raises(CheckpointError, match="outside the allowed packages"):
        load_module(last)
    assert type(load_module(last, allow=(foreign,)).denoiser.network).__name__ == "Foreign"
    assert main(["sample", "--ckpt_path", last, "--seeds", "0", "--out", str(tmp_path / "s")]) == 2
    assert (
        main(["sample", "--ckpt_path", last, "--seeds", "0", "--out", str(tmp_path / "s"), f"--allow-import={foreign}"])
        == 0
    )
    capsys.readouterr()
    assert main(["test", "--ckpt_path", last]) == 2
    assert "--allow-import foreign_networks" in capsys.readouterr().err


def test_a_config_cannot_allow_itself_anything(foreign, tmp_path, capsys):
    content = with_network("foreign_networks.Foreign") | {"allow_import": [foreign]}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(content))
    assert main(["fit", "--config", str(tmp_path / "c.yaml")]) == 2
    assert foreign not in sys.modules


def test_a_checkpoint_with_code_is_not_run(tmp_path):
    """weights_only=True: a pickled object other than tensors and plain values is refused."""

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "gone"), "w"))

    torch.save({"state_dict": {}, "hyper_parameters": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_module(tmp_path / "evil.ckpt")
    assert not (tmp_path / "gone").exists()


def test_a_function_in_a_checkpoints_hyper_parameters_is_refused(tmp_path):
    """A string may name a function where a callable is asked for; it is held to the same list."""
    run = fit(tmp_path, config(images=64))
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    checkpoint["hyper_parameters"]["distance"] = "os.system"
    torch.save(checkpoint, tmp_path / "evil.ckpt")
    with pytest.raises(CheckpointError, match=r"os\.system"):
        load_module(tmp_path / "evil.ckpt")


def test_the_restriction_ends_with_the_block():
    """A program that uses jsonargparse for itself is not held to this project's list."""
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--type", type=type)
    with restricted_imports(), pytest.raises(Exception, match="not allowed"):
        parser.parse_args(["--type=decimal.Decimal"])
    assert parser.parse_args(["--type=decimal.Decimal"]).type.__name__ == "Decimal"
