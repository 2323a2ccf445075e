"""CTModule and DiffusionModule against numbers recorded from openai/consistency_models at e32b69e and, for iCT,
Mosasaur5526/BCM-iCT-torch at 74ad31f (tests/recorded)."""

import pytest
import torch
from recorded.official import (
    BCM,
    CM,
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

from diffusion.curricula import ConstantSteps
from diffusion.distances import L1, PseudoHuber, SquaredL2
from diffusion.levels import LogNormal
from diffusion.noise import karras_grid
from diffusion.pairs import GridPairs
from diffusion.weightings import ConstantGap, InverseGap
from lightning_modules.ct import CTDraws, CTModule
from lightning_modules.diffusion import DiffusionDraws, DiffusionModule


def consistency_module(**options):
    return CTModule(
        network=lambda image_shape, num_classes: FormulaNetwork(),
        image_shape=SHAPE[1:],
        pairs=GridPairs(ConstantSteps(18)),
        total_images=1,
        **options,
    ).double()


@pytest.mark.parametrize("record", CM["ct_losses"], ids=lambda r: f"{r['norm']}-{r['num_scales']}")
def test_ct_loss_and_its_gradient(record):
    """The target network has weights of its own; the gradient shows that none flows through it."""
    distance = {"l1": L1(), "l2": SquaredL2()}[record["norm"]]
    module = consistency_module(distance=distance, weight=ConstantGap(), target_rate=lambda progress: 0.9)
    module.target.network.load_state_dict(FormulaNetwork(*record["target"]).state_dict())
    grid, index = karras_grid(record["num_scales"] - 1).flip(0), torch.tensor(record["index"])
    loss = module.loss_at(X0, None, CTDraws(noise(record["noise"]), grid[index], grid[index + 1], 0))
    agrees(loss, tensor(record["loss"]))
    agrees(gradients(loss, module.denoiser.network), tensor(record["grad"]))


@pytest.mark.parametrize("record", BCM["ict_losses"], ids=lambda r: f"N{r['N']}")
def test_ict_loss_and_its_gradient(record):
    """c = 0.06 for whatever size and the distance divided by sqrt(dim), as in the BCM authors' code.

    Note: the paper (iCT) has c = 0.00054 sqrt(dim) and does not divide; `PseudoHuber()` follows the paper.
    """
    distance = PseudoHuber(c_factor=0.06 / X0[0].numel() ** 0.5, per_root_dim=True)
    module = consistency_module(distance=distance, weight=InverseGap())
    grid, n = karras_grid(record["N"]), torch.tensor(record["n"])
    loss = module.loss_at(X0, None, CTDraws(noise(record["noise"]), grid[n + 1], grid[n], 0))
    agrees(loss, tensor(record["loss"]))
    agrees(gradients(loss, module.denoiser.network), tensor(record["grad"]))


@pytest.mark.parametrize("record", BCM["ict_losses"], ids=lambda r: f"N{r['N']}")
def test_ict_law_of_the_levels(record):
    grid = karras_grid(record["N"])
    weights = LogNormal(-1.1, 2.0).weights(grid)
    torch.testing.assert_close(weights[record["kept"]], tensor(record["p"]), rtol=1e-5, atol=0)
    v, n = inside(record["p"], record["cdf"], record["kept"])
    t, s = GridPairs(ConstantSteps(record["N"])).pairs(v, 0.0, 0.002, 80.0)
    agrees(t, grid[n + 1], 1e-9)
    agrees(s, grid[n], 1e-9)


@pytest.fixture
def diffusion_module():
    return DiffusionModule(
        network=lambda image_shape, num_classes: FormulaNetwork(),
        image_shape=SHAPE[1:],
        levels=LogNormal(-1.2, 1.2),
        total_images=1,
    ).double()


def test_edm_loss_and_its_gradient(diffusion_module):
    """The official "karras" weighting, snr + 1/sigma_data^2, is EDM's 1/c_out^2."""
    (record,) = CM["edm_losses"]
    draws = DiffusionDraws(noise(record["noise"]), tensor(record["sigma"]), 0)
    loss = diffusion_module.loss_at(X0, None, draws)
    agrees(loss, tensor(record["loss"]))
    agrees(gradients(loss, diffusion_module.denoiser.network), tensor(record["grad"]))


@pytest.mark.parametrize("points", [5, 18])
def test_heun_sample(diffusion_module, points):
    sample = diffusion_module.sample(NoiseSequence(5), steps=2 * points - 1)
    agrees(sample, images(CM["samplers"][f"heun_{points}"]))
