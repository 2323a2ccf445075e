"""CTMModule and gamma_sampling against numbers recorded from sony/ctm at 87cca3b (tests/recorded/ctm.json).

In the recording the mean square stands in the place of LPIPS, and the network is `FormulaNetwork` with matrices of one
element, of which `a` is registered last: the "last layer" of the adaptive factor.
"""

import json
from pathlib import Path

import pytest
import torch
from recorded.official import X0, FormulaNetwork, NoiseSequence, agrees, gradients, images, inside, noise, tensor
from torch import nn

from diffusion.curricula import ConstantSteps
from diffusion.denoisers import EDMDenoiser, TrajectoryDenoiser
from diffusion.distances import SquaredL2
from diffusion.levels import LogNormal, UniformRho
from diffusion.noise import karras_grid, perturb
from diffusion.paths import GridPaths
from diffusion.samplers import gamma_sampling
from lightning_modules.ctm import CTMDraws, CTMModule

RECORD = json.loads((Path(__file__).parent / "recorded" / "ctm.json").read_text())
LOW, HIGH = 0.002, 80.0


class MatrixNetwork(FormulaNetwork):
    """FormulaNetwork with parameters of shape (1, 1), the second one last."""

    def __init__(self, a: float = 0.8, b: float = -0.3):
        nn.Module.__init__(self)
        self.b = nn.Parameter(torch.full((1, 1), b, dtype=torch.float64))
        self.a = nn.Parameter(torch.full((1, 1), a, dtype=torch.float64))


def recorded_module(record, **options):
    edm = EDMDenoiser(FormulaNetwork(*record["teacher"])).double()
    module = CTMModule(
        network=lambda image_shape, num_classes: MatrixNetwork(*record["student"]),
        image_shape=X0.shape[1:],
        teacher=None if record["self_learn"] else lambda x, sigma, label: edm(x, sigma, label),
        paths=GridPaths(ConstantSteps(17), 17),
        distance=SquaredL2(),
        levels=LogNormal(-1.2, 1.2),
        total_images=1,
        **options,
    ).double()
    module.target.network.load_state_dict(MatrixNetwork(*record["target_weights"]).state_dict())
    return module


def recorded_draws(record):
    grid = karras_grid(17).flip(0)
    path = torch.stack([grid[torch.tensor(record["index"]) + j] for j in range(record["heun"] + 1)])
    agrees(path[0], tensor(record["t"]))
    agrees(path[-1], tensor(record["u"]))
    s = grid[torch.tensor(record["s_index"])]
    agrees(s, tensor(record["s"]))
    return CTMDraws(noise(record["noise"]), path, s, noise(record["dsm_noise"]), tensor(record["tau"]), 0)


@pytest.mark.parametrize("record", RECORD["losses"], ids=lambda r: r["name"])
def test_both_terms_and_their_gradients(record):
    """The adaptive factor is in the denoising term; the student, its target and the teacher have other weights each."""
    module, draws = recorded_module(record), recorded_draws(record)
    consistency, denoising = module.loss_terms(X0, None, draws)
    agrees(consistency, tensor(record["consistency"]))
    agrees(denoising, tensor(record["denoising"]))
    agrees(gradients(consistency, module.denoiser.network).flatten(), tensor(record["grad_consistency"]))
    agrees(gradients(denoising, module.denoiser.network).flatten(), tensor(record["grad_denoising"]))


@pytest.mark.parametrize("record", RECORD["losses"], ids=lambda r: r["name"])
def test_adaptive_factor(record):
    """With and without it the denoising terms differ by the recorded factor."""
    draws = recorded_draws(record)
    adaptive = recorded_module(record).loss_terms(X0, None, draws)[1]
    plain = recorded_module(record, adaptive=False).loss_terms(X0, None, draws)[1]
    agrees(adaptive / plain, torch.full_like(plain, record["balance"]))


@pytest.mark.parametrize("record", RECORD["losses"], ids=lambda r: r["name"])
def test_estimate_and_target(record):
    module, draws, seen = recorded_module(record), recorded_draws(record), {}
    module.distance = lambda estimate, target: (
        seen.update(estimate=estimate, target=target) or estimate.flatten(1)[:, 0]
    )
    x_t = perturb(X0, draws.noise, draws.path[0])
    module.consistency(x_t, module.follow(x_t, draws.path, None, 0), draws, None)
    agrees(seen["estimate"], images(record["estimate"]))
    agrees(seen["target"], images(record["target"]))
    assert seen["estimate"].requires_grad and not seen["target"].requires_grad


@pytest.mark.parametrize("n", [17, 39])
def test_laws_of_the_levels(n):
    """k with probability proportional to k; t any point with k intervals below it; s any point up to u."""
    record, grid, law = RECORD["laws"][str(n)], karras_grid(n), GridPaths(ConstantSteps(n), n)
    assert record["k"] == list(range(1, n + 1))
    numbers, drawn = inside(record["p"], torch.tensor(record["p"]).cumsum(0).tolist(), record["k"])
    one = torch.tensor([0.5], dtype=torch.float64)
    assert [len(law.path(one, w, 0.0, LOW, HIGH)) - 1 for w in numbers.tolist()] == drawn.tolist()
    for k, starts in record["starts"].items():
        w = (int(k) ** 2 / (n * (n + 1))) * (1 - 1e-9)
        v = (torch.arange(starts["number"], dtype=torch.float64) + 0.5) / starts["number"]
        path = law.path(v, w, 0.0, LOW, HIGH)
        assert len(path) == int(k) + 1 and starts["p"] == pytest.approx([1 / starts["number"]] * starts["number"])
        agrees(path[0].flip(0), grid.flip(0)[: starts["number"]], 1e-12)
    for ends in record["ends"].values():
        points = ends["high"] - ends["low"]
        u = grid.flip(0)[ends["index"] + ends["heun"]].repeat(points)
        v = (torch.arange(points, dtype=torch.float64) + 0.5) / points
        agrees(law.ends(v, u, 0.0, LOW, HIGH).flip(0), grid.flip(0)[ends["low"] : ends["high"]], 1e-12)


def test_law_of_the_denoising_levels():
    """Half log-normal, half over the top 70 % of sigma^(1/7). Ours is truncated to [sigma_min, sigma_max]."""
    record = RECORD["denoising_levels"]
    first, second = tensor(record["sigma"]).chunk(2)
    wide = LogNormal(-1.2, 1.2).continuous(torch.special.ndtr(tensor(record["z"])), 1e-6, 1e6)
    agrees(wide, first)
    agrees(UniformRho(top=0.7).continuous(1 - tensor(record["v"]), LOW, HIGH), second)


@pytest.mark.parametrize("record", RECORD["samplers"], ids=lambda r: f"{r['steps']}-gamma{r['gamma']}")
def test_samplers(record):
    """gamma = 0 and 1 are functions of their own there, `sample_exact` and `sample_multistep`."""
    denoiser, draws = TrajectoryDenoiser(FormulaNetwork()).double(), NoiseSequence(6)
    x = gamma_sampling(denoiser, HIGH * noise(5), record["sigmas"], draws, record["gamma"])
    agrees(x, images(record["output"]))
    assert draws.calls == record["draws"]
