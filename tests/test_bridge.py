"""The bridge of I2SB: its marginals and posterior by quadrature, its ends, and the numbers of NVlabs/I2SB."""

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from recorded.official import SHAPE, X0, NoiseSequence, agrees, images, noise, tensor

from diffusion.bridge import BridgeSchedule, bridge_point, follow_bridge
from diffusion.denoisers import BridgeDenoiser
from diffusion.noise import forward_step, perturb, posterior_sample

OFFICIAL = json.loads((Path(__file__).parent / "recorded" / "i2sb.json").read_text())
X1 = 0.3 + 0.8 * noise(9)
TOTAL = 0.7


def levels(*values):
    return torch.tensor(values, dtype=torch.float64)


def moments(log_density):
    """Mean and variance of an unnormalised density of one number, by a sum over a fine grid."""
    x = torch.linspace(-8, 8, 400_001, dtype=torch.float64)
    weights = torch.softmax(log_density(x), 0)
    mean = (weights * x).sum()
    return mean, (weights * (x - mean) ** 2).sum()


def normal(x, mean, variance):
    return -((x - mean) ** 2) / (2 * variance)


def affine(draw):
    """Mean and variance of a draw that is linear in its noise, of one number."""
    mean = draw(torch.zeros(1, dtype=torch.float64))
    return mean[0], (draw(torch.ones(1, dtype=torch.float64)) - mean)[0] ** 2


@pytest.mark.parametrize("sigma", [0.05, 0.3, 0.69])
def test_the_marginal_is_that_of_two_diffusions_that_meet(sigma):
    """q(x | x0, x1) is proportional to N(x; x0, s^2) N(x1; x, T^2 - s^2)."""
    x0, x1 = levels(-0.4), levels(0.9)
    truth = moments(lambda x: normal(x, -0.4, sigma**2) + normal(0.9, x, TOTAL**2 - sigma**2))
    ours = affine(lambda z: bridge_point(x0, x1, z, levels(sigma), TOTAL))
    torch.testing.assert_close(torch.stack(ours), torch.stack(truth), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("t", "s"), [(0.69, 0.5), (0.4, 0.1), (0.2, 0.19)])
def test_the_posterior_does_not_depend_on_x1(t, s):
    """q(x_s | x_t, x0, x1) is proportional to q(x_s | x0, x1) q(x_t | x_s, x1), and that is DDPM's posterior."""
    for x1 in (0.9, -2.0):

        def joint(x, x1=x1):
            share = (s / TOTAL) ** 2
            here = normal(x, -0.4 + share * (x1 + 0.4), s**2 * (1 - share))
            left = TOTAL**2 - s**2  # from x at s a bridge to x1 again
            share = (t**2 - s**2) / left
            return here + normal(0.25, x + share * (x1 - x), (t**2 - s**2) * (1 - share))

        truth = moments(joint)
        ours = affine(lambda z: posterior_sample(levels(-0.4), levels(0.25), z, levels(t), levels(s)))
        torch.testing.assert_close(torch.stack(ours), torch.stack(truth), rtol=1e-7, atol=1e-9)


def test_steps_of_the_posterior_from_x1_have_the_marginals_of_the_bridge():
    """With the true x0, whatever levels are visited: mean and variance are carried on exactly."""
    x0, x1 = levels(-0.4), levels(0.9)
    mean, variance = x1[0], levels(0.0)[0]
    for t, s in pairwise((TOTAL, 0.61, 0.6, 0.25, 0.01)):
        step = affine(lambda z, m=mean, t=t, s=s: posterior_sample(x0, m[None], z, levels(t), levels(s)))
        mean, variance = step[0], step[1] + (s / t) ** 4 * variance
        expected = affine(lambda z, s=s: bridge_point(x0, x1, z, levels(s), TOTAL))
        torch.testing.assert_close(torch.stack([mean, variance]), torch.stack(expected))


def test_a_bridge_to_pure_noise_is_the_forward_process():
    """With x1 ~ N(x0, T^2), in the mean over it, x is x0 + sigma z."""
    x0, sigma = levels(-0.4), levels(0.3)
    _, own = affine(lambda z: bridge_point(x0, x0, z, sigma, TOTAL))
    _, of_x1 = affine(lambda z: bridge_point(x0, forward_step(x0, z, levels(0.0), levels(TOTAL)), 0 * z, sigma, TOTAL))
    _, whole = affine(lambda z: perturb(x0, z, sigma))
    torch.testing.assert_close(own + of_x1, whole)


def test_its_ends():
    ends = bridge_point(X0, X1, noise(0), levels(0.0, TOTAL, 0.3), TOTAL)
    assert torch.equal(ends[0], X0[0]) and torch.equal(ends[1], X1[1]) and not torch.equal(ends[2], X1[2])
    straight = bridge_point(X0, X1, 0 * X0, levels(0.1, 0.3, 0.5), TOTAL)
    share = (levels(0.1, 0.3, 0.5) / TOTAL).square().reshape(-1, 1, 1, 1)
    torch.testing.assert_close(straight, (1 - share) * X0 + share * X1)


def test_a_schedule():
    schedule = BridgeSchedule(n=10, beta_start=0.01, beta_max=0.4)
    found = schedule.levels_on(torch.device("cpu"))
    betas = torch.cat([found[:1].square(), found.square().diff()])
    torch.testing.assert_close(betas, betas.flip(0))  # as much on the way out as on the way in
    torch.testing.assert_close(betas.sqrt()[:5].diff(), torch.full((4,), (0.2 - 0.1) / 9, dtype=torch.float64))
    u = torch.linspace(0, 0.99999, 1001, dtype=torch.float64)
    assert schedule.draw(u).unique().tolist() == found.tolist() and schedule.draw(u).float().max() < 1
    assert schedule.levels(9) == found.flip(0).tolist()
    assert schedule.levels(1) == [schedule.sigma_max, schedule.sigma_min] == [found[-1].item(), found[0].item()]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BridgeSchedule(n=7), "n=7"),
        (lambda: BridgeSchedule(beta_start=1e-3), r"beta_start=0.001: it lies in \(0, beta_max/n\], here 0.0003"),
        (lambda: BridgeSchedule().levels(0), "steps=0"),
        (lambda: BridgeSchedule().levels(1000), "steps=1000: 1 to 999 evaluations"),
        (lambda: follow_bridge(lambda x, t, k=None: x, X1, (0.1, 0.3), None), "descending"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- against NVlabs/I2SB ----------------------------------------------------------------------------------------


def formula(x, sigma):
    """In the place of a network."""
    return 0.6 * torch.tanh(1.5 * x) + 0.3 * torch.cos(x.flip(-1) + 3 * sigma.reshape(-1, 1, 1, 1))


class Formula(torch.nn.Module):
    """Told ln(sigma)/4, as every network here."""

    def forward(self, x, c_noise, label=None):
        return formula(x, (4 * c_noise).exp())


def official_levels():
    schedule = BridgeSchedule(OFFICIAL["n"], 1e-4, OFFICIAL["beta_max"])
    return schedule, schedule.levels_on(torch.device("cpu"))


def test_the_official_schedule():
    """Their way back has the variance of the step itself in both directions."""
    schedule, ours = official_levels()
    agrees(ours[OFFICIAL["index"]], tensor(OFFICIAL["std_fwd"]), rtol=1e-6)
    before = torch.cat([torch.zeros(1, dtype=torch.float64), ours[:-1]])[OFFICIAL["index"]]
    agrees((schedule.sigma_max**2 - before**2).sqrt(), tensor(OFFICIAL["std_bwd"]), rtol=1e-6)
    agrees((ours[OFFICIAL["index"]].square() - before**2), tensor(OFFICIAL["betas"]))
    for steps, places in OFFICIAL["spaced"].items():
        clear = [i for i in range(int(steps) + 1) if i * (len(ours) - 1) / int(steps) % 1 != 0.5]  # one tie, of 20
        found = schedule.levels(int(steps))[::-1]
        assert [found[i] for i in clear] == ours[[places[i] for i in clear]].tolist() and len(clear) >= int(steps)
    mean = affine(lambda z: bridge_point(levels(1.0), levels(0.0), z, ours[300:301], schedule.sigma_max))[0]
    assert mean == pytest.approx(1 - (ours[300] / schedule.sigma_max).item() ** 2)


@pytest.mark.parametrize(("name", "z"), [("x_t", noise(0)), ("x_t_ode", 0 * X0)])
def test_the_official_marginal(name, z):
    """With the total variance that the two of theirs add up to."""
    ours, at = official_levels()[1], torch.tensor(OFFICIAL["step"])
    back = torch.cat([torch.zeros(1, dtype=torch.float64), ours[:-1]])[at]
    total = (ours[at].square() + ours[-1] ** 2 - back**2).sqrt()
    agrees(bridge_point(X0, X1, z, ours[at], total), images(OFFICIAL[name]))


def test_the_official_parametrisation():
    """x0 = x - sigma F, where F's target is the recorded label."""
    at = official_levels()[1][OFFICIAL["step"]]

    class Target(torch.nn.Module):
        def forward(self, x, c_noise, label=None):
            return images(OFFICIAL["label"])

    found = BridgeDenoiser(Target())(images(OFFICIAL["x_t"]), at)
    agrees(found, X0)
    agrees(found, images(OFFICIAL["x0_back"]))


def test_the_official_posterior():
    ours = official_levels()[1]
    t, s = ours[777].expand(len(X0)), ours[250].expand(len(X0))
    agrees(posterior_sample(X0, X1, noise(0), t, s), images(OFFICIAL["posterior"]))


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("name", ["sde", "ode"])
def test_the_official_sampler(name, steps):
    schedule, draws = official_levels()[0], NoiseSequence(0)
    denoise = BridgeDenoiser(Formula(), sigma_min=schedule.sigma_min, sigma_max=schedule.sigma_max)
    found = follow_bridge(denoise, X1, schedule.levels(steps), None if name == "ode" else draws)
    agrees(found, images(OFFICIAL[f"{name}_{steps}"]))
    assert draws.calls == OFFICIAL["draws"][f"{name}_{steps}"] == (0 if name == "ode" else steps - 1)
    assert math.prod(SHAPE) == found.numel()
