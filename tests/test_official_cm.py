"""The shared mathematics against openai/consistency_models at e32b69e (tests/recorded/consistency_models.json)."""

import math
from itertools import pairwise

import pytest
import torch
from recorded.official import CM, X0, FormulaNetwork, NoiseSequence, agrees, gradients, images, noise, tensor

from diffusion.curricula import SquareRootSteps, TargetRate
from diffusion.denoisers import ConsistencyDenoiser, EDMDenoiser
from diffusion.distances import L1, SquaredL2
from diffusion.noise import karras_grid, perturb
from diffusion.samplers import multistep
from diffusion.solvers import euler_step, heun_step

DENOISERS = {"edm": EDMDenoiser, "consistency": ConsistencyDenoiser}
DISTANCES = {"l1": L1(), "l2": SquaredL2()}


@pytest.mark.parametrize("kind", DENOISERS)
def test_scalings_and_denoiser(kind):
    denoiser = DENOISERS[kind](FormulaNetwork())
    ours, record = denoiser.scalings(tensor(CM["scalings"]["t"])), CM["scalings"][kind]
    for name in ("c_skip", "c_out", "c_in"):
        torch.testing.assert_close(getattr(ours, name), tensor(record[name]), rtol=1e-9, atol=1e-15)
    t = tensor(CM["denoise"]["t"])
    agrees(denoiser(perturb(X0, noise(CM["denoise"]["noise"]), t), t), images(CM["denoise"][kind]))


@pytest.mark.parametrize("record", CM["grid"], ids=lambda r: f"{r['n']} points")
def test_grid(record):
    """The official grid falls and counts points; ours rises and counts intervals."""
    grid = karras_grid(record["n"] - 1).flip(0)
    agrees(grid[record["kept"]], tensor(record["sigmas_karras"]))
    index = torch.tensor(record["pair_index"])
    agrees(grid[index], tensor(record["t"]))
    agrees(grid[index + 1], tensor(record["t2"]))


@pytest.mark.parametrize("record", CM["curriculum"], ids=lambda r: f"{r['s0']}-{r['s1']}-{r['K']}")
def test_square_root_curriculum_and_target_rate(record):
    """N(k) counts the grid's points, one more than ours.

    Note: the paper has N(k) in mu(k) = exp(s0 ln(mu0)/N(k)), the official code N(k) - 1; ours follows the code.
    """
    steps = SquareRootSteps(record["s0"], record["s1"])
    rate = TargetRate(steps, record["mu0"])
    for k, points, mu in zip(record["k"], record["num_scales"], record["mu"], strict=True):
        progress = k / record["K"]
        assert steps(progress) + 1 == points, k
        assert math.isclose(rate(progress), mu, rel_tol=1e-9), k


@pytest.mark.parametrize("record", CM["cd_losses"], ids=lambda r: f"{r['norm']}-{r['num_scales']}")
def test_distillation_loss(record):
    """A Heun step of a teacher with EDM's scalings gives the target network's point."""
    network = FormulaNetwork()
    denoiser, target = ConsistencyDenoiser(network), ConsistencyDenoiser(FormulaNetwork(*record["target"]))
    teacher = EDMDenoiser(FormulaNetwork(*record["teacher"]))
    grid, index = karras_grid(record["num_scales"] - 1).flip(0), torch.tensor(record["index"])
    t, s = grid[index], grid[index + 1]
    x_t = perturb(X0, noise(record["noise"]), t)
    with torch.no_grad():
        goal = target(heun_step(teacher, x_t, t, s), s)
    loss = DISTANCES[record["norm"]](denoiser(x_t, t), goal)
    agrees(loss, tensor(record["loss"]))
    agrees(gradients(loss, network), tensor(record["grad"]))


@pytest.mark.parametrize("record", CM["samplers"]["multistep"], ids=lambda r: f"{len(r['ts']) - 1} evaluations")
def test_multistep_sampler(record):
    """stochastic_iterative_sampler; its last index is eps, where no noise is added, and is not among our levels."""
    levels = karras_grid(record["steps"] - 1).flip(0)[record["ts"][:-1]].tolist()
    draws = NoiseSequence(record["first_noise"])
    x = multistep(ConsistencyDenoiser(FormulaNetwork()), 80 * noise(5), levels, draws)
    agrees(x, images(record["output"]))
    assert draws.calls == record["draws"] - 1  # theirs draws once more and multiplies by 0


def test_one_step_sampler():
    x = multistep(ConsistencyDenoiser(FormulaNetwork()), 80 * noise(5), [80.0], NoiseSequence(6))
    agrees(x, images(CM["samplers"]["onestep"]))


def test_euler_steps():
    """sample_euler: Euler steps down the grid, and a last one to 0, which returns the denoised image."""
    denoiser, x = EDMDenoiser(FormulaNetwork()), 80 * noise(5)
    levels = karras_grid(17).flip(0).unsqueeze(1).expand(-1, len(x))
    for t, s in pairwise(levels):
        x = euler_step(denoiser, x, t, s)
    agrees(denoiser(x, levels[-1]), images(CM["samplers"]["euler_18"]))
