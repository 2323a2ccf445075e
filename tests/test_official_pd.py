"""Progressive distillation against numbers recorded from openai/consistency_models at e32b69e (tests/recorded/pd.json).

Note: that repository's training loop cannot run it: it passes `target_model` to `progdist_losses`, which takes
`teacher_model`, and from the second stage on it would pass a network that keeps the first teacher's weights. So its
losses, its sampler and its curriculum were called by themselves.
"""

import json
from pathlib import Path

import pytest
from recorded.official import SHAPE, X0, FormulaNetwork, NoiseSequence, agrees, gradients, images, noise, tensor

from diffusion.denoisers import EDMDenoiser
from diffusion.distances import L1, SquaredL2
from diffusion.stages import Halving, halved_intervals
from diffusion.weightings import TruncatedSNR
from lightning_modules.pd import PDDraws, PDModule

PD = json.loads((Path(__file__).parent / "recorded" / "pd.json").read_text())
DISTANCES = {"l1": L1(), "l2": SquaredL2()}


def module(teacher=(0.9, -0.2), distance=SquaredL2(), **options):  # noqa: B008, a frozen dataclass
    return PDModule(
        network=lambda image_shape, num_classes: FormulaNetwork(),
        image_shape=SHAPE[1:],
        teacher=EDMDenoiser(FormulaNetwork(*teacher)),
        distance=distance,
        weight=TruncatedSNR(),
        total_images=1,
        **options,
    ).double()


def drawn(index, n):
    """The official index counts intervals from the largest level, ours from the smallest."""
    return halved_intervals((n - 1 - tensor(index) + 0.5) / n, n, 0.002, 80.0)


@pytest.mark.parametrize("record", PD["losses"], ids=lambda r: f"{r['norm']}-{r['steps']}")
def test_loss_and_its_gradient(record):
    path = drawn(record["index"], record["steps"])
    agrees(path[0], tensor(record["t"]), 1e-9)
    ours = module(record["teacher"], DISTANCES[record["norm"]])
    loss = ours.loss_at(X0, None, PDDraws(noise(record["noise"]), path, 0))
    agrees(loss, tensor(record["loss"]))
    agrees(gradients(loss, ours.denoiser.network), tensor(record["grad"]))


@pytest.mark.parametrize("record", PD["samples"], ids=lambda r: f"{r['steps']} steps")
def test_sampler(record):
    """sample_progdist ends at sigma_min, as ours, without a last step to 0."""
    ours = module(start_steps=record["steps"])
    agrees(ours.sample(NoiseSequence(5), record["steps"]), images(record["output"]))


@pytest.mark.parametrize("record", PD["curriculum"], ids=lambda r: f"{r['start_scales']}")
def test_stages(record):
    """50,000 iterations a stage and 100,000 for two steps and one; the last stage has no end there."""
    stages = Halving(record["start_scales"])
    ours = [stages.steps[stages.index(k / record["K"])] for k in record["k"]]
    assert ours == record["num_scales"]


def test_weight():
    agrees(TruncatedSNR()(tensor(PD["weights"]["t"])), tensor(PD["weights"]["weight"]), 1e-9)
