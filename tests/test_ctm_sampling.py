"""CTM: gamma-sampling, and what it learns."""

import pytest
import torch
from oracles import GaussianDenoise, GaussianFlow, SmallNetwork, gaussian_data
from test_ctm import DSM_LEVELS, ctm

from diffusion.curricula import ConstantSteps
from diffusion.denoisers import TrajectoryDenoiser
from diffusion.distances import SquaredL2
from diffusion.paths import GridPaths
from diffusion.rng import ImageNoise
from diffusion.samplers import ancestral, gamma_sampling, multistep
from lightning_modules.ctm import CTMModule
from networks import MLP

S, EPS, TOP, SHAPE = 0.5, 0.002, 80.0, (1, 2, 2)
TEACHER, FLOW = GaussianDenoise(S), GaussianFlow(S)


class Draws:
    """Standard normal draws in float64, counted."""

    def __init__(self):
        self.generator, self.calls = torch.Generator().manual_seed(3), 0

    def __call__(self):
        self.calls += 1
        return torch.randn(4, *SHAPE, dtype=torch.float64, generator=self.generator)


@pytest.mark.parametrize("sigmas", [(TOP,), (TOP, 2.515), (TOP, 17.53, 2.515, 0.1698)])
def test_gamma_zero_is_ancestral_and_gamma_one_is_multistep(sigmas):
    denoiser, x = TrajectoryDenoiser(SmallNetwork()).double(), TOP * gaussian_data(4, 1.0)
    zero, one, reference = Draws(), Draws(), Draws()
    assert torch.equal(gamma_sampling(denoiser, x, sigmas, zero, 0.0), ancestral(denoiser, x, (*sigmas, EPS)))
    assert torch.equal(gamma_sampling(denoiser, x, sigmas, one, 1.0), multistep(denoiser, x, sigmas, reference))
    assert (zero.calls, one.calls) == (0, len(sigmas) - 1)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.8, 1.0])
def test_with_the_exact_flow_samples_have_the_variance_of_the_data(gamma):
    """Each draw is a unit vector: the squared norm of the result is the variance that independent draws would give."""
    rows = iter(torch.eye(4, dtype=torch.float64).reshape(4, 1, 1, 1, 4))
    x = (S**2 + TOP**2) ** 0.5 * next(rows)
    sample = gamma_sampling(FLOW, x, (TOP, 17.53, 2.515, 0.1698), lambda: next(rows), gamma)
    assert sample.square().sum().item() == pytest.approx(S**2 + EPS**2, rel=1e-9)


@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_samples_take_the_evaluations_asked_for_and_ignore_the_batch(gamma):
    module, calls = ctm(num_classes=3, gamma=gamma), []
    module.ema_denoiser.network.register_forward_hook(lambda *_: calls.append(1))
    label = torch.tensor([0, 1, 2])
    for steps in (1, 2, 4):
        calls.clear()
        together = module.sample(ImageNoise([5, 6, 7], SHAPE), steps, label)
        assert len(calls) == steps and together.shape == (3, *SHAPE) and together.dtype == torch.float32
        alone = module.sample(ImageNoise([6], SHAPE), steps, label[1:2])
        torch.testing.assert_close(alone, together[1:2], rtol=1e-4, atol=1e-4)


def test_it_learns_the_flow_of_points_of_the_plane():
    """A hundred steps with a perfect teacher: the error against the exact map falls to a third."""
    torch.manual_seed(0)
    module = CTMModule(
        lambda shape, classes: MLP(shape, classes, width=32, depth=2, bidirectional=True),
        (2, 1, 1),
        GridPaths(ConstantSteps(17), 17),
        SquaredL2(),
        DSM_LEVELS,
        total_images=100 * 128,
        teacher=TEACHER,
        optimizer=lambda parameters: torch.optim.Adam(parameters, 3e-3),
        sigma_data=S,
    )
    start = TOP * torch.randn(512, 2, 1, 1)

    def error():
        with torch.no_grad():
            return (module.denoiser(start, TOP) - FLOW(start, TOP)).square().mean().sqrt().item()

    before, optimizer = error(), module.configure_optimizers()
    for k in range(100):
        loss = module.training_step((S * torch.randn(128, 2, 1, 1), None), 0)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        module.images_seen += 128
        module.update_averages(k)
    assert error() < before / 3
