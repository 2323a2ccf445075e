"""Bad command lines: refused in one line with exit code 2, and what is there already stays as it is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from corpus import Corpus, folder_of, snapshot, some_slow
from small_runs import config, fit

from main import COMMANDS

LONG = "a" * 300

TYPED: dict[str, tuple[list[str], str]] = {
    "an unknown command": (["smaple"], "no command smaple; did you mean sample?"),
    "an empty command": ([""], "no command"),
    "an option for a command": (["--sample"], "no command --sample"),
    "a terminal's commands": (["\x1b[2J"], "no command \\x1b[2J"),
    **{f"{command}: an unknown option": ([command, "--nothing", "3"], "") for command in COMMANDS if command != "data"},
    **{f"{command}: a word": ([command, "word"], "") for command in COMMANDS if command != "data"},
    "data: an unknown command": (["data", "chek", "a"], "no command data chek; did you mean check?"),
    "data check: nothing": (["data", "check"], "PATH"),
    "data check: an unknown option": (["data", "check", "a", "--jsn"], "no option --jsn; did you mean --json?"),
    "data check: a path that is not there": (["data", "check", "/nowhere/a"], "no such file or folder"),
    "data check: an empty path": (["data", "check", ""], "no such file or folder"),
    "data check: a NUL": (["data", "check", "a\0b"], "no such file or folder"),
    "data check: a long name": (["data", "check", f"/{LONG}"], ""),
    "data check: a device": (["data", "check", "/dev/null"], ""),
    "data pack: nothing": (["data", "pack"], "required"),
    "data pack: no format": (["data", "pack", "d", "--out", "a.zip"], "--to"),
    "data pack: an unknown format": (["data", "pack", "d", "--to", "tar", "--out", "a.tar"], "invalid choice: 'tar'"),
    "data pack: no file": (["data", "pack", "d", "--to", "edm"], "--out"),
    "data pack: another suffix": (["data", "pack", "d", "--to", "edm", "--out", "a.parquet"], "name of a .zip file"),
    "data pack: an empty name": (["data", "pack", "d", "--to", "edm", "--out", ""], "is a folder"),
    "data pack: a folder": (["data", "pack", "d", "--to", "edm", "--out", "d.zip"], "d.zip is a folder"),
    "data pack: a file that is there": (["data", "pack", "d", "--to", "edm", "--out", "there.zip"], "there already"),
    "data pack: a link to nothing": (["data", "pack", "d", "--to", "edm", "--out", "link.zip"], "there already"),
    "data pack: below a file": (["data", "pack", "d", "--to", "edm", "--out", "there.zip/a.zip"], "written in"),
    "data pack: where nobody may write": (["data", "pack", "d", "--to", "edm", "--out", "/proc/a.zip"], "/proc/a.zip"),
    "data pack: below a device": (["data", "pack", "d", "--to", "edm", "--out", "/dev/null/a.zip"], "written in"),
    "data pack: a long name": (["data", "pack", "d", "--to", "edm", "--out", f"{LONG}.zip"], "name too long"),
    "data pack: a NUL": (["data", "pack", "d", "--to", "edm", "--out", "a\0.zip"], "null byte"),
    "data pack: a split that is not there": (
        ["data", "pack", "d", "--to", "edm", "--out", "a.zip", "--split", "test"], "no such split",
    ),
    **{
        f"data pack: a resolution of {n[:20]}": (
            ["data", "pack", "d", "--to", "edm", "--out", "a.zip", f"--resolution={n}"], "--resolution",
        )
        for n in ("0", "-1", "1.5", "nan", "1e3", "many", "", "1000000000", "9" * 5000)
    },
    "fit: a config that is a folder": (["fit", "--config", "d"], ""),
    "fit: a config that is not there": (["fit", "--config", "nowhere.yaml"], "nowhere.yaml"),
    "fit: a config that is a picture": (["fit", "--config", "d/good.png"], ""),
    "fit: an empty config": (["fit", "--config", ""], ""),
    "test: no checkpoint": (["test"], "--ckpt_path"),
    "test: an empty name": (["test", "--ckpt_path", ""], "no checkpoint"),
    "sample: a folder": (["sample", "--ckpt_path", "d"], "no checkpoint d"),
    "sample: a picture": (["sample", "--ckpt_path", "d/good.png"], "cannot be read"),
    "sample: a device": (["sample", "--ckpt_path", "/dev/zero"], "no checkpoint /dev/zero"),
    "sample: a NUL": (["sample", "--ckpt_path", "a\0b"], ""),
    "sample: a long name": (["sample", "--ckpt_path", LONG], ""),
    "sample: no value": (["sample", "--ckpt_path"], "expected one argument"),
    **{f"sample: {n} steps": (["sample", "--ckpt_path", "x", f"--steps={n}"], "at least 1")
       for n in ("0", "-1", "1.5", "nan", "inf", "", "²")},
    **{f"sample: seeds {s[:20]!r}": (["sample", "--ckpt_path", "x", f"--seeds={s}"], "--seeds")
       for s in ("", ",", "1,", "-1", "3-1", "1-2-3", "a", "0,0", "0-2,1", "0-2000000000", "9" * 30, "9" * 5000)},
    "reference: no data": (["reference", "--out", "a.npz"], "--data"),
    "reference: data that are a folder": (["reference", "--data", "d", "--out", "a.npz"], "no file d"),
    "reference: another suffix": (["reference", "--data", "x.yaml", "--out", "a.zip"], ".npz"),
    "reference: a folder": (["reference", "--data", "x.yaml", "--out", "d"], "d is a folder"),
    "compare: nothing": (["compare"], "needs --config"),
    "compare: no processes": (["compare", "--config", "nowhere.yaml", "--jobs", "0"], ""),
    "search-schedule: no steps": (["search-schedule", "--ckpt_path", "x", "--steps", "0"], "at least 1"),
    "truth: no points": (["truth", "--ckpt_path", "x", "--points", "-5"], "at least 1"),
    "restore: an unknown task": (["restore", "--ckpt_path", "x", "--task", "colour"], "invalid choice"),
    "edit: no class": (["edit", "--ckpt_path", "x"], "--to"),
    "edit: a class that is no number": (["edit", "--ckpt_path", "x", "--to", "cat"], "cat"),
    "allow-import: a path": (["fit", "--allow-import", "../evil"], "not the name of a package"),
    "allow-import: everything": (["fit", "--allow-import", "*"], "not the name of a package"),
}  # fmt: skip


@pytest.mark.parametrize("case", TYPED)
def test_typed(case: str, corpus: Corpus) -> None:
    args, says = TYPED[case]
    folder_of(corpus.folder / "d")
    (corpus.folder / "d.zip").mkdir()
    (corpus.folder / "there.zip").write_bytes(b"precious")
    (corpus.folder / "link.zip").symlink_to("nowhere.zip")
    corpus.refused(*args, says=says)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a small unconditional BCM."""
    return fit(tmp_path_factory.mktemp("run"), config(images=64)) / "checkpoints" / "last.ckpt"


WITH_A_MODEL: dict[str, tuple[list[str], str]] = {
    "sample: a class": (["sample", "--class", "3"], "unconditional"),
    "sample: no device": (["sample", "--device", "abacus"], "--device abacus"),
    "sample: a folder that is a file": (["sample", "--out", "there"], "there is a file"),
    "sample: below a file": (["sample", "--out", "there/a"], "nothing can be written in"),
    "sample: where nobody may write": (["sample", "--out", "/proc/a"], "/proc/a"),
    "sample: a NUL": (["sample", "--out", "a\0b"], "null byte"),
    "sample: a long name": (["sample", "--out", LONG], "name too long"),
    "sample: guidance that is not a number": (["sample", "--guidance", "nan"], ""),
    "sample: no schedule": (["sample", "--schedule", "nowhere"], "nowhere"),
    "sample: a schedule that is a folder": (["sample", "--schedule", "d"], "d"),
    "sample: a sampler of another model": (["sample", "--sampler", "Heun"], "Heun"),
    "invert: seeds beyond the images": (["invert", "--seeds", "0-5000"], "test"),
    "invert: a folder that is a file": (["invert", "--out", "there"], "there is a file"),
    "image-to-image: a strength of 2": (["image-to-image", "--strength", "2"], "strength"),
    "image-to-image: a strength that is not a number": (["image-to-image", "--strength", "nan"], "strength"),
    "image-to-image: a level that is not a number": (["image-to-image", "--level", "nan"], "level"),
    "image-to-image: an infinite level": (["image-to-image", "--level", "inf"], "level"),
    "image-to-image: a negative level": (["image-to-image", "--level", "-3"], "level"),
    "image-to-image: no such input": (["image-to-image", "--level", "1", "--input", "nowhere"], "no such file"),
    "image-to-image: an empty folder": (["image-to-image", "--level", "1", "--input", "empty"], "no images"),
    "image-to-image: input that is text": (["image-to-image", "--level", "1", "--input", "there"], "no readable image"),
    "image-to-image: input that is a device": (["image-to-image", "--level", "1", "--input", "/dev/zero"], "/dev/zero"),
    "restore: input that is a device": (["restore", "--task", "inpaint", "--input", "/dev/zero"], "/dev/zero"),
    "restore: a mask that is text": (["restore", "--task", "inpaint", "--mask", "there"], "there"),
    "restore: a mask that is not there": (["restore", "--task", "inpaint", "--mask", "nowhere"], "nowhere"),
    "restore: a blur that is not a number": (["restore", "--task", "unblur", "--blur", "nan"], "blur"),
    "restore: a huge factor": (["restore", "--task", "upscale", "--factor", "1000"], "factor"),
    "restore: a quality of 1000": (["restore", "--task", "jpeg", "--quality", "1000"], "quality"),
    "restore: a level that is not a number": (["restore", "--task", "inpaint", "--level", "nan"], "level"),
    "truth: a folder": (["truth", "--out", "d"], "d is a folder"),
    "truth: too few resamples": (["truth", "--resamples", "3"], "resamples"),
    "search-schedule: a folder for a file": (["search-schedule", "--out", "d"], "d is a folder"),
    "search-schedule: a folder for scores": (["search-schedule", "--cache", "d"], "d is a folder"),
    "edit: a folder that is a file": (["edit", "--to", "3", "--out", "there"], "there is a file"),
    "restore: below a file": (["restore", "--task", "inpaint", "--out", "there/a"], "nothing can be written in"),
    "search-schedule: one step": (["search-schedule", "--steps", "1"], "steps"),
    "interpolate: one frame": (["interpolate", "--frames", "1"], "frames"),
}  # fmt: skip


@pytest.mark.parametrize("case", WITH_A_MODEL)
def test_with_a_model(case: str, checkpoint: Path, corpus: Corpus) -> None:
    (command, *args), says = WITH_A_MODEL[case]
    folder_of(corpus.folder / "d")
    (corpus.folder / "empty").mkdir()
    (corpus.folder / "there").write_bytes(b"precious")
    corpus.refused(command, "--ckpt_path", checkpoint, *args, says=says)


PROCESSES: dict[str, tuple[int, list[str]]] = {
    "a folder with a bad image": (1, ["data", "check", "d"]),
    "the same to be packed": (2, ["data", "pack", "d", "--to", "edm", "--out", "a.zip"]),
    "a checkpoint of nothing": (2, ["sample", "--ckpt_path", "a.ckpt"]),
    "a config of a run": (2, ["fit", "--config", "a.ckpt"]),
}


@pytest.mark.parametrize("case", some_slow(PROCESSES, lambda case: case == "a folder with a bad image"))
def test_processes(case: str, corpus: Corpus) -> None:
    """The same through the shell, whose exit codes count: a traceback would be seen there."""
    code, args = PROCESSES[case]
    folder_of(corpus.folder / "d", **{"bad.png": b"text"})
    torch.save({"state_dict": {}}, corpus.folder / "a.ckpt")
    before = snapshot(corpus.folder)
    main = str(Path(__file__).parents[1] / "main.py")
    done = subprocess.run([sys.executable, main, *args], capture_output=True, text=True, env={**os.environ})
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert snapshot(corpus.folder) == before
