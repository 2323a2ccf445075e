"""The ablations of UFOGen, for runs of one step: every variant changes what its name says, and the table has it."""

import json

import pytest

from benchmarks import ablations
from benchmarks.ablations import TEACHER, VARIANTS, method
from diffusion.adversarial import ApproximatePenalty, GradientPenalty, NonSaturating, Relativistic
from diffusion.grids import VPGrid
from diffusion.ladder import AnyLevelBelow, IndependentLevel, PreviousLevel
from diffusion.weightings import ClampedSNR, ConstantGap, ForwardKL
from lightning_modules.checkpoint import load_module

EXPECTED = {
    "default": lambda m: (
        (m.judged, m.gan_loss, m.reconstruction) == (AnyLevelBelow(), Relativistic(), ClampedSNR())
        and m.penalty == GradientPenalty(0.02, fake=True, interval=4)
        and m.critic.told_source
    ),
    "previous": lambda m: m.judged == PreviousLevel() and not m.critic.told_source,
    "independent": lambda m: isinstance(m.judged, IndependentLevel) and m.judged.law.mean == -0.5,
    "below, not told": lambda m: m.judged == AnyLevelBelow() and not m.critic.told_source,
    "VP, previous": lambda m: m.ladder.grid == VPGrid() and m.judged == PreviousLevel(),
    "VP, below": lambda m: m.ladder.grid == VPGrid() and m.judged == AnyLevelBelow(),
    "KL": lambda m: m.reconstruction == ForwardKL(),
    "constant": lambda m: m.reconstruction == ConstantGap(),
    "none": lambda m: m.reconstruction_weight == 0,
    "SNR, weight 1": lambda m: m.reconstruction == ClampedSNR() and m.reconstruction_weight == 1,
    "R1": lambda m: m.penalty == GradientPenalty(0.02, interval=4),
    "aR1 + aR2": lambda m: m.penalty == ApproximatePenalty(100.0, 0.01, fake=True, interval=4),
    "no penalty": lambda m: m.penalty is None and m.gan_loss == Relativistic(),
    "non-saturating, R1": lambda m: m.gan_loss == NonSaturating() and m.penalty == GradientPenalty(0.02, interval=4),
    "clamped logits": lambda m: m.gan_loss == NonSaturating(0.5) and m.penalty is None,
    "discriminator of 512": lambda m: (
        m.critic.network.layer_out.in_features == 512 and m.init_from is m.discriminator_init_from is None
    ),
    "from diffusion": lambda m: (
        m.critic.network.layer_out.in_features == 512 and m.init_from == m.discriminator_init_from is not None
    ),
}


def test_every_variant_has_an_expectation():
    assert EXPECTED.keys() == VARIANTS.keys()


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_what_its_name_says(name, tmp_path):
    run = method(name, 3)
    makers = {"diffusion": ablations.train(tmp_path, TEACHER, 512, {})} if run.starts else {}
    module = load_module(ablations.train(tmp_path, run, 128, makers))
    assert EXPECTED[name](module) and module.seed == 3 and module.total_images == 128


def test_the_table_and_the_file(tmp_path, capsys):
    words = ["--root", str(tmp_path), "--images", "128", "--num-images", "20", "--variants", "default", "none"]
    ablations.main([*words, "--seeds", "0", "1", "--json", str(tmp_path / "a.json")])
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    expected = [(v, seed, steps) for seed in (0, 1) for v in ("default", "none") for steps in (1, 4)]
    assert [(r["variant"], r["seed"], r["steps"]) for r in rows] == expected
    assert all(r["fd_digits"] > 0 for r in rows)
    assert "UFOGen on the digits, 128 images" in capsys.readouterr().out
