"""Consistency distillation: its residual's order, its relation to CT, and the teacher's place."""

import shutil

import pytest
import torch
from oracles import FiniteDenoise, GaussianDenoise, GaussianFlow, SmallNetwork, gaussian_data, orders
from recorded.official import CM, SHAPE, X0, FormulaNetwork, agrees, gradients, noise, tensor
from small_runs import config, fit

from diffusion.curricula import ConstantSteps
from diffusion.denoisers import EDMDenoiser
from diffusion.distances import L1, PseudoHuber, SquaredL2
from diffusion.noise import karras_grid, perturb
from diffusion.pairs import GridPairs
from diffusion.paths import GridPaths, PairPaths
from diffusion.solvers import euler_step, heun_step, solve
from diffusion.weightings import ConstantGap, InverseGap
from lightning_modules.cd import CDDraws, CDModule
from lightning_modules.checkpoint import load_denoiser, load_module, read_checkpoint
from lightning_modules.ct import CTModule
from main import main

S = 0.5
SMALL = (1, 2, 2)


def cd(teacher, **options):
    options = {
        "network": lambda image_shape, num_classes: SmallNetwork(image_shape, num_classes),
        "image_shape": SMALL,
        "paths": GridPaths(ConstantSteps(17)),
        "distance": SquaredL2(),
        "weight": ConstantGap(),
        "total_images": 1000,
        **options,
    }
    return CDModule(teacher=teacher, **options)


@pytest.mark.parametrize(("step", "order"), [(euler_step, 2), (heun_step, 3)])
def test_the_residual_of_a_pair_falls_with_the_gap(step, order):
    """For the exact consistency function f, f(x_t, t) - f(Solve(x_t, t -> s), s) is one step's error: of the square of
    the gap with Euler's step and of the cube with Heun's."""
    f, x_t = GaussianFlow(S), gaussian_data(6, 1.0) * (S**2 + 1.5**2) ** 0.5
    t, residuals = torch.full((6,), 1.5, dtype=torch.float64), []
    for gap in (0.1, 0.05, 0.025, 0.0125):
        path = torch.stack([t, t - gap])
        residuals.append((f(x_t, t) - f(solve(step, GaussianDenoise(S), x_t, path), t - gap)).abs().max())
    assert orders(residuals) == pytest.approx([order] * 3, abs=0.15)


def test_k_steps_err_less_than_one():
    """CTM's longer paths cost more teacher evaluations, not accuracy: each interval is a step of its own."""
    flow, x_t = GaussianFlow(S), gaussian_data(4, 80.0)
    long = GridPaths(ConstantSteps(17), max_jump=17, power=100.0).path(torch.zeros(4), 0.5, 0.0, 0.002, 80.0)
    errors = []
    for path in (long, long[[0, -1]]):
        x_s = solve(heun_step, GaussianDenoise(S), x_t, path)
        errors.append((x_s - flow(x_t, path[0], target=path[-1])).abs().max())
    assert errors[0] < 1e-2 * errors[1]


def test_ct_is_cd_with_the_true_x0_as_denoiser():
    """Euler's step, equal pairs and weights: the same loss, and the same gradient."""
    x0 = gaussian_data(8, S, SMALL).float()
    pairs, options = GridPairs(ConstantSteps(20)), {"distance": PseudoHuber(), "weight": InverseGap()}
    ct = CTModule(lambda *_: SmallNetwork(SMALL), SMALL, pairs=pairs, total_images=1000, **options).double()
    distilled = cd(lambda x, sigma, label=None: x0, paths=PairPaths(pairs), solver=euler_step, **options).double()
    losses = ct.loss(x0.double()), distilled.loss(x0.double())
    torch.testing.assert_close(*losses, rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(
        *(
            torch.cat([g.flatten() for g in torch.autograd.grad(loss.sum(), list(m.denoiser.parameters()))])
            for loss, m in zip(losses, (ct, distilled), strict=True)
        ),
        rtol=1e-4,  # the levels are float32
        atol=1e-7,
    )


@pytest.mark.parametrize("record", CM["cd_losses"], ids=lambda r: f"{r['norm']}-{r['num_scales']}")
def test_the_official_loss_and_its_gradient(record):
    """openai/consistency_models at e32b69e: Heun's step of the teacher, a target network of other weights."""
    module = cd(
        EDMDenoiser(FormulaNetwork(*record["teacher"])),
        network=lambda *_: FormulaNetwork(),
        image_shape=SHAPE[1:],
        distance={"l1": L1(), "l2": SquaredL2()}[record["norm"]],
        target_rate=0.95,
    ).double()
    module.target.network.load_state_dict(FormulaNetwork(*record["target"]).state_dict())
    grid, index = karras_grid(record["num_scales"] - 1).flip(0), torch.tensor(record["index"])
    loss = module.loss_at(X0, None, CDDraws(noise(record["noise"]), torch.stack([grid[index], grid[index + 1]]), 0))
    agrees(loss, tensor(record["loss"]))
    agrees(gradients(loss, module.denoiser.network), tensor(record["grad"]))


def test_the_gradient_reaches_the_student_alone():
    teacher = EDMDenoiser(SmallNetwork(SMALL, seed=1))
    module = cd(teacher, target_rate=0.9)
    module.loss(gaussian_data(4, S, SMALL).float()).mean().backward()
    assert all(p.grad is not None for p in module.denoiser.parameters())
    assert all(p.grad is None for model in (module.target, module.ema, teacher) for p in model.parameters())


def test_dropout_is_the_same_for_student_and_target():
    """At neighbouring levels that are equal, student and target see the same point: no distance is left."""
    x0 = gaussian_data(4, S, SMALL).float()
    module = cd(FiniteDenoise(x0), network=lambda *_: SmallNetwork(SMALL, dropout=0.5)).train()
    t = torch.ones(4)
    loss = module.loss_between(perturb(x0, x0, t), perturb(x0, x0, t), t, t, None, dropout_seed=3)
    assert torch.equal(loss, torch.zeros(4))
    assert not torch.equal(module.denoiser(x0, t), module.denoiser(x0, t))


def test_the_target_follows_the_student():
    module = cd(GaussianDenoise(S), target_rate=0.9)
    before = [p.clone() for p in module.target.parameters()]
    with torch.no_grad():
        for p in module.denoiser.parameters():
            p += 1
    module.update_averages(0, 4)
    for old, new in zip(before, module.target.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.1)
    assert cd(GaussianDenoise(S)).target is None
    with pytest.raises(ValueError, match=r"target_rate=1.0: an averaging rate lies in \[0, 1\)"):
        cd(GaussianDenoise(S), target_rate=1.0)


def test_the_student_starts_as_its_teacher_which_its_checkpoint_leaves_out(teacher, tmp_path):
    content = config("CDModule", images=64, teacher=teacher, target_rate=0.9)
    content["model"]["init_args"]["optimizer"]["init_args"]["lr"] = 0.0
    last = fit(tmp_path, content) / "checkpoints" / "last.ckpt"
    student, original = read_checkpoint(last)["state_dict"], load_denoiser(teacher).network.state_dict()
    assert {key.split(".")[0] for key in student} == {"denoiser", "ema", "target"}
    for copy in ("denoiser.network", "target.network", "ema.models.0.network"):
        for name, weights in original.items():
            torch.testing.assert_close(student[f"{copy}.{name}"], weights, msg=f"{copy}.{name}")


def test_a_distilled_model_needs_its_teacher_no_more(teacher, tmp_path):
    copy = tmp_path / "copy.ckpt"
    shutil.copy(teacher, copy)
    last = fit(tmp_path, config("CDModule", images=64, teacher=str(copy))) / "checkpoints" / "last.ckpt"
    copy.unlink()
    assert load_module(last).teacher.path == str(copy)
    assert main(["test", "--ckpt_path", str(last)]) == 0
    assert main(["sample", "--ckpt_path", str(last), "--seeds", "0-3", "--out", str(tmp_path / "out")]) == 0
