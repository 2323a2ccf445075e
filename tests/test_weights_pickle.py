"""EDM's pickles: read, and nothing in them run."""

import os
import pickle
import sys
import types
from collections import OrderedDict

import pytest
import torch
from recorded.weights import recorded

from main import main
from weights import edm
from weights.edm_pickle import read_pickle
from weights.table import WeightsError

SOURCE = "raise SystemExit('the stored source was run')"


class Persistent:
    """What torch_utils.persistence pickles in the place of a module: its class's source, and its state."""

    def __init__(self, name, state):
        self.meta = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": name, "state": state}

    def __reduce__(self):
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (self.meta,)


@pytest.fixture(autouse=True)
def persistence(monkeypatch):
    """A module of that name, whose function can be pickled, and must not be called."""

    def _reconstruct_persistent_obj(meta):
        raise SystemExit("a persistent object was made")

    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    module = types.ModuleType("torch_utils.persistence")
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj
    monkeypatch.setitem(sys.modules, "torch_utils", types.ModuleType("torch_utils"))
    monkeypatch.setitem(sys.modules, "torch_utils.persistence", module)


def nested(state):
    """Modules within modules of dotted names; those of ModuleDict are torch's own, as in EDM."""
    held = {"_parameters": OrderedDict(), "_buffers": OrderedDict(), "_modules": OrderedDict(), "training": False}
    inner = {}
    for key, value in state.items():
        first, _, rest = key.partition(".")
        if rest:
            inner.setdefault(first, {})[rest] = value
        elif first in ("freqs", "resample_filter"):
            held["_buffers"][first] = value
        else:
            held["_parameters"][first] = torch.nn.Parameter(value)
    held["_modules"].update((name, module(name, part)) for name, part in inner.items())
    return held


def module(name, state):
    if name in ("enc", "dec"):
        plain = torch.nn.ModuleDict()
        plain.__dict__.update(nested(state))
        return plain
    return Persistent("UNetBlock", nested(state))


def write(path, name="edm_ddpmpp_conditional", kind="EDMPrecond", **attributes):
    state = {key: value.float() for key, value in recorded(name)[0].items()}
    held = {**nested(state), "sigma_data": 0.5, "sigma_min": 0, "sigma_max": float("inf"), **attributes}
    content = {"ema": Persistent(kind, held), "loss_fn": Persistent("EDMLoss", {}), "dataset_kwargs": {"a": 1}}
    path.write_bytes(pickle.dumps(content))
    return state


def test_state_and_levels(tmp_path):
    state = write(tmp_path / "edm.pkl", sigma_min=0.01)
    read, levels, kind = read_pickle(tmp_path / "edm.pkl")
    assert kind == "EDMPrecond" and levels.known() == {"sigma_data": 0.5, "sigma_min": 0.01}
    assert set(read) == set(state) and all(torch.equal(read[key], value) for key, value in state.items())


@pytest.mark.slow
def test_import_and_sample(tmp_path, capsys):
    write(tmp_path / "edm.pkl")
    assert main(["import", "--from", "edm", str(tmp_path / "edm.pkl")]) == 0
    assert "DiffusionModule" in capsys.readouterr().out
    out = ["--out", str(tmp_path / "images"), "--seeds", "0-1", "--steps", "3", "--npz"]
    assert main(["sample", "--ckpt_path", str(tmp_path / "edm.ckpt"), *out]) == 0


def test_other_scalings_are_refused(tmp_path):
    write(tmp_path / "vp.pkl", kind="VPPrecond")
    with pytest.raises(WeightsError, match="VPPrecond"):
        edm.read_file(tmp_path / "vp.pkl")


class Call:
    """Pickled as a call."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


@pytest.mark.parametrize("where", ["ema", "beside", "tensor", "bytes"])
def test_no_call_is_made(tmp_path, where):
    made = tmp_path / "made"
    call = Call(os.mkdir, str(made))
    if where == "beside":
        content = {"ema": Persistent("EDMPrecond", nested({"a": torch.ones(2)})), "more": call}
    elif where == "ema":
        content = {"ema": call}
    elif where == "tensor":
        held = nested({})
        held["_parameters"]["a"] = call
        content = {"ema": Persistent("EDMPrecond", held)}
    else:
        held = nested({})
        held["_buffers"]["a"] = Tensor(Call(torch.storage._load_from_bytes, pickle.dumps(call)), 0, (1,), (1,))
        content = {"ema": Persistent("EDMPrecond", held)}
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(content))
    if where == "beside":
        assert list(read_pickle(tmp_path / "evil.pkl")[0]) == ["a"]
    else:
        with pytest.raises(WeightsError):
            read_pickle(tmp_path / "evil.pkl")
    assert not made.exists()


class Tensor(Call):
    """Pickled as torch pickles a tensor, with any storage, offset, size and stride."""

    def __init__(self, storage, offset, size, stride):
        super().__init__(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict())


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(0, (5,), (1,)), (1, (4,), (1,)), (0, (2,), (4,)), (-1, (2,), (1,)), (0, (10**12,), (0,)), (0, (2, 2), (1,))],
)
def test_no_element_lies_outside_the_stored_ones(tmp_path, offset, size, stride):
    held = nested({})
    storage = torch.arange(4.0).storage()
    held["_buffers"]["a"] = Tensor(storage, offset, size, stride)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"ema": Persistent("EDMPrecond", held)}))
    with pytest.raises(WeightsError, match="a cannot be read"):
        read_pickle(tmp_path / "a.pkl")


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps([1]), pickle.dumps({"ema": 3})])
def test_what_is_no_such_file_is_refused_in_a_line(tmp_path, capsys, content):
    (tmp_path / "a.pkl").write_bytes(content)
    assert main(["import", "--from", "edm", str(tmp_path / "a.pkl")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "a.ckpt").exists()
