"""A game of two networks that is killed in the middle of a step goes on as if nothing had happened."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from small_runs import ADVERSARIAL, MODULES, config, fit
from test_resume import DECAY, assert_same_training_state, middle_and_last, resumed_from

from lightning_modules.checkpoint import read_checkpoint
from lightning_modules.players import Game
from main import main

ROOT = Path(__file__).parents[1]
KILLED = """
import os, sys
from lightning_modules import players
from main import main

descend = players.descend

def killed(module, place, loss):
    if place == players.GENERATOR and module.images_seen == 64 * 6:
        os._exit(9)  # the discriminator has stepped, the generator has not
    descend(module, place, loss)

players.descend = killed
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("module", ADVERSARIAL)
def test_killed_between_the_two_steps(module, tmp_path):
    content = config(module)
    unbroken = fit(tmp_path, content)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(content))
    options = ["fit", "--config", str(tmp_path / "run.yaml"), f"--trainer.default_root_dir={tmp_path}/killed"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.run([sys.executable, "-c", KILLED, *options], cwd=ROOT, env=environment, timeout=300)
    assert process.returncode == 9
    (last,) = tmp_path.glob("killed/*/*/checkpoints/last.ckpt")
    assert read_checkpoint(last)["images_seen"] == 64 * 6
    assert_same_training_state(resumed_from(last, tmp_path), read_checkpoint(unbroken / "checkpoints" / "last.ckpt"))


def test_what_a_checkpoint_holds(tmp_path):
    """Both networks, both optimizers, the averages and the counts."""
    _, last = middle_and_last(fit(tmp_path, config("UFOGenModule")))
    assert {name.split(".")[0] for name in last["state_dict"]} == {"denoiser", "critic", "ema"}
    adam, sgd = last["optimizer_states"]
    assert adam["state"] and adam["param_groups"][0]["lr"] == 1e-3 and sgd["param_groups"][0]["lr"] == 1e-2
    assert (last["images_seen"], last["batches_seen"], last["generator_steps"], last["global_step"]) == (512, 8, 8, 16)


def test_exact_at_other_cadences(tmp_path):
    """The discriminator plays every second batch, the generator's steps take three: no checkpoint parts them."""
    content = config("UFOGenModule", images=64 * 18)
    players = MODULES["UFOGenModule"]
    content["model"]["init_args"]["generator_player"] = {**players["generator_player"], "accumulate": 3}
    discriminator = {**players["discriminator_player"], "every": 2, "lr_factor": DECAY}
    content["model"]["init_args"]["discriminator_player"] = discriminator
    content["checkpoints"]["every_n_images"] = 64 * 4
    middle, last = middle_and_last(fit(tmp_path, content))
    assert read_checkpoint(middle)["batches_seen"] % 3 == 0 and last["generator_steps"] == 6
    assert_same_training_state(resumed_from(middle, tmp_path), last)


def test_starts_from_a_diffusion_model(teacher, tmp_path):
    """Both networks; and a resumed run does not look for it."""
    start = tmp_path / "start.ckpt"
    start.write_bytes(Path(teacher).read_bytes())
    content = config("UFOGenModule", init_from=str(start), discriminator_init_from=str(start))
    middle, last = middle_and_last(fit(tmp_path, content))
    start.unlink()
    assert_same_training_state(resumed_from(middle, tmp_path), last)


def test_half_precision_is_refused():
    """Without a GPU Lightning itself would say so; the range of float16 is too small for a game."""
    with pytest.raises(ValueError, match=r"precision=16-mixed: .*bf16-mixed"):
        Game().setup(SimpleNamespace(precision="16-mixed"), None, "fit")


def test_a_start_says_who_plays_against_whom(tmp_path, capsys):
    fit(tmp_path, config("SIDDMModule", images=64))
    said = capsys.readouterr().out
    assert "in SIDDMModule\nagainst:  MLPDiscriminator, " in said


def test_a_discriminator_that_cannot_start_from_a_diffusion_model_is_told(teacher, tmp_path, capsys):
    content = config("UFOGenModule", images=64, discriminator_init_from=teacher)
    content["model"]["init_args"]["discriminator"] = {
        "class_path": "networks.ConvDiscriminator",
        "init_args": {"channels": 4, "channel_mult": [1, 1]},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(content))
    options = ["--config", str(tmp_path / "run.yaml"), f"--trainer.default_root_dir={tmp_path}/runs"]
    assert main(["fit", *options]) == 2
    assert "a ConvDiscriminator holds no network of a diffusion model" in capsys.readouterr().err
