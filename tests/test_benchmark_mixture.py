"""What the mixture benchmark measures: the exact map, errors from it, the references, and a whole small run."""

import json
import math

import pytest
import torch

from benchmarks import mixture
from benchmarks.mixture_limit import consistency_training_limit, descend, posterior_sample
from benchmarks.mixture_methods import EXACT, METHODS, TOY
from diffusion.curricula import ECTGap
from diffusion.exact import GaussianMixtureDenoise
from diffusion.noise import karras_grid
from diffusion.solvers import euler_step, solve


@pytest.fixture(scope="module")
def exact():
    return mixture.truth(400, steps=128)


def images(points):
    return points.reshape(-1, 2, 1, 1)


def test_the_exact_map_takes_noise_to_the_mixture(exact):
    """All eight modes, each of its width."""
    assert 0 < exact.error < 1e-4
    distance, mode = mixture.nearest(exact.ends)
    assert set(mode.tolist()) == set(range(8))
    assert math.sqrt(float(distance.square().mean()) / 2) == pytest.approx(TOY.std, rel=0.1)


def test_the_exact_map_scores_zero(exact):
    score = mixture.score(images(exact.ends), exact)
    assert (score.rmse, score.median, score.wrong, score.between) == (0, 0, 0, 0)
    assert 0 < score.sw < 0.2  # 400 points


def test_a_shift_is_its_own_error(exact):
    score = mixture.score(images(exact.ends + torch.tensor([0.03, -0.04])), exact)
    assert (score.rmse, score.median) == pytest.approx((0.05, 0.05))
    assert score.wrong == 0


def test_a_turn_by_one_mode_is_wrong_everywhere_and_still_the_law(exact):
    c = math.sqrt(0.5)
    turned = mixture.score(images(exact.ends @ torch.tensor([[c, c], [-c, c]], dtype=torch.float64)), exact)
    assert turned.wrong == 1 and turned.between == 0
    assert turned.rmse == pytest.approx(2 * 0.7 * math.sin(math.pi / 8), rel=0.03)  # a chord of the circle
    assert turned.sw < 0.2


def test_the_centre_lies_between_the_modes(exact):
    score = mixture.score(torch.zeros(400, 2, 1, 1), exact)
    assert score.between == 1
    assert score.rmse == pytest.approx(math.hypot(0.7, math.sqrt(2) * TOY.std), rel=0.02)


def test_references_stand_in_their_order(exact):
    known = mixture.references(exact)
    rmse = [known[name].rmse for name in ("exact map", "Heun, 17 steps", "Euler, 32 steps", "posterior mean")]
    assert rmse == sorted(rmse) and rmse[0] == 0 and rmse[1] < 0.03 and rmse[-1] > 0.6


@pytest.mark.parametrize("method", METHODS)
def test_one_step_is_the_averaged_denoiser_at_sigma_max(method):
    """PD's is DDIM's step to sigma_min, which adds sigma_min/sigma_max of the start."""
    torch.manual_seed(0)
    module, z = METHODS[method](1024, 0), torch.randn(5, 2, 1, 1)
    for parameter in module.ema_denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    with torch.no_grad():
        expected = module.ema_denoiser(80 * z, 80.0)
    if method == "PD":
        expected = expected + 0.002 / 80 * (80 * z - expected)
    torch.testing.assert_close(mixture.one_step(module, z), expected, rtol=1e-4, atol=1e-5)
    assert (module.denoiser.sigma_min, module.denoiser.sigma_max) == (mixture.SIGMA_MIN, mixture.SIGMA_MAX)


def test_all_methods_train_networks_of_one_size():
    """Two levels have an embedding more."""
    sizes = {name: sum(p.numel() for p in build(1024, 0).denoiser.parameters()) for name, build in METHODS.items()}
    assert len({sizes[name] for name in sizes if name != "CTM"}) == 1
    assert sizes["CD"] < sizes["CTM"] < 1.5 * sizes["CD"]


@pytest.mark.filterwarnings("ignore")
def test_a_whole_small_run(tmp_path, capsys):
    out, picture = tmp_path / "mixture.json", tmp_path / "mixture.png"
    command = "--methods CD PD --seeds 3 4 --images 2560 --batch-size 256 --points 300"
    threads = torch.get_num_threads()
    try:
        mixture.main([*command.split(), "--json", str(out), "--figure", str(picture)])
    finally:
        torch.set_num_threads(threads)
    result = json.loads(out.read_text())
    assert [(run["method"], run["seed"]) for run in result["runs"]] == [("CD", 3), ("CD", 4), ("PD", 3), ("PD", 4)]
    first, second = (run["score"]["rmse"] for run in result["runs"][:2])
    assert result["medians"]["CD"]["rmse"] == pytest.approx((first + second) / 2, rel=1e-3) and first != second
    assert str(tmp_path) not in out.read_text()
    assert picture.stat().st_size > 1000
    printed = capsys.readouterr().out
    assert "2,560 training images" in printed and "posterior mean" in printed


def test_limit_of_consistency_training_on_one_gaussian_is_eulers_method():
    """There E[x0 | x] is linear in x, so the mean of the walks takes Euler's steps; their ends spread around it."""
    one, x = GaussianMixtureDenoise(torch.tensor([[0.3, -0.2]]), 0.5), 80 * torch.eye(2, dtype=torch.float64)
    levels = descend(ECTGap(2.0, 4), 0.002, 80.0)
    assert levels[0] == 80 and levels[-1] == 0.002 and levels == sorted(levels, reverse=True)
    euler = solve(euler_step, one, x, torch.tensor(levels, dtype=torch.float64)[:, None].expand(-1, 2))
    walks = 4000
    torch.testing.assert_close(
        consistency_training_limit(one, x, levels, walks), euler, rtol=0, atol=4 * 0.5 / math.sqrt(walks)
    )


def test_posterior_samples_have_the_posterior_mean():
    x, sigma = torch.tensor([[0.5, 0.3]], dtype=torch.float64), 0.4
    drawn = posterior_sample(EXACT, x.expand(20_000, 2), sigma, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.mean(0, keepdim=True), EXACT(x, sigma), rtol=0, atol=0.015)
    assert set(mixture.nearest(drawn)[1].tolist()) >= {0, 1, 2}  # several modes, not their mean
    one = GaussianMixtureDenoise(torch.zeros(1, 2), 0.3)
    drawn = posterior_sample(one, x.expand(20_000, 2), sigma, torch.Generator().manual_seed(0))
    assert drawn.std(0).tolist() == pytest.approx([0.3 * 0.4 / 0.5] * 2, rel=0.02)


def test_levels_of_the_references_are_the_methods():
    assert karras_grid(17)[[0, -1]].tolist() == [mixture.SIGMA_MIN, mixture.SIGMA_MAX]
