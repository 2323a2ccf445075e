"""A run that names no precision gets bfloat16 where the machine has instructions for it, and float32 elsewhere."""

import pytest
import torch
import yaml
from small_runs import config, fit

from cli.precision import cpu_computes_bfloat16, fastest_precision, is_slow


def machine(monkeypatch, *, gpu=False, gpu_bf16=False, **capabilities):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: gpu_bf16)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx2": True, "avx512_f": False, "avx512_bf16": False, "amx_bf16": False, "cpu_name": "AMD EPYC"}, False),
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({}, False),
    ],
)
def test_of_a_cpu(monkeypatch, capabilities, expected):
    machine(monkeypatch, **capabilities)
    assert cpu_computes_bfloat16() == expected
    for accelerator in ("cpu", "auto", None):
        assert fastest_precision(accelerator) == ("bf16-mixed" if expected else "32-true")
        assert is_slow("bf16-mixed", accelerator) != expected
        assert not is_slow("32-true", accelerator)


def test_of_a_pytorch_that_cannot_tell(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not cpu_computes_bfloat16()


@pytest.mark.parametrize("bf16", [True, False])
def test_of_a_gpu(monkeypatch, bf16):
    machine(monkeypatch, gpu=True, gpu_bf16=bf16, avx512_bf16=not bf16)
    for accelerator in ("gpu", "cuda", "auto", None):
        assert fastest_precision(accelerator) == ("bf16-mixed" if bf16 else "32-true")
    assert fastest_precision("cpu") == ("32-true" if bf16 else "bf16-mixed")
    assert fastest_precision("mps") == "32-true"


@pytest.mark.parametrize(("bf16", "asked", "expected", "noted"), [
    (True, None, "bf16-mixed", False),
    (False, None, "32-true", False),
    (False, "bf16-mixed", "bf16-mixed", True),
    (True, "32-true", "32-true", False),
])  # fmt: skip
def test_a_run_says_and_keeps_its_precision(monkeypatch, tmp_path, capsys, bf16, asked, expected, noted):
    machine(monkeypatch, avx512_bf16=bf16)
    content = config()
    content["trainer"].pop("precision")
    run = fit(tmp_path, content, *([] if asked is None else [f"--trainer.precision={asked}"]))
    printed = capsys.readouterr().out
    assert f"precision {expected}" in printed
    assert ("note: precision bf16-mixed is emulated" in printed) == noted
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["precision"] == expected
