"""Checkpoints without what a run needs to go on, or with a bad config in them: one line, and no run is begun."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from corpus import Corpus, some_slow
from small_runs import config, fit
from test_corpus_configs import BOMB


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The content of a small run's checkpoint."""
    run = fit(tmp_path_factory.mktemp("run"), config(images=64))
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def without(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content.pop(key)


def holding(**changed: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content.update(changed)


CONTENTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no optimizer's state": (without("optimizer_states"), "the state of a run that can go on"),
    "an optimizer's state that is text": (holding(optimizer_states="x"), "the state of a run that can go on"),
    "an optimizer's state of nothing": (holding(optimizer_states=[{}]), "the state of a run that can go on"),
    "no schedule's state": (without("lr_schedulers"), "the state of a run that can go on"),
    "loops of nothing": (holding(loops={}), "the state of a run that can go on"),
    "loops that are text": (holding(loops="x"), "the state of a run that can go on"),
    "callbacks that are text": (holding(callbacks="x"), "the state of a run that can go on"),
    "no images seen": (without("images_seen"), "the state of a run that can go on"),
    "no version": (without("pytorch-lightning_version"), "the state of a run that can go on"),
    "a version that is none": (holding(**{"pytorch-lightning_version": "x"}), "the state of a run that can go on"),
    "more images than can be counted": (holding(images_seen=10**30), "images_seen is no number from 0"),
}

CONFIGS: dict[str, tuple[str, str]] = {
    "an empty config": ("", ""),
    "a config that is a list": ("[1]\n", ""),
    "a config in itself": ("a: &a [*a]\n", "levels deep"),
    "a config that grows": (BOMB, "nested to more than"),
    "a config with a null byte": ("a: \0\n", ""),
    "a config that runs code": ("a: !!python/object/apply:os.system ['touch gone']\n", ""),
    "a config that starts a process": (
        "trainer: {callbacks: [{class_path: subprocess.Popen, init_args: {args: [touch, gone]}}]}\n",
        "subprocess.Popen may not stand in a config",
    ),
    "a config that names a file": ("/etc/passwd", "is none: give --config FILE"),
}


@pytest.mark.parametrize("case", some_slow(CONTENTS, lambda case: "no optimizer" in case or "more images" in case))
def test_states(case: str, good: dict[str, Any], corpus: Corpus) -> None:
    change, says = CONTENTS[case]
    content = deepcopy(good)
    change(content)
    torch.save(content, corpus.folder / "a.ckpt")
    longer = "--model.init_args.total_images=128"
    corpus.refused("fit", "--ckpt_path", "a.ckpt", "--trainer.default_root_dir=runs", longer, says=says)


@pytest.mark.parametrize("command", some_slow(["fit", "test", "invert"], lambda command: command != "test"))
@pytest.mark.parametrize("case", CONFIGS)
def test_configs_inside(case: str, command: str, good: dict[str, Any], corpus: Corpus) -> None:
    text, says = CONFIGS[case]
    torch.save(good | {"config": text}, corpus.folder / "a.ckpt")
    corpus.refused(
        command, "--ckpt_path", "a.ckpt", says=says if command == "fit" or not says.startswith("subprocess") else ""
    )
