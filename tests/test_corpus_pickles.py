"""Checkpoints that would run code when they are unpickled: refused in one line, and nothing is executed."""

import io
import os
import pickle
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from corpus import Corpus

GONE = "gone"
"""The file that a payload would create in the current folder."""


class Calls:
    """Unpickled, it is what a function returns."""

    def __init__(self, function: Callable[..., Any], *args: Any):
        self.call = function, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def operations(module: str, name: str, *args: str, code: bytes = b"") -> bytes:
    """A pickle, written by hand, that imports a name by STACK_GLOBAL and calls it."""
    text = [b"\x8c" + bytes([len(a)]) + a.encode() for a in (module, name, *args)]
    return b"\x80\x04" + text[0] + text[1] + (code or b"\x93(" + b"".join(text[2:]) + b"tR") + b"."


TOUCH = f"touch {GONE}"
PYTHON = f"open({GONE!r}, 'w')"

PICKLES: dict[str, bytes] = {
    "os.system": pickle.dumps(Calls(os.system, TOUCH)),
    "os.popen": pickle.dumps(Calls(os.popen, TOUCH)),
    "builtins.eval": pickle.dumps(Calls(eval, PYTHON)),
    "builtins.exec": pickle.dumps(Calls(exec, PYTHON)),
    "builtins.open": pickle.dumps(Calls(open, GONE, "w")),
    "builtins.__import__": pickle.dumps(Calls(__import__, "antigravity")),
    "builtins.getattr": pickle.dumps(Calls(getattr, 1, "real")),
    "builtins.compile": pickle.dumps(Calls(compile, PYTHON, "a", "exec")),
    "subprocess.Popen": pickle.dumps(Calls(subprocess.Popen, ["touch", GONE])),
    "subprocess.check_output": pickle.dumps(Calls(subprocess.check_output, ["touch", GONE])),
    "os.mkdir": pickle.dumps(Calls(os.mkdir, GONE)),
    "pickle.loads of another": pickle.dumps(Calls(pickle.loads, pickle.dumps(Calls(os.system, TOUCH)))),
    "torch.load of another file": pickle.dumps(Calls(torch.load, "other.ckpt")),
    "torch.hub.load": operations("torch.hub", "load", "someone/repository", "model"),
    "torch's own eval": operations("torch._tensor_str", "os", TOUCH),
    "torch.os.system": operations("torch", "os.system", TOUCH),
    "torch.storage._load_from_bytes": pickle.dumps(
        Calls(torch.storage._load_from_bytes, pickle.dumps(Calls(os.system, TOUCH)))
    ),
    "torch._utils rebuilding by any function": pickle.dumps(
        Calls(torch._utils._rebuild_meta_tensor_no_storage, os.system, TOUCH, 0, False)
    ),
    "torch._tensor._rebuild_from_type_v2": pickle.dumps(
        Calls(torch._tensor._rebuild_from_type_v2, os.system, torch.Tensor, (TOUCH,), {})
    ),
    "torch.jit.load": operations("torch.jit", "load", "other.pt"),
    "torch.utils.collect_env.run": operations("torch.utils.collect_env", "run", TOUCH),
    "runpy.run_path": operations("runpy", "run_path", "other.py"),
    "importlib.import_module": operations("importlib", "import_module", "antigravity"),
    "shutil.rmtree": operations("shutil", "rmtree", "."),
    "numpy.load": operations("numpy", "load", "other.npy"),
    "numpy.testing runs text": operations("numpy.testing._private.utils", "runstring", PYTHON),
    "timeit.timeit": operations("timeit", "timeit", PYTHON),
    "pty.spawn": operations("pty", "spawn", TOUCH),
    "code of a function": operations("types", "FunctionType", PYTHON),
    "operator.attrgetter": operations("operator", "attrgetter", "system"),
    "functools.partial": operations("functools", "partial", TOUCH),
    "this project's own class": operations("lightning_modules.teacher", "Teacher", "other.ckpt"),
    "a module of this project": operations("main", "main", "fit"),
    "lightning's loader": operations("lightning.fabric.utilities.cloud_io", "_load", "other.ckpt"),
    "GLOBAL, the old operation": f"cposix\nsystem\n(V{TOUCH}\ntR.".encode(),
    "INST": f"(V{TOUCH}\niposix\nsystem\n.".encode(),
    "OBJ": f"(cposix\nsystem\nV{TOUCH}\no.".encode(),
    "NEWOBJ": operations("subprocess", "Popen", code=b"\x93\x8c\x04true\x85\x81"),
    "NEWOBJ_EX": operations("subprocess", "Popen", code=b"\x93\x8c\x04true\x85}\x92"),
    "BUILD on a dictionary's class": b"\x80\x02ccollections\nOrderedDict\n)R(V__class__\ncposix\nsystem\ndb.",
    "EXT1": b"\x80\x02\x82\x01.",
    "a persistent id": b"\x80\x02Vposix.system\nQ.",
    "no operation": b"",
    "an unknown operation": b"\x80\x02\xff.",
    "a memo that is not there": b"\x80\x02h\x07.",
    "lists in lists without end": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "a text of 4 GB": b"\x80\x04\x8d" + (2**32).to_bytes(8, "little") + b"a.",
    "bytes beyond the memory": b"\x80\x02c__builtin__\nbytearray\n\x8a\x07\0\0\0\0\0\0\x01\x85R.",
}  # fmt: skip


def archive(path: Path, data: bytes) -> Path:
    """A checkpoint as torch writes it, with this pickle in it."""
    with zipfile.ZipFile(path, "w") as out:
        for name, content in (("data.pkl", data), ("byteorder", b"little"), ("version", b"3\n")):
            out.writestr(f"archive/{name}", content)
    return path


@pytest.mark.parametrize("case", PICKLES)
def test_pickles(case: str, corpus: Corpus) -> None:
    path = archive(corpus.folder / "a.ckpt", PICKLES[case])
    corpus.refused("sample", "--ckpt_path", path, "--out", corpus.folder / "out", says="a.ckpt cannot be read: ")


def test_the_canary_sings(corpus: Corpus) -> None:
    """Unpickled without restriction, payloads do what the corpus watches for."""
    for case in ("os.system", "builtins.eval", "GLOBAL, the old operation", "INST", "OBJ"):
        pickle.loads(PICKLES[case])
        assert (corpus.folder / GONE).exists(), case
        (corpus.folder / GONE).unlink()


def legacy(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def nested_payload() -> bytes:
    buffer = io.BytesIO()
    hidden = {"state_dict": {"a": torch.zeros(2)}, "hyper_parameters": {"x": Calls(os.system, TOUCH)}}
    torch.save(hidden, buffer)
    return buffer.getvalue()


def whole_module() -> bytes:
    buffer = io.BytesIO()
    torch.save(torch.nn.Linear(2, 2), buffer)
    return buffer.getvalue()


FILES: dict[str, tuple[bytes, str]] = {
    "a bare pickle, as EDM's": (PICKLES["os.system"], "cannot be read"),
    "the format of before torch 1.6": (legacy({"state_dict": {}}), "cannot be read"),
    "that format with a payload": (legacy(Calls(os.system, TOUCH)), "cannot be read"),
    "a payload among the hyper-parameters": (nested_payload(), "cannot be read"),
    "a pickled module": (whole_module(), "cannot be read"),
}


@pytest.mark.parametrize("case", FILES)
def test_other_files(case: str, corpus: Corpus) -> None:
    data, says = FILES[case]
    (corpus.folder / "a.ckpt").write_bytes(data)
    for command in ("sample", "test", "fit", "invert"):
        corpus.refused(command, "--ckpt_path", corpus.folder / "a.ckpt", says=says)
