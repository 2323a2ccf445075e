"""Multi-step restoration: identities and evaluations. The Gaussian oracle is in test_tasks_oracle.py."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from gaussian_posterior import GaussianPrior, karras, keeping, rbf
from oracles import GaussianDenoise, SmallNetwork, gaussian_data, orders
from test_samplers import Counted, Noise

from cli.restore_methods import Case
from cli.restore_methods import dps as restore_dps
from diffusion.denoisers import EDMDenoiser
from diffusion.rng import ImageNoise
from diffusion.sde_samplers import DDIM, DDPM
from diffusion.solvers import euler_step, heun_step
from tasks.few_step import Constrained
from tasks.gradient_guidance import PiGDMDenoise, dps, pigdm
from tasks.jpeg import JPEG
from tasks.masks import box_mask
from tasks.null_space import ddnm, ddrm, repaint
from tasks.operators import AveragePool, Grey, Inpainting
from tasks.sde_edit import ddim_edit, ddim_inversion, sdedit
from tasks.separable import bicubic, gaussian_blur

S, EPS, TOP = 0.5, 0.002, 80.0
SHAPE = (3, 8, 8)
PRIOR = GaussianPrior(torch.kron(0.6 + 0.4 * torch.eye(3, dtype=torch.float64), rbf(8) + 0.005 * torch.eye(64)), SHAPE)
OPERATORS = [Inpainting(box_mask(8, 8)), AveragePool(4), Grey(), bicubic(8, 8, 2), gaussian_blur(8, 8, 0.7)]
NAMES = ["box", "pooling", "grey", "bicubic", "blur"]
METHODS = {
    "ddrm": ddrm,
    "ddnm": ddnm,
    "ddnm, repeated": partial(ddnm, repeats=3),
    "repaint": partial(repaint, repeats=2),
    "pigdm": pigdm,
    "pigdm, adaptive": partial(pigdm, adaptive=True, eta=0.0),
    "dps": partial(dps, zeta=0.1),
}
EVALUATIONS = {"ddnm, repeated": 3, "repaint": 2}


def images(seed=0, n=3):
    return gaussian_data(n, S, SHAPE, seed)


def noise(n=3):
    return Noise(n, SHAPE)


class Straight:
    """A denoiser with the Jacobian I."""

    def __call__(self, x, sigma, label=None):
        return x + (PRIOR.mean(x, sigma) - x).detach()


@pytest.mark.parametrize("name", [*METHODS, "sdedit"])
def test_evaluations_labels_and_a_batch_of_one(name):
    """Labels reach every evaluation, and the result of an image depends on no other; under inference mode, without a
    gradient in the weights. By a random network."""
    method, network = (METHODS | {"sdedit": keeping})[name], SmallNetwork(SHAPE, num_classes=10)
    model, label = EDMDenoiser(network.double(), S), torch.tensor([4, 5, 6])
    operator, counted = AveragePool(2, sigma_y=0.05), Counted(model)
    y = operator.measure(images())
    with torch.inference_mode():
        together = method(counted, operator, y, karras(6), ImageNoise([0, 1, 2], SHAPE), label)
        alone = method(model, operator, y[1:2], karras(6), ImageNoise([1], SHAPE), label[1:2])
    assert len(counted.sigmas) == 6 * EVALUATIONS.get(name, 1)
    assert all(given is label for given in counted.labels)
    assert together.dtype == torch.float64 and together.shape == (3, *SHAPE)
    torch.testing.assert_close(alone, together[1:2], rtol=1e-9, atol=1e-9)
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("name", ["ddrm", "ddnm", "repaint", "sdedit"])
@pytest.mark.parametrize("operator", OPERATORS, ids=NAMES)
def test_what_is_known_is_the_measurement(name, operator):
    """Without noise, those that replace it meet it at last; a blur up to what lies below its threshold."""
    y = operator.measure(images().float())
    restored = (METHODS | {"sdedit": keeping})[name](PRIOR.mean, operator, y, karras(8), ImageNoise([0, 1, 2], SHAPE))
    lost = 2e-3 if operator is OPERATORS[-1] else 0
    assert restored.dtype == torch.float32 and (operator.measure(restored) - y).abs().max() <= 1e-6 + lost


@pytest.mark.parametrize("operator", OPERATORS, ids=NAMES)
def test_ddnm_is_pigdm_with_the_jacobian_one(operator):
    """At weight r^2: the estimates are equal, and so is the whole loop, with e = (x - x0')/t, of DDNM's estimate."""
    y, x = operator.measure(images()), images(1) * 3
    constrained, guided = (
        Constrained(PRIOR.mean, operator, y, math.inf),
        PiGDMDenoise(Straight(), operator, y, S, adaptive=True),
    )
    torch.testing.assert_close(guided(x, 2.0), constrained(x, 2.0), rtol=0, atol=1e-9)
    whole = pigdm(Straight(), operator, y, karras(8), noise(), adaptive=True, eta=0.5)
    start = operator.pseudo_inverse(y) + TOP * noise()()
    skip = noise()
    skip()
    other = DDIM(eta=0.5)(constrained, start, karras(8), skip)
    torch.testing.assert_close(whole, other, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("adaptive", "expected"), [(False, 1.0), (True, 0.0)])
def test_how_far_pigdm_pulls_correlated_pixels(adaptive, expected):
    """High up, along variances k that are not s^2, all known: k/s^2 times the residual for w = t^2, nothing for r^2."""
    k = torch.tensor([0.01, S**2, 4.0, 200.0], dtype=torch.float64).repeat(16).reshape(1, 1, 8, 8)

    def mean(x, sigma, label=None):
        return k / (k + sigma**2) * x

    y, x, t = images(), 1e5 * images(1), 1e5
    everything = Inpainting(torch.ones(8, 8, dtype=torch.bool))
    pulled = PiGDMDenoise(mean, everything, y, S, adaptive)(x, t) - mean(x, t)
    torch.testing.assert_close(pulled, expected * k / S**2 * (y - mean(x, t)), rtol=1e-6, atol=1e-6)


def test_ddnm_without_trajectory_noise_is_ancestral_of_fresh_noise():
    """eta = 1: x = x0' + s z, spelled out; it is the few-step algorithm over D, with s for sqrt(s^2 - eps^2)."""
    operator, z, levels = OPERATORS[0], noise(), (5.0, 1.0, 0.2)
    y = operator.measure(images())
    made = ddnm(PRIOR.mean, operator, y, levels, z, eta=1.0)
    x = operator.pseudo_inverse(y) + 5.0 * z.drawn[0]
    for t, s, drawn in zip(levels, (1.0, 0.2, 0.0), z.drawn[1:], strict=True):
        x = operator.project(PRIOR.mean(x, t), y) + s * drawn
    torch.testing.assert_close(made, x)


@pytest.mark.parametrize("name", ["ddrm", "ddnm"])
@pytest.mark.parametrize("operator", [AveragePool(4, sigma_y=0.1), Grey(sigma_y=0.1)], ids=["pooling", "grey"])
def test_the_variance_of_what_is_known_under_noise(name, operator):
    """At every level s > r the range has the variance s^2 about x0' = A^+ y = A^+ (A x0 + sigma_y n): r^2 of y's own
    noise, s^2 - r^2 added. A denoiser that never answers shows it; fresh noise alone (eta = 1) for DDNM."""
    truth, s = torch.zeros(4000, 3, 4, 4, dtype=torch.float64), 0.9
    generator = torch.Generator().manual_seed(0)

    def draw():
        return torch.randn(4000, 3, 4, 4, dtype=torch.float64, generator=generator)

    y, seen = operator.observe(truth, draw), []

    def zero(x, sigma, label=None):
        seen.append(operator.known_part(x))
        return torch.zeros_like(x)

    METHODS[name](zero, operator, y, (2.0, s, 0.05), draw, eta=1.0)
    dimensions = operator.measure(truth[:1]).numel()
    for level, known in zip((2.0, s), seen[:2], strict=True):
        assert known.square().sum().item() / (4000 * dimensions) == pytest.approx(level**2, rel=0.05)


def dense_ddrm(denoise, operator, y, sigmas, z, eta, eta_b):
    """Eq. 7 and 8 number by number, in the coordinates of a singular value decomposition of the whole matrix."""
    u, values, vt = torch.linalg.svd(PRIOR.matrix(operator))
    s = torch.zeros(len(vt), dtype=torch.float64)
    s[: len(values)] = values.where(values > 1e-9, 0)
    ybar = torch.zeros(len(y), len(vt), dtype=torch.float64)
    ybar[:, : len(values)] = y.flatten(1) @ u[:, : len(values)]
    x = torch.empty_like(ybar)
    drawn = z().flatten(1) @ vt.T
    for i, s_i in enumerate(s.tolist()):
        r = operator.sigma_y / s_i if s_i else math.inf
        told = r <= sigmas[0]
        x[:, i] = ybar[:, i] / s_i + math.sqrt(sigmas[0] ** 2 - r**2) * drawn[:, i] if told else sigmas[0] * drawn[:, i]
    for t, level in zip(sigmas, (*sigmas[1:], 0.0), strict=True):
        x0 = denoise((x @ vt).reshape(-1, *SHAPE), t).flatten(1) @ vt.T
        drawn = z().flatten(1) @ vt.T
        for i, s_i in enumerate(s.tolist()):
            old, fresh = math.sqrt(1 - eta**2) * level, eta * level * drawn[:, i]
            if s_i == 0:
                x[:, i] = x0[:, i] + old * (x[:, i] - x0[:, i]) / t + fresh
            elif level < (r := operator.sigma_y / s_i):
                x[:, i] = x0[:, i] + old * (ybar[:, i] / s_i - x0[:, i]) / r + fresh
            else:
                spread = math.sqrt(level**2 - (eta_b * r) ** 2)
                x[:, i] = (1 - eta_b) * x0[:, i] + eta_b * ybar[:, i] / s_i + spread * drawn[:, i]
    return (x @ vt).reshape(-1, *SHAPE)


@pytest.mark.parametrize(("sigma_y", "eta_b"), [(0.0, 1.0), (0.1, 1.0), (0.1, 0.6), (0.5, 1.0)])
@pytest.mark.parametrize("operator", OPERATORS, ids=NAMES)
def test_ddrm_is_the_papers_equations_by_a_dense_decomposition(operator, sigma_y, eta_b):
    """With levels above and below the noise r of A^+ y, and, of the blur, r above the first level too."""
    operator, levels = replace(operator, sigma_y=sigma_y), (2.5, 1.0, 0.3, 0.05)
    y = operator.observe(images(), noise())
    made = ddrm(PRIOR.mean, operator, y, levels, noise(), eta=0.8, eta_b=eta_b)
    torch.testing.assert_close(
        made, dense_ddrm(PRIOR.mean, operator, y, levels, noise(), 0.8, eta_b), rtol=0, atol=1e-7
    )


@pytest.mark.parametrize("operator", OPERATORS, ids=NAMES)
def test_a_step_of_ddrm_to_a_level_below_the_noise_of_what_is_known(operator):
    """By hand, s < r: the mean over z is x0 + sqrt(1 - eta^2) s (A^+ y - x0)/r, and z adds eta s z, so that y's noise r
    and z together make the level's variance s^2."""
    s, eta = 0.02, 0.6
    operator = replace(operator, sigma_y=0.1)
    first, truth, seen = 200.0, images(), []

    def right(x, sigma, label=None):
        seen.append(x)
        return truth

    def made(y, z):
        seen.clear()
        ddrm(right, operator, y, (first, s), z, eta=eta)
        return operator.known_part(seen[1])

    clean, z = operator.measure(truth), noise()
    torch.testing.assert_close(
        made(clean, lambda: torch.zeros(3, *SHAPE, dtype=torch.float64)), operator.known_part(truth)
    )
    drawn = made(clean, z) - operator.known_part(truth)
    torch.testing.assert_close(drawn, eta * s * operator.known_part(z.drawn[1]), rtol=0, atol=1e-9)
    moved = made(clean + operator.measure(images(7)), lambda: torch.zeros(3, *SHAPE, dtype=torch.float64))
    share = operator.weighted(images(7), lambda r: math.sqrt(1 - eta**2) * s / r)
    torch.testing.assert_close(moved - operator.known_part(truth), share, rtol=0, atol=1e-9)


def test_repaint_without_an_unknown_part_and_ddpm():
    """With all known it gives the measurement; and of the unknown part alone it makes DDPM's steps."""
    everything = Inpainting(torch.ones(8, 8, dtype=torch.bool))
    y = images()
    torch.testing.assert_close(repaint(PRIOR.mean, everything, y, karras(4), noise()), y)


def test_sdedit_is_ddpm_from_a_noised_guide():
    levels, z = (5.0, 1.0, 0.2), noise()
    made = sdedit(PRIOR.mean, images(), levels, z)
    start = images() + 5.0 * z.drawn[0]
    rest = iter(z.drawn[1:])
    torch.testing.assert_close(made, DDPM()(PRIOR.mean, start, levels, lambda: next(rest)))
    kept = sdedit(PRIOR.mean, images(), levels, noise(), keep=OPERATORS[0])
    torch.testing.assert_close(kept[..., OPERATORS[0].mask], images()[..., OPERATORS[0].mask])
    assert not torch.allclose(kept, images())


def test_dps_step():
    """One step spelled out, with each image's own norm."""
    operator, z, t, s = AveragePool(4), noise(), 2.0, 0.5
    y = operator.measure(images())
    made = dps(PRIOR.mean, operator, y, (t, s), z, zeta=0.7)
    x = t * z.drawn[0]
    for i, (a, b) in enumerate(((t, s), (s, 0.0))):
        gradients = []
        for image, known in zip(x, y, strict=True):
            point = image[None].clone().requires_grad_()
            (known - operator.measure(PRIOR.mean(point, a))).norm().backward()
            gradients.append(point.grad[0])
        down, added = b**2 / a, b * math.sqrt(1 - b**2 / a**2)
        x0 = PRIOR.mean(x, a)
        step = 0.7 * math.sqrt((1 + a**2) * (1 + b**2)) * torch.stack(gradients)
        x = x0 + down * (x - x0) / a + added * z.drawn[i + 1] - step
    torch.testing.assert_close(made, x)


def test_jpeg():
    """By x0 - J(x0) + y where no gradient of J is needed."""
    shape, model = (3, 16, 16), GaussianDenoise(S)
    truth = gaussian_data(2, S, shape).clamp(-1, 1)
    y = JPEG(10).measure(truth)
    for method in (ddnm, pigdm):
        restored = method(model, JPEG(10), y, karras(6), Noise(2, shape))
        assert restored.isfinite().all() and (restored - truth).abs().mean() < 1


def test_dps_moves_a_jpeg_towards_the_measurement():
    """As `restore` runs it, with zeta = 1: by the surrogate's gradient, and judged by the real codec. Without guidance,
    DDPM from the same noise, the distance is that of any image."""
    shape, model, operator, levels = (3, 16, 16), GaussianDenoise(S), JPEG(10), tuple(karras(20))
    y = operator.measure(gaussian_data(2, S, shape).clamp(-1, 1))
    case = Case(model, operator, y, Noise(2, shape), None, levels, 0.1, EPS, TOP, S)
    z = Noise(2, shape)
    free = DDPM()(model, TOP * z(), levels, z)

    def residual(x):
        return (operator.measure(x) - y).flatten(1).norm(dim=1)

    assert (residual(restore_dps(case)) < 0.5 * residual(free)).all()


def test_ddim_inversion():
    """Up the levels; the error is the solver's: of first order, and Heun's of second."""
    x0, levels = images(), karras(21)[::-1]
    counted = Counted(PRIOR.mean)
    top = ddim_inversion(counted, x0, levels)
    assert counted.sigmas == pytest.approx(levels[:-1])
    exact = PRIOR(x0, levels[0], target=TOP)
    assert (top - exact).norm() / exact.norm() < 0.2
    for step, order in ((euler_step, 1), (heun_step, 2)):
        ways = [ddim_inversion(PRIOR.mean, x0, karras(n)[::-1], step=step) for n in (81, 161, 321)]
        assert orders([(way - exact).norm() for way in ways]) == pytest.approx([order] * 2, abs=0.2)

    seen = []

    def denoise(x, sigma, label=None):
        seen.append(label)
        return PRIOR.mean(x, sigma)

    ddim_edit(denoise, x0, levels, "cat", "dog")
    assert seen == ["cat"] * 20 + ["dog"] * 20


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (
            lambda a, y: ddrm(PRIOR.mean, JPEG(10), y, (1.0,), noise()),
            "JPEG: DDRM is for linear operators",
        ),
        (lambda a, y: ddrm(PRIOR.mean, Grey(sigma_y=1.0), y[:, :1], (1.0,), noise()), r"sigmas\[0\]=1.0: .* noise 1.5"),
        (lambda a, y: ddrm(PRIOR.mean, a, y, (1.0, 2.0), noise()), "descending"),
        (lambda a, y: ddrm(PRIOR.mean, a, y, (1.0,), noise(), eta=1.5), "eta=1.5"),
        (lambda a, y: ddnm(PRIOR.mean, a, y, (1.0,), noise(), eta=-0.1), "eta=-0.1"),
        (lambda a, y: ddnm(PRIOR.mean, a, y, (1.0,), noise(), repeats=0), "repeats=0"),
        (
            lambda a, y: ddnm(PRIOR.mean, bicubic(8, 8, 2, sigma_y=2.0), y[..., :4, :4], (1.0,), noise()),
            r"sigmas\[0\]=1.0: .* noise 4",
        ),
        (lambda a, y: repaint(PRIOR.mean, a, y, (1.0,), noise(), repeats=0), "repeats=0"),
        (lambda a, y: repaint(PRIOR.mean, JPEG(10), y, (1.0,), noise()), "JPEG: RePaint is for linear operators"),
        (lambda a, y: sdedit(PRIOR.mean, y, (1.0,), noise(), keep=JPEG(10)), "JPEG: SDEdit's keep is for linear op"),
        (lambda a, y: dps(PRIOR.mean, a, y, (1.0,), noise(), zeta=0.0), "zeta=0.0"),
        (lambda a, y: dps(PRIOR.mean, a, y, (), noise()), r"sigmas=\[\]"),
        (lambda a, y: pigdm(PRIOR.mean, a, y, (1.0, 1.0), noise()), "descending"),
        (lambda a, y: pigdm(PRIOR.mean, a, y, (1.0,), noise(), eta=2.0), "eta=2.0"),
        (lambda a, y: sdedit(PRIOR.mean, y, (), noise()), r"sigmas=\[\]"),
        (lambda a, y: ddim_inversion(PRIOR.mean, y, (1.0, 0.5)), "ascending"),
    ],
)
def test_bad_input(call, line):
    with pytest.raises(ValueError, match=line) as error:
        call(OPERATORS[0], images())
    assert "\n" not in str(error.value)
