"""Progressive distillation: its target, its stages, what is handed over between them, and resuming across them."""

import pytest
import torch
from oracles import FiniteDenoise, GaussianDenoise, SmallNetwork, gaussian_data
from torch import nn

from diffusion.curricula import LinearDecay
from diffusion.distances import SquaredL2
from diffusion.noise import expand, karras_grid, perturb
from diffusion.rng import ImageNoise
from diffusion.solvers import euler_step, solve
from diffusion.stages import Halving, halved_intervals, two_step_target
from diffusion.weightings import TruncatedSNR
from lightning_modules.pd import PDDraws, PDModule

S = 0.5
SHAPE = (1, 2, 2)
POINTS = gaussian_data(5, S, SHAPE, seed=7)


def pd(teacher=None, **options):
    options = {
        "network": lambda image_shape, num_classes: SmallNetwork(image_shape, num_classes),
        "image_shape": SHAPE,
        "distance": SquaredL2(),
        "weight": TruncatedSNR(),
        "total_images": 700,
        **options,
    }
    return PDModule(teacher=teacher or GaussianDenoise(S), **options)


def intervals(n):
    """The path of every interval of a grid of n, (3, n)."""
    return halved_intervals((torch.arange(n) + 0.5) / n, n, 0.002, 80.0)


# --- the target -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("teacher", [GaussianDenoise(S), FiniteDenoise(POINTS)])
@pytest.mark.parametrize("n", [1, 2, 16, 4096])
def test_one_step_with_the_target_lands_where_two_of_the_teacher_do(teacher, n):
    path = halved_intervals(torch.linspace(0, 0.999, 32, dtype=torch.float64), n, 0.002, 80.0)
    x_t = perturb(gaussian_data(32, S), gaussian_data(32, 1.0, seed=1), path[0])
    target = two_step_target(teacher, x_t, path)
    x_s = euler_step(lambda x, sigma, label=None: target, x_t, path[0], path[2])
    torch.testing.assert_close(x_s, solve(euler_step, teacher, x_t, path), rtol=1e-6, atol=1e-6)
    t, s = expand(path[0], x_t), expand(path[2], x_t)
    torch.testing.assert_close(target, x_t - t * (x_s - x_t) / (s - t), rtol=1e-6, atol=1e-6)  # as the paper has it


def test_the_target_does_not_suffer_from_thousands_of_steps():
    """In float32 the paper's form errs by 3e-3 here."""
    path = intervals(4096)[:, ::64]
    x_t = perturb(gaussian_data(64, S), gaussian_data(64, 1.0, seed=1), path[0])
    exact = two_step_target(GaussianDenoise(S), x_t, path)
    assert (two_step_target(GaussianDenoise(S), x_t.float(), path.float()) - exact).abs().max() < 1e-5


def test_loss_in_closed_form():
    """With a network of zeros the student is the exact denoiser a x of Gaussian data, and so is the teacher. One DDIM
    step multiplies x by (S^2 + t s)/(S^2 + t^2)."""
    module = pd(network=lambda *_: Zeros()).double()
    path, x0, noise = intervals(8), gaussian_data(8, S), gaussian_data(8, 1.0, seed=1)
    t, m, s = path
    factor = (S**2 + t * m) * (S**2 + m * s) / ((S**2 + t**2) * (S**2 + m**2))
    gap = S**2 / (S**2 + t**2) - (1 - t * (factor - 1) / (s - t))
    expected = t.pow(-2).clamp(min=1) * gap**2 * perturb(x0, noise, t).square().flatten(1).mean(1)
    torch.testing.assert_close(module.loss_at(x0, None, PDDraws(noise, path, 0)), expected)
    assert expected.min() > 1e-12  # two steps are not one


def test_levels_of_a_step():
    """Each of the N intervals is as likely as the others; the middle is the middle in sigma^(1/7)."""
    v = (torch.arange(400) + 0.5) / 400
    t, m, s = halved_intervals(v, 4, 0.002, 80.0)
    grid = karras_grid(4)
    assert torch.equal(t.unique(), grid[1:]) and torch.equal(s.unique(), grid[:-1])
    assert all((t == level).sum() == 100 for level in grid[1:])
    torch.testing.assert_close(m ** (1 / 7), (t ** (1 / 7) + s ** (1 / 7)) / 2)


# --- the stages -------------------------------------------------------------------------------------------------


def test_stages():
    stages = Halving(8)
    assert stages.steps == (8, 4, 2, 1) and stages.bounds == pytest.approx((0, 1 / 6, 2 / 6, 4 / 6, 1))
    assert [stages.index(k / 6) for k in (0, 0.99, 1, 2, 3.99, 4, 6, 7)] == [0, 0, 1, 2, 2, 3, 3, 3]
    assert [stages.within(2, k / 6) for k in (1, 2, 3, 4, 6)] == pytest.approx([0, 0, 0.5, 1, 1])
    assert Halving(4, 2, last_share=1).bounds == (0, 0.5, 1) and Halving(1).steps == (1,)


class Zeros(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, x, c_noise, label=None, c_target=None):
        return self.scale * x


class Table(nn.Module):
    """F = w_i z with a weight for each level of a grid of n."""

    def __init__(self, n):
        super().__init__()
        self.levels = karras_grid(n).log() / 4
        self.weight = nn.Parameter(torch.zeros(n + 1, dtype=torch.float64))

    def row(self, c_noise):
        return (self.levels - c_noise[:, None]).abs().argmin(1)

    def forward(self, x, c_noise, label=None, c_target=None):
        return expand(self.weight[self.row(c_noise)], x) * x


def test_students_that_learn_all_end_in_one_step_where_the_teacher_ends_in_sixteen():
    """For Gaussian data every target is a multiple of x, which a table of weights holds exactly."""
    module = pd(network=lambda *_: Table(16), start_steps=8, total_images=600).double()
    for stage, n in enumerate((8, 4, 2, 1)):
        module.images_seen = (0, 100, 200, 400)[stage]
        assert module.advance() == (stage > 0) and module.stage == stage and module.num_steps == n
        path, ones = intervals(n), torch.ones(n, *SHAPE, dtype=torch.float64)
        teacher = module.stage_teacher if stage else GaussianDenoise(S)
        wanted, scalings = two_step_target(teacher, ones, path)[:, 0, 0, 0], module.denoiser.scalings(path[0])
        table = module.denoiser.network
        with torch.no_grad():
            table.weight[table.row(path[0].log() / 4)] = (wanted - scalings.c_skip) / (scalings.c_out * scalings.c_in)
        module.ema.reset(module.denoiser)
        assert module.loss(gaussian_data(50, S)).max() < 1e-9
    noise = gaussian_data(4, 1.0)
    grid = karras_grid(16).flip(0)[:, None].expand(-1, 4)
    expected = solve(euler_step, GaussianDenoise(S), 80 * noise, grid)
    torch.testing.assert_close(module.sample(lambda: noise, 1), expected, rtol=1e-9, atol=1e-9)
    assert (module.ema_denoiser(80 * noise, 80.0) - expected).abs().max() > 1e-6  # it ends at sigma_min, not at 0


def test_what_a_stage_begins_with():
    """The first average, handed to the student and its teacher; fresh averages, a fresh optimizer."""
    module = pd(ema_rates=[0.9, 0.0], start_steps=2, last_share=1.0)
    optimizer, x0 = torch.optim.Adam(module.denoiser.parameters(), lr=0.1), gaussian_data(70, S).float()
    while module.images_seen < 350:
        assert not module.advance([optimizer]) and module.stage == 0
        optimizer.zero_grad()
        module.loss(x0).mean().backward()
        optimizer.step()
        module.update_averages(module.images_seen // 70, 70)
        module.images_seen += 70
    averaged = {name: value.clone() for name, value in module.ema_denoiser.state_dict().items()}
    assert any(not torch.equal(value, averaged[name]) for name, value in module.denoiser.state_dict().items())
    assert len(optimizer.state) > 0 and module.advance([optimizer]) and len(optimizer.state) == 0
    for model in (module.denoiser, module.stage_teacher, *module.ema.models):
        assert all(torch.equal(value, averaged[name]) for name, value in model.state_dict().items())
    loss = module.loss(x0)
    with torch.no_grad():
        assert torch.equal(module.loss(x0), loss)
        next(module.stage_teacher.parameters()).add_(0.1)
        assert not torch.equal(module.loss(x0), loss)  # the stage's teacher counts now
    gradient = torch.autograd.grad(loss.sum(), list(module.denoiser.parameters()))
    assert all(g.abs().sum() > 0 for g in gradient)
    assert not any(p.requires_grad for p in module.stage_teacher.parameters())


def test_averages_warm_up_in_every_stage():
    """The k-th step of a stage averages at min(rate, (1 + k)/(10 + k)) with k counted from the stage's beginning."""
    module = pd(ema_rates=[0.999], start_steps=2, last_share=1.0)
    module.images_seen = 350
    module.advance()
    before = module.ema_denoiser.network.second.bias.clone()
    with torch.no_grad():
        module.denoiser.network.second.bias.add_(1.0)
    module.update_averages(350 // 50, 50)
    torch.testing.assert_close(module.ema_denoiser.network.second.bias, before + 0.9)


def test_the_teacher_of_a_stage_has_no_dropout():
    module = pd(network=lambda *_: SmallNetwork(SHAPE, dropout=0.5), start_steps=2).train()
    assert module.denoiser.training and not module.stage_teacher.training and not module.ema_denoiser.training


def test_the_learning_rate_is_one_of_the_stage():
    module = pd(start_steps=4, total_images=500, lr_factor=LinearDecay(final=0.5))  # 100, 200 and 200 images
    assert [module.lr_in_stage(p) for p in (0, 0.1, 0.2, 0.4)] == pytest.approx([1, 0.75, 0.5, 0.5])
    module.images_seen = 100
    module.advance()
    assert [module.lr_in_stage(p) for p in (0.2, 0.4, 0.6)] == pytest.approx([1, 0.75, 0.5])
    with pytest.raises(ValueError, match=r"final=1\.5"):
        LinearDecay(1.5)


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"start_steps": 12}, "start_steps=12, end_steps=1: both are powers of two"),
        ({"start_steps": 0}, "start_steps=0"),
        ({"end_steps": 3}, "end_steps=3"),
        ({"start_steps": 2, "end_steps": 4}, "the steps are halved"),
        ({"last_share": 0.0}, r"last_share=0\.0"),
        ({"total_images": 0}, "total_images=0"),
    ],
)
def test_refused_arguments(options, said):
    with pytest.raises(ValueError, match=said):
        pd(**options)
    with pytest.raises(ValueError, match=r"progress=-0\.1"):
        Halving().index(-0.1)


def test_steps_of_sampling():
    """Those of the stage, and fewer, whose levels are among the stage's; at the end of the run one number alone."""
    module, noise = pd(start_steps=8, end_steps=2, total_images=400), ImageNoise([0, 1], SHAPE)
    assert module.sample(noise, 8).shape == module.sample(noise, 2).shape == (2, *SHAPE)
    for steps in (1, 3, 16):
        with pytest.raises(ValueError, match=rf"steps={steps}: .*\[8, 4, 2\]"):
            module.sample(noise, steps)
    for seen in (100, 200):
        module.images_seen = seen
        module.advance()
    module.sample(noise, 2)
    with pytest.raises(ValueError, match=r"steps=4: .*\[2\]"):
        module.sample(noise, 4)


def test_stages_follow_one_another():
    """A step that is larger than a stage would leave it out, and a longer run would go back."""
    module = pd(start_steps=4, total_images=500)
    module.images_seen = 400
    with pytest.raises(ValueError, match="is the stage of 1 step"):
        module.advance()
    for seen in (100, 300):
        module.images_seen = seen
        module.advance()
    module.total_images = 1000
    with pytest.raises(ValueError, match="total_images=1000: 300 images into such a run is the stage of 2 steps"):
        module.advance()


@pytest.mark.parametrize("start_steps", [1, 2, 8, 16])
@pytest.mark.parametrize("last_share", [0.3, 1.0, 2.0])
def test_a_run_is_refused_before_its_first_step_if_and_only_if_it_would_leave_out_a_stage(start_steps, last_share):
    """Held to the stages of all its steps, of 7 images each; the number of images that the message names is enough."""
    refused = 0
    for total in range(1, 130, 3):
        module = pd(start_steps=start_steps, last_share=last_share, total_images=total)
        visited = {module.stages.index(seen / total) for seen in range(0, total, 7)}
        if len(visited) == len(module.stages.steps):
            module.check_stages(7)
            continue
        with pytest.raises(ValueError, match=f"total_images={total}: at 7 images a step, no step falls to") as error:
            module.check_stages(7)
        refused += 1
        module.total_images = int(str(error.value).split()[-3])
        module.check_stages(7)
    assert (refused > 0) == (start_steps > 1)


def test_the_number_of_images_that_suffices():
    """The stages of pd.yaml are 1, 1, 1, 2 and 2 of 7 parts, and its batch has 512 images."""
    with pytest.raises(ValueError, match="no step falls to the stage of 4 sampling steps; 3584 images suffice"):
        pd(total_images=2048).check_stages(512)
    pd(total_images=3584).check_stages(512)


def test_a_finished_run_is_longer_within_its_last_stage_alone():
    module = pd(total_images=700)
    for seen in (100, 200, 300, 500):
        module.images_seen = seen
        module.advance()
    module.images_seen, module.total_images = 700, 980
    module.check_stages(10)
    module.total_images = 981
    with pytest.raises(ValueError, match="total_images=981: 700 images into such a run is the stage of 2 steps"):
        module.check_stages(10)
