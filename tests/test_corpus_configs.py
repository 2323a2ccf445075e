"""Bad YAML: configs of runs, data sections, comparisons, schedules and samplers; each refused in one line."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from corpus import Corpus, some_slow
from small_runs import config

from cli.errors import UsageError
from cli.sampler_options import read_sampler
from cli.schedule_file import read_schedule

BOMB = "\n".join(["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40))])
"""A text of 1 kB that stands for 10^12 values."""

TEXTS: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", ""),
    "a word": ("word", ""),
    "a list": ("[1, 2]", ""),
    "a number": ("3", ""),
    "null": ("null", ""),
    "not UTF-8": (b"a: \xff\xfe\n", ""),
    "UTF-16": ("a: 1\n".encode("utf-16"), ""),
    "a NUL": ("a: \0\n", ""),
    "a terminal's commands": ("\x1b[2J: 3", ""),
    "tabs": ("a:\n\t- 1\n", ""),
    "an open list": ("a: [1", ""),
    "an open quote": ('a: "1', ""),
    "indented wrongly": ("a:\n  b: 1\n c: 2\n", ""),
    "two documents": ("a: 1\n---\nb: 2\n", ""),
    "an unknown anchor": ("a: *b", ""),
    "a list in itself": ("a: &a [*a]", "levels deep"),
    "a mapping in itself": ("a: &a\n  b: *a\n", "levels deep"),
    "a merge of itself": ("a: &a\n  <<: *a\n", ""),
    "a bomb of anchors": (BOMB, "nested to more than"),
    "deep": ("a: " + "[" * 500 + "]" * 500, ""),
    "too deep for the parser": ("a: " + "[" * 100_000, ""),
    "huge": ("a: [" + "1, " * 400_000 + "1]", "characters, allowed are"),
    "a key that is a list": ("[1, 2]: 3", ""),
    "a key that is a mapping": ("? {a: 1}\n: 3", ""),
    "a date that is none": ("a: 2001-99-99", ""),
    "a number of 10,000 digits": ("a: " + "9" * 10_000, ""),
    "os.system": ("a: !!python/object/apply:os.system ['touch gone']", ""),
    "subprocess": ("a: !!python/object/apply:subprocess.check_output [[touch, gone]]", ""),
    "a new object": ("!!python/object/new:os.system ['touch gone']", ""),
    "an object": ("a: !!python/object:networks.MLP {}", ""),
    "a name": ("a: !!python/name:os.system", ""),
    "a module": ("a: !!python/module:antigravity", ""),
    "an unknown tag": ("a: !mine 3", ""),
    "binary": ("a: !!binary gibberish!", ""),
}

WHERE_PARSERS_DIFFER = (
    "a list",
    "not UTF-8",
    "a NUL",
    "a list in itself",
    "a bomb of anchors",
    "huge",
    "os.system",
    "a date that is none",
)


@pytest.mark.parametrize("case", TEXTS)
def test_data_sections(case: str, corpus: Corpus) -> None:
    text, says = TEXTS[case]
    path = corpus.folder / "data.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    corpus.refused("reference", "--data", path, "--out", corpus.folder / "out.npz", says=says)


@pytest.mark.parametrize("case", some_slow(TEXTS, lambda case: case in WHERE_PARSERS_DIFFER))
def test_comparisons(case: str, corpus: Corpus) -> None:
    text, says = TEXTS[case]
    path = corpus.folder / "plan.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    corpus.refused("compare", "--config", path, "--root", corpus.folder / "out", says=says)


@pytest.mark.parametrize("case", [*TEXTS, "no file"])
def test_schedules_and_samplers(case: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    if case in TEXTS:
        text = TEXTS[case][0]
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    for read in (read_schedule, lambda p: read_sampler([f"--sampler={p}"], [])):
        with pytest.raises(UsageError, match=r"a\.yaml: "):
            read(path)


DATA: dict[str, tuple[Any, str]] = {
    "a class that is not there": ({"class_path": "datamodules.Digit"}, "no class datamodules.Digit"),
    "a class outside": ({"class_path": "os.system", "init_args": {"command": "touch gone"}}, "os.system may not stand"),
    "a class that starts a process": ({"class_path": "subprocess.Popen", "init_args": {"args": "touch gone"}}, "Popen"),
    "a class of what torch imports": ({"class_path": "torch.subprocess.Popen", "init_args": {"args": "a"}}, ""),
    "a class of another kind": ({"class_path": "networks.MLP"}, "networks.MLP does not correspond to a subclass"),
    "an argument too many": ({"class_path": "datamodules.DigitsDataModule", "init_args": {"b": 1}}, "no argument b"),
    "an argument missing": ({"class_path": "datamodules.ImageDataModule"}, "needs path"),
    "an argument of another type": (
        {"class_path": "datamodules.DigitsDataModule", "init_args": {"batch_size": "many"}}, "int expected, not many",
    ),
    "an argument out of range": (
        {"class_path": "datamodules.DigitsDataModule", "init_args": {"batch_size": -1}}, "batch_size=-1",
    ),
    "limits of another type": (
        {"class_path": "datamodules.ImageDataModule", "init_args": {"path": "a", "resolution": 4, "limits": 3}}, "",
    ),
    "a class among the limits": (
        {"class_path": "datamodules.ImageDataModule",
         "init_args": {"path": "a", "resolution": 4, "limits": {"class_path": "os.system"}}}, "",
    ),
    "a path that is not there": (
        {"class_path": "datamodules.ImageDataModule", "init_args": {"path": "/nowhere/a.zip", "resolution": 4}},
        "no such file or folder",
    ),
    "a resolution of a billion": (
        {"class_path": "datamodules.ImageDataModule", "init_args": {"path": ".", "resolution": 10**9}}, "",
    ),
    "a class path that is a list": ({"class_path": ["a"]}, ""),
    "arguments that are a list": ({"class_path": "datamodules.DigitsDataModule", "init_args": [1]}, ""),
}  # fmt: skip


@pytest.mark.parametrize("case", DATA)
def test_wrong_data_sections(case: str, corpus: Corpus) -> None:
    content, says = DATA[case]
    (corpus.folder / "data.yaml").write_text(yaml.safe_dump(content))
    (corpus.folder / "good.png").write_bytes(b"")
    corpus.refused("reference", "--data", corpus.folder / "data.yaml", "--out", corpus.folder / "out.npz", says=says)


def placed(keys: str, value: Any) -> dict[str, Any]:
    """A config of a run in which a value is replaced."""
    content = config(images=64)
    *parents, last = keys.split(".")
    inner = content
    for key in parents:
        inner = inner.setdefault(key, {})
    inner[last] = value
    return content


EVIL = {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "gone"]}}
INSIDE = "model.init_args"
RUNS: dict[str, tuple[str, Any, str]] = {
    "a list for the model": ("model", [1], ""),
    "null for the model": ("model", None, "model must be given"),
    "no data": ("data", None, "data must be given"),
    "a number for the trainer": ("trainer", 3, "trainer"),
    "a seed that is text": ("seed_everything", "many", "seed_everything: int expected"),
    "a negative seed": ("seed_everything", -1, "-1 is not in bounds"),
    "a huge seed": ("seed_everything", 2**70, "is not in bounds"),
    "no images": (f"{INSIDE}.total_images", 0, "total_images=0"),
    "images that are not a number": (f"{INSIDE}.total_images", float("nan"), "total_images"),
    "a level that is not a number": (f"{INSIDE}.sigma_max", float("nan"), "sigma_max"),
    "an average that is not a number": (f"{INSIDE}.sigma_data", float("nan"), "sigma_data: a number expected"),
    "scores that are a number": ("scores", 3, "scores"),
    "an infinite level": (f"{INSIDE}.sigma_max", float("inf"), "sigma_max"),
    "levels in the wrong order": (f"{INSIDE}.sigma_min", 100.0, "sigma_min"),
    "a network that is a number": (f"{INSIDE}.network", 3, "network"),
    "a network outside": (f"{INSIDE}.network.class_path", "os.system", "os.system may not stand"),
    "a process as an optimizer": (f"{INSIDE}.optimizer", EVIL, "subprocess.Popen"),
    "a process in a law": (f"{INSIDE}.pairs.init_args.steps", EVIL, "subprocess.Popen"),
    "a process among callbacks": ("trainer.callbacks", [EVIL], "subprocess.Popen"),
    "a process as a logger": ("trainer.logger", EVIL, "subprocess.Popen"),
    "a process as a plugin": ("trainer.plugins", [EVIL], "trainer.plugins"),
    "a process as a strategy": ("trainer.strategy", EVIL, "subprocess.Popen"),
    "a function for a callback": (
        "trainer.callbacks",
        [{"class_path": "lightning.pytorch.callbacks.LambdaCallback", "init_args": {"on_fit_start": "torch.os.abort"}}],
        "posix.abort",
    ),
    "torch's loader": (f"{INSIDE}.distance", "torch.hub.load", "torch.hub.load may not"),
    "devices that are none": ("trainer.devices", 0, ""),
    "negative devices": ("trainer.devices", -5, ""),
    "no precision of this kind": ("trainer.precision", "3-bit", "precision"),
    "a folder that is a file": ("trainer.default_root_dir", "file", "not a directory"),
}  # fmt: skip


CODE = ("process", "function", "loader", "not a number", "infinite")


@pytest.mark.parametrize("case", some_slow(RUNS, lambda case: any(word in case for word in CODE)))
def test_wrong_runs(case: str, corpus: Corpus) -> None:
    keys, value, says = RUNS[case]
    (corpus.folder / "file").write_text("")
    (corpus.folder / "run.yaml").write_text(yaml.safe_dump(placed(keys, value)))
    corpus.refused("fit", "--config", corpus.folder / "run.yaml", says=says)


@pytest.mark.parametrize("case", WHERE_PARSERS_DIFFER)
def test_configs_of_runs(case: str, corpus: Corpus) -> None:
    text, says = TEXTS[case]
    path = corpus.folder / "run.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    corpus.refused("fit", "--config", path, says=says)


PLANS: dict[str, tuple[dict[str, Any], str]] = {
    "no method": ({"methods": {}}, ""),
    "a method that is a number": ({"methods": {"a": 3}}, ""),
    "a method of nothing": ({"methods": {"a": {"steps": [1]}}}, "names neither a config nor a run"),
    "no steps": ({"methods": {"a": {"steps": [], "run": "."}}}, "steps=[]"),
    "steps of nothing": ({"methods": {"a": {"steps": [0], "run": "."}}}, "steps=[0]"),
    "methods that need each other": (
        {"methods": {"a": {"steps": [1], "of": "b"}, "b": {"steps": [1], "of": "a"}}}, "none can come first",
    ),
    "a method that needs itself": ({"methods": {"a": {"steps": [1], "of": "a"}}}, "none can come first"),
    "a config that is not there": ({"methods": {"a": {"steps": [1], "config": "nowhere.yaml"}}}, "nowhere.yaml"),
    "a run that is not there": ({"methods": {"a": {"steps": [1], "run": "nowhere"}}}, "nowhere"),
    "a process as an argument": ({"methods": {"a": {"steps": [1], "run": "none", "arguments": {"x": EVIL}}}}, ""),
    "no images": ({"methods": {"a": {"steps": [1], "run": "."}}, "num_images": 0}, "num_images=0"),
    "no batch": ({"methods": {"a": {"steps": [1], "run": "."}}, "batch_size": -3}, "batch_size=-3"),
    "no ranges": ({"methods": {"a": {"steps": [1], "run": "."}}, "seed_ranges": 0}, "seed_ranges=0"),
    "a negative seed": ({"methods": {"a": {"steps": [1], "run": "."}}, "training_seeds": [-1]}, "training_seeds=[-1]"),
    "an unknown key": ({"methods": {"a": {"steps": [1], "run": "."}}, "numimages": 3}, "no option numimages"),
}  # fmt: skip


@pytest.mark.parametrize("case", PLANS)
def test_wrong_comparisons(case: str, corpus: Corpus) -> None:
    content, says = PLANS[case]
    (corpus.folder / "plan.yaml").write_text(yaml.safe_dump(content))
    corpus.refused("compare", "--config", corpus.folder / "plan.yaml", "--root", corpus.folder / "out", says=says)
