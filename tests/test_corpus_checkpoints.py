"""Checkpoints that are damaged, or hold something else than a run writes: refused in one line."""

import io
import math
import zipfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from corpus import Corpus, some_slow
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import config, fit

from lightning_modules.checkpoint import CheckpointError, file_sha256, load_module, read_checkpoint

PLACES = 20
"""Where a checkpoint is damaged."""


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The content of a small run's checkpoint."""
    run = fit(tmp_path_factory.mktemp("run"), config(images=64))
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def sampled(corpus: Corpus, path: Path, says: str = "") -> None:
    """`sample` refuses it, and writes nothing."""
    corpus.refused("sample", "--ckpt_path", path, "--out", corpus.folder / "out", "--seeds", "0", says=says)


@pytest.mark.parametrize("part", some_slow(range(PLACES), lambda part: part % 2))
def test_cut_off(part: int, good: dict[str, Any], corpus: Corpus) -> None:
    """At twenty places, with and without a digest of the whole beside it."""
    path = saved(corpus.folder / "a.ckpt", good)
    whole, digest = path.read_bytes(), file_sha256(path)
    path.write_bytes(whole[: part * len(whole) // 20 + part % 7])
    sampled(corpus, path, "a.ckpt cannot be read: ")
    (corpus.folder / "a.ckpt.sha256").write_text(f"{digest}  a.ckpt\n")
    sampled(corpus, path, "a.ckpt cannot be read: its content does not match its .sha256")


@pytest.mark.parametrize("part", some_slow(range(PLACES), lambda part: part % 2))
def test_a_flipped_bit(part: int, good: dict[str, Any], corpus: Corpus) -> None:
    """At twenty places, among the weights as well: the digest tells it, and without one the archive's own checksums."""
    path = saved(corpus.folder / "a.ckpt", good)
    whole, digest = bytearray(path.read_bytes()), file_sha256(path)
    with zipfile.ZipFile(path) as archive:
        held = [m for m in archive.infolist() if m.file_size > 8]
    member = held[part * len(held) // 20]
    start = whole.index(member.filename.encode()) + len(member.filename)
    start += int.from_bytes(whole[start - len(member.filename) - 2 : start - len(member.filename)], "little")
    whole[start + (part * 37) % member.file_size] ^= 1 << part % 8
    path.write_bytes(whole)
    sampled(corpus, path, "does not match its checksum")
    (corpus.folder / "a.ckpt.sha256").write_text(f"{digest}  a.ckpt\n")
    sampled(corpus, path, "its content does not match its .sha256")


DIGESTS = {"empty": b"", "blank": b"\n", "not UTF-8": b"\xff\xfe", "another": b"0" * 64, "long": b"a" * 10**6}


@pytest.mark.parametrize("case", DIGESTS)
def test_bad_digests(case: str, good: dict[str, Any], corpus: Corpus) -> None:
    path = saved(corpus.folder / "a.ckpt", good)
    (corpus.folder / "a.ckpt.sha256").write_bytes(DIGESTS[case])
    sampled(corpus, path, "a.ckpt cannot be read: ")


def repacked(path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """The archive of a checkpoint with its members changed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(buffer, "w", compression) as new:
        for member in old.infolist():
            new.writestr(member.filename, change(member.filename, old.read(member)))
    return buffer.getvalue()


def doubled(path: Path) -> bytes:
    """An archive whose directory names every part twice."""
    data = repacked(path, lambda name, held: held)
    start, end = data.index(b"PK\x01\x02"), data.rindex(b"PK\x05\x06")
    entries = data[start:end]
    tail = bytearray(data[end:])
    count = int.from_bytes(tail[8:10], "little") * 2
    tail[8:12] = count.to_bytes(2, "little") * 2
    tail[12:16] = (2 * len(entries)).to_bytes(4, "little")
    tail[16:20] = start.to_bytes(4, "little")
    return data[:start] + entries * 2 + bytes(tail)


ARCHIVES: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "empty": (lambda p: b"", "cannot be read"),
    "text": (lambda p: b"this is no checkpoint\n" * 9, "cannot be read"),
    "an empty archive": (lambda p: b"PK\x05\x06" + bytes(18), "cannot be read"),
    "another archive": (lambda p: foreign(), "cannot be read"),
    "compressed weights": (lambda p: repacked(p, lambda n, d: d, zipfile.ZIP_DEFLATED), "it is compressed"),
    "a bomb of zeros": (
        lambda p: repacked(p, lambda n, d: bytes(10**8) if n.endswith("/0") else d, zipfile.ZIP_DEFLATED),
        "it is compressed",
    ),
    "parts that overlap": (doubled, "its parts overlap"),
    "weights that are too short": (lambda p: repacked(p, lambda n, d: d[:4] if "/data/" in n else d), "cannot be read"),
    "no weights": (lambda p: repacked(p, lambda n, d: b"" if "/data/" in n else d), "cannot be read"),
    "no pickle": (lambda p: repacked(p, lambda n, d: b"" if n.endswith(".pkl") else d), "cannot be read"),
    "half a pickle": (lambda p: repacked(p, lambda n, d: d[:500] if n.endswith(".pkl") else d), "cannot be read"),
    "another byte order": (lambda p: repacked(p, lambda n, d: b"middle" if "byteorder" in n else d), "cannot be read"),
}


def foreign() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", "a")
    return buffer.getvalue()


@pytest.mark.parametrize("case", ARCHIVES)
def test_bad_archives(case: str, good: dict[str, Any], corpus: Corpus) -> None:
    make, says = ARCHIVES[case]
    path = saved(corpus.folder / "a.ckpt", good)
    path.write_bytes(make(path))
    sampled(corpus, path, says)


def cycle() -> list[Any]:
    endless: list[Any] = []
    endless.append(endless)
    return endless


def bomb() -> list[Any]:
    value: list[Any] = ["x"]
    for _ in range(60):
        value = [value, value]
    return value


def arguments(**changed: Any) -> Callable[[dict[str, Any]], None]:
    return lambda c: c["hyper_parameters"].update(changed)


def without(*keys: str) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return change


def state(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda c: c["state_dict"].update({key: value})


def every(change: Callable[[torch.Tensor], Any]) -> Callable[[dict[str, Any]], None]:
    return lambda c: c.update(state_dict={k: change(v) for k, v in c["state_dict"].items()})


def named(class_path: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": class_path, "init_args": init_args}


CONTENTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a list": (lambda c: [1], "not a checkpoint of a training run"),
    "a tensor": (lambda c: torch.zeros(2), "not a checkpoint of a training run"),
    "weights alone": (lambda c: c["state_dict"], "not a checkpoint of a training run"),
    "nothing": (lambda c: {}, "not a checkpoint of a training run"),
    "no weights": (without("state_dict"), "not a checkpoint of a training run"),
    "weights that are a list": (lambda c: c.update(state_dict=[1]), "no weights by name"),
    "weights that are numbers": (lambda c: c.update(state_dict={"a": 1}), "holds no tensor as a"),
    "weights by number": (lambda c: c.update(state_dict={1: torch.zeros(1)}), "no weights by name"),
    "one weight missing": (lambda c: c["state_dict"].popitem() and None, "weights do not fit the model"),
    "a weight too many": (state("extra", torch.zeros(1)), "weights do not fit the model"),
    "weights of another shape": (every(lambda v: torch.zeros(3, 5, 7)), "weights do not fit the model"),
    "sparse weights": (every(lambda v: v.float().to_sparse() if v.dim() else v), ""),
    "no hyper-parameters": (without("hyper_parameters"), "does not hold its configuration"),
    "hyper-parameters that are a list": (lambda c: c.update(hyper_parameters=[1]), "no arguments by name"),
    "hyper-parameters that are text": (lambda c: c.update(hyper_parameters="x"), "no arguments by name"),
    "hyper-parameters by number": (lambda c: c.update(hyper_parameters={1: 2}), "no arguments by name"),
    "no class": (without("hyper_parameters", "_class_path"), "does not hold its configuration"),
    "a class that is no name": (arguments(_class_path=3), "does not tell how to build"),
    "a class that is not there": (arguments(_class_path="lightning_modules.Nothing"), "does not tell how to build"),
    "a class outside": (arguments(_class_path="os.system"), "outside the allowed packages"),
    "a class inside a class outside": (arguments(network=named("subprocess.Popen", args=["touch", "gone"])), "outside"),
    "a class of torch that starts a process": (
        arguments(network=named("torch.utils.collect_env.subprocess.Popen", args=["touch", "gone"])),
        "does not tell how to build",
    ),
    "a function of torch's imports": (arguments(distance="torch.os.system"), "does not tell how to build"),
    "a function that loads": (arguments(distance="torch.load"), "does not tell how to build"),
    "a class that is no module": (arguments(_class_path="torch.nn.Linear"), "does not tell how to build"),
    "an argument too many": (arguments(modle=3), "does not tell how to build"),
    "an argument missing": (without("hyper_parameters", "network"), "does not tell how to build"),
    "an argument of another type": (arguments(total_images="many"), "does not tell how to build"),
    "an argument out of range": (arguments(sigma_min=-1.0), "does not tell how to build"),
    "an argument that is not a number": (arguments(sigma_max=math.nan), "does not tell how to build"),
    "an image of no size": (arguments(image_shape=[0, 0, 0]), ""),
    "an image of a negative size": (arguments(image_shape=[1, -8, 8]), "does not tell how to build"),
    "a network beyond the memory": (
        arguments(network=named("networks.MLP", width=10**13, depth=1)), "does not tell how to build",
    ),
    "hyper-parameters in themselves": (arguments(lr_factor=cycle()), "nested more than 100 levels"),
    "hyper-parameters that grow": (arguments(lr_factor=bomb()), "nested to more than 100,000 values"),
    "images seen that are text": (lambda c: c.update(images_seen="many"), "images_seen is no number from 0"),
    "fewer images than none": (lambda c: c.update(images_seen=-1), "images_seen is no number from 0"),
    "seconds that are no number": (lambda c: c.update(training_seconds=math.nan), "training_seconds is no number"),
    "a config that is no text": (lambda c: c.update(config=[1]), "config is no text"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONTENTS)
def test_bad_contents(case: str, good: dict[str, Any], corpus: Corpus) -> None:
    change, says = CONTENTS[case]
    content = deepcopy(good)
    changed = change(content)
    sampled(corpus, saved(corpus.folder / "a.ckpt", content if changed is None else changed), says)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_damage_never_gives_another_error(
    good: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Any bytes changed, cut out or put in: the checkpoint is refused, or is what it was."""
    path = saved(tmp_path_factory.mktemp("damaged") / "a.ckpt", good)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    path.write_bytes(content)
    try:
        weights = read_checkpoint(path)["state_dict"]
        assert all(torch.equal(weights[key], value) for key, value in good["state_dict"].items())
        load_module(path)
    except CheckpointError as error:
        assert "a.ckpt" in str(error)
