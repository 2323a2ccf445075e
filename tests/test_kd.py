"""Knowledge distillation: its loss and its minimum, and the official distillation of a rectified flow."""

import json
from pathlib import Path

import pytest
import torch
from oracles import GaussianDenoise, SmallNetwork, column, gaussian_data
from recorded.official import X0, FormulaNetwork, agrees, gradients, noise, tensor
from torch import nn

from diffusion.denoisers import ConsistencyDenoiser, EDMDenoiser, FlowDenoiser
from diffusion.distances import L1
from diffusion.ode_samplers import Euler, Heun
from diffusion.rng import ImageNoise
from diffusion.sde_samplers import DDPM
from lightning_modules.checkpoint import CheckpointError
from lightning_modules.kd import KDModule
from lightning_modules.teacher_pairs import CachedPairs, FreshPairs

RECORDED = json.loads((Path(__file__).parent / "recorded" / "rectified_flow.json").read_text())
EPS = RECORDED["eps"]
S = 0.5
SHAPE = (1, 2, 2)


def kd(network=None, **options):
    options = {"teacher": GaussianDenoise(S), "pairs": FreshPairs(Heun(), 35), **options}
    return KDModule(lambda shape, n: network or SmallNetwork(shape, n), SHAPE, total_images=1000, **options)


def images(n=6):
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1


class Linear(nn.Module):
    """F = k z."""

    def __init__(self, k):
        super().__init__()
        self.k = nn.Parameter(torch.tensor(k, dtype=torch.float64))

    def forward(self, x, c_noise, label=None, c_target=None):
        return self.k * x


def test_the_loss_is_the_distance_to_the_teachers_image_of_the_same_noise():
    module = kd(distance=L1())
    draws = module.draw(images())
    z, x0 = draws.pairs.noise, draws.pairs.x0
    assert torch.equal(x0, Heun().sample(GaussianDenoise(S), lambda: z, 35))
    expected = (module.denoiser(80 * z, 80.0) - x0).abs().flatten(1).mean(1)
    torch.testing.assert_close(module.loss(images()), expected)
    output = module.training_step((images(), None), 0)
    torch.testing.assert_close(output["loss"], expected.mean())
    assert output["sigma"].tolist() == [80.0] * 6 and not output["terms"]["regression"].requires_grad


def test_on_gaussian_data_the_minimum_is_the_flow():
    """D = (c_skip + c_out c_in k) x and x0 = s z: Newton's step of the quadratic loss finds k; one step is exact."""
    network = Linear(0.0)
    module = kd(network, pairs=FreshPairs(Heun(), 201)).double()
    z = torch.zeros(64, *SHAPE, dtype=torch.float64)
    (slope,) = torch.autograd.grad(module.loss(z).mean(), network.k, create_graph=True)
    network.k.data -= slope / torch.autograd.grad(slope, network.k)[0]
    assert module.loss(z).max() < 1e-5
    module.ema.reset(module.denoiser)
    generated = module.sample(ImageNoise(range(4), SHAPE)).double()
    torch.testing.assert_close(generated, S * ImageNoise(range(4), SHAPE)().double(), rtol=5e-3, atol=0)


def test_the_parametrisation_hardly_matters_at_sigma_max():
    """EDM's and the consistency model's differ by 1e-4 of x0 there."""
    z, network = 80 * gaussian_data(5, 1.0).float(), SmallNetwork(SHAPE)
    torch.testing.assert_close(
        EDMDenoiser(network)(z, 80.0), ConsistencyDenoiser(network)(z, 80.0), rtol=1e-4, atol=1e-4
    )


def test_only_one_step():
    module = kd()
    assert module.sample(ImageNoise(range(3), SHAPE), 1).shape == (3, *SHAPE)
    with pytest.raises(ValueError, match="steps=2: knowledge distillation makes a generator of 1 evaluation"):
        module.sample(ImageNoise(range(3), SHAPE), 2)


def test_the_sample_is_the_averaged_denoiser_of_the_noise():
    module = kd(sigma_max=10.0)
    with torch.no_grad():
        module.denoiser.network.second.bias.add_(1.0)
    expected = module.ema_denoiser(10 * ImageNoise([5], SHAPE)(), 10.0)
    assert torch.equal(module.sample(ImageNoise([5], SHAPE)), expected)


@pytest.mark.parametrize("pairs", [FreshPairs(Euler(), 3), CachedPairs(Euler(), 3, count=50, cache=None)])
def test_loss_is_a_pure_function_of_seed_and_images_seen(pairs):
    module, label = kd(pairs=pairs, num_classes=3), torch.arange(6) % 3
    first = module.loss(images(), label)
    assert first.shape == (6,) and first.requires_grad
    torch.rand(3)
    again = kd(pairs=pairs, num_classes=3)
    assert torch.equal(again.loss(images(), label), first)
    again.images_seen = 6
    assert not torch.equal(again.loss(images(), label), first)
    assert not torch.equal(kd(pairs=pairs, num_classes=3, seed=1).loss(images(), label), first)


def test_validation_meets_pairs_that_training_has_not_seen():
    """Solved anew, for the labels of the data; always the same ones."""
    module = kd(pairs=CachedPairs(Euler(), 3, count=5, cache=None), num_classes=3)
    label = torch.arange(6) % 3
    first, other = module.draw(images(), label, 0), module.draw(images(), label, 1)
    stored = module.draw(images(), label)
    assert torch.equal(first.pairs.label, label)
    module.images_seen = 500
    assert torch.equal(module.draw(images(), label, 0).pairs.noise, first.pairs.noise)
    assert not torch.equal(other.pairs.noise, first.pairs.noise)
    kept = {tuple(row) for row in stored.pairs.noise.flatten(1).tolist()}
    assert len(kept) <= 5 and not kept & {tuple(row) for row in first.pairs.noise.flatten(1).tolist()}


def test_dropout_is_a_function_of_the_images_seen():
    module = kd(SmallNetwork(SHAPE, dropout=0.5)).train()
    assert torch.equal(module.loss(images()), module.loss(images()))
    first = module.loss(images())
    module.images_seen = 6
    assert not torch.equal(module.loss(images()), first)


def test_a_sampler_that_adds_noise_is_refused():
    with pytest.raises(ValueError, match=r"DDPM.*adds noise; pairs need a deterministic one"):
        kd(pairs=FreshPairs(DDPM(), 4)).loss(images())


@pytest.mark.parametrize(("steps", "message"), [(4, r"steps=4: .*1, 3, 5"), (0, "steps=0")])
def test_steps_that_the_sampler_cannot_take_are_refused(steps, message):
    with pytest.raises(ValueError, match=message):
        FreshPairs(Heun(), steps)


def test_a_missing_teacher_is_told_by_the_command_that_makes_it():
    module = kd(teacher="runs/reflow/000/checkpoints/last.ckpt", pairs=CachedPairs(Euler(), 3, count=5))
    with pytest.raises(CheckpointError, match=r"there is no teacher runs/reflow.*configs/reflow.yaml"):
        module.loss(images())


def test_the_teacher_is_no_part_of_the_student():
    teacher = EDMDenoiser(SmallNetwork(SHAPE))
    module = kd(teacher=teacher, pairs=FreshPairs(Euler(), 3))
    module.loss(images()).sum().backward()
    assert all(name.startswith(("denoiser.", "ema.")) for name in module.state_dict())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad is not None for parameter in module.denoiser.parameters())


def test_distillation_of_the_official_code():
    """Its input at a = 1 - eps is the path's (1 - eps) z + eps x0; ours at the noise z + x0 eps/(1 - eps) is the same.

    There D - x0 = a (v_true - v), so that the losses differ by a^2.
    """
    network, z, a = FormulaNetwork(), noise(1), 1 - EPS
    module = kd(network, denoiser=FlowDenoiser, sigma_max=a / EPS)
    loss = module.loss_of(z + X0 * EPS / a, X0, None, 0) / a**2
    agrees(loss, tensor(RECORDED["distillation"]["loss"]))
    agrees(gradients(loss, network), tensor(RECORDED["distillation"]["gradient"]))
    without_the_trace = module.loss_of(z, X0, None, 0)
    torch.testing.assert_close(without_the_trace, tensor(RECORDED["distillation"]["loss"]), rtol=1e-2, atol=0)


def test_of_a_rectified_flow_the_student_is_z_minus_v():
    module = kd(FormulaNetwork(), denoiser=FlowDenoiser)
    z, a = gaussian_data(4, 1.0), 80 / 81
    v = module.denoiser.network(a * z, column(80.0, z).flatten().log() / 4)
    torch.testing.assert_close(module.denoiser(80 * z, 80.0), a * (z - v))
