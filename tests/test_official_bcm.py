"""BCM against numbers recorded from Mosasaur5526/BCM-iCT-torch at 74ad31f (tests/recorded/bcm_ict_torch.json)."""

import math

import pytest
import torch
from recorded.official import (
    BCM,
    SHAPE,
    X0,
    FormulaNetwork,
    NoiseSequence,
    agrees,
    gradients,
    images,
    inside,
    noise,
    tensor,
)

from diffusion.curricula import ConstantSteps, DoublingSteps
from diffusion.denoisers import BidirectionalDenoiser
from diffusion.distances import PseudoHuber
from diffusion.noise import karras_grid, perturb
from diffusion.pairs import GridPairs
from diffusion.weightings import InverseGap
from lightning_modules.bcm import BCMDraws, BCMModule

LOW, HIGH = 0.002, 80.0


@pytest.fixture
def module():
    """BCM as the released code trains it: c = 0.06 for whatever size, distance divided by sqrt(dim)."""
    dim = X0[0].numel()
    return BCMModule(
        network=lambda image_shape, num_classes: FormulaNetwork(),
        image_shape=SHAPE[1:],
        pairs=GridPairs(ConstantSteps(18), reach_top=False),
        distance=PseudoHuber(c_factor=0.06 / dim**0.5, per_root_dim=True),
        weight=InverseGap(),
        target_weight=InverseGap(),
        total_images=1,
    ).double()


def test_scalings_and_denoiser():
    denoiser = BidirectionalDenoiser(FormulaNetwork())
    record = BCM["scalings"]
    t, u = tensor(record["pairs"]).T
    ours = denoiser.scalings(t, u)
    for name in ("c_skip", "c_out", "c_in"):
        torch.testing.assert_close(getattr(ours, name), tensor(record[name]), rtol=1e-9, atol=1e-15)

    record = BCM["denoise"]
    t, u = tensor(record["t"]), tensor(record["u"])
    x = perturb(X0, noise(record["noise"]), t)
    agrees(denoiser(x, t, target=u), images(record["output"]))
    agrees(denoiser(x, t), images(record["output_default_u"]))


@pytest.mark.parametrize("fused", [True, False], ids=["fused passes", "four passes"])
@pytest.mark.parametrize("record", BCM["losses"], ids=lambda r: f"N{r['N']}-noise{r['noise']}")
def test_both_terms_and_their_gradients(module, record, fused):
    """The gradients hold the roles: B gives none, D gives one through its input but none to its weights."""
    module.fused = fused
    grid = karras_grid(record["N"])
    n, m = torch.tensor(record["n"]), torch.tensor(record["m"])
    draws = BCMDraws(noise(record["noise"]), grid[n + 1], grid[n], grid[m], 0)
    consistency, bidirectional = module.loss_terms(X0, None, draws)
    network = module.denoiser.network
    agrees(consistency, tensor(record["ct"]))
    agrees(bidirectional, tensor(record["soft"]))
    agrees(consistency + bidirectional, tensor(record["total"]))
    agrees(gradients(consistency, network), tensor(record["grad_ct"]))
    agrees(gradients(bidirectional, network), tensor(record["grad_soft"]))


@pytest.mark.parametrize("n_intervals", [18, 320])
def test_law_of_the_levels(n_intervals):
    """Just inside both ends of every recorded interval of the distribution function, ours draws that interval."""
    grid, record = karras_grid(n_intervals), BCM["probabilities"][str(n_intervals)]
    pairs, kept = GridPairs(ConstantSteps(n_intervals), reach_top=False), record["kept"]
    v, index = inside(record["n"]["p"], record["n"]["cdf"], kept)
    t, s = pairs.pairs(v, 0.0, LOW, HIGH)
    agrees(t, grid[index + 1], 1e-9)
    agrees(s, grid[index], 1e-9)
    for n, law in record["m_given_n"].items():
        v, index = inside(law["p"], law["cdf"], kept)
        t = grid[int(n) + 1].repeat(len(v))
        agrees(pairs.targets(v, t, 0.0, LOW, HIGH), grid[index], 1e-9)


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_samplers(module, steps):
    """80 -> eps; 80 -> 2.4 -> eps; zigzag (0.1, 1.2); mixed 3.0 and (0.12, 0.4), as the published script sets them."""
    record = BCM["samplers"][{1: "one_step", 2: "ancestral", 3: "zigzag", 4: "mixed"}[steps]]
    draws = NoiseSequence(record["first_noise"] - 1)  # the start is 80 times the draw before
    agrees(module.sample(draws, steps), images(record["output"]))
    assert draws.calls == 1 + record["draws"]


@pytest.mark.parametrize("steps", [1, 2])
def test_inversion_and_reconstruction(module, steps):
    """0.07 -> 80 and 0.07 -> 15 -> 80, then 80 -> eps.

    Note: the published script inverts the uint8 batch; the recording runs its lines on the float batch.
    """
    record = BCM["samplers"][f"inversion_{steps}"]
    inverted = module.invert(X0, NoiseSequence(record["first_noise"]), steps)
    agrees(inverted, images(record["output"]))
    record = BCM["samplers"][f"reconstruction_{steps}"]
    agrees(module.ema_denoiser(inverted, 80.0, target=0.002), images(record["output"]))


@pytest.mark.parametrize("record", BCM["curriculum"], ids=lambda r: f"{r['s0']}-{r['s1']}-{r['K']}")
def test_doubling_curriculum(record):
    """N(k) of the released code, which counts the grid's points: one more than ours.

    Note: the code rounds the length of a stage down to whole iterations and we do not, so where it is no whole number
    our i-th stage begins up to i iterations later.
    """
    steps, length = DoublingSteps(record["s0"], record["s1"]), record["K"]
    stages = math.log2(record["s1"] / record["s0"]) + 1
    slack = 0 if (length / stages).is_integer() else math.ceil(stages)
    for k, points in zip(record["k"], record["num_scales"], strict=True):
        assert steps(k / length) + 1 <= points <= steps(min(k + slack, length) / length) + 1, k
