"""Classifier-free guidance and autoguidance: the formula, the evaluations, and the models that may be guided."""

import math

import pytest
import torch
from oracles import GaussianDenoise, column, gaussian_data
from test_samplers import Counted

from diffusion.grids import KarrasGrid
from diffusion.guidance import NO_CLASS, Guidance, Guided
from diffusion.levels import LogNormal
from diffusion.noise import karras_grid
from diffusion.ode_samplers import DPMSolverPP2M, Heun
from diffusion.rng import ImageNoise
from evaluation.generate import Meter
from lightning_modules.diffusion import DiffusionModule
from networks import MLP

S, SHAPE = 0.5, (1, 2, 2)
CENTRES = torch.tensor([-1.0, 0.25, 2.0, 0.0], dtype=torch.float64)  # of the classes 0, 1, 2 and, by -1, of none


class ClassDenoise:
    """The posterior mean of N(m_c, s^2 I), with m = 0 for the label -1."""

    def __call__(self, x, sigma, label=None):
        m = CENTRES[label].to(x.dtype).reshape(-1, 1, 1, 1)
        return m + GaussianDenoise(S)(x - m, sigma)


LABEL = torch.tensor([0, 1, 2])


def points(scale=1.0):
    return scale * gaussian_data(3, 1.0)


def test_guided_gaussians_are_a_gaussian():
    """p_c^w p^(1-w) of N(m, s^2) and N(0, s^2) is N(w m, s^2), at every level: D_w is its posterior mean."""
    for w in (0.0, 0.5, 1.0, 2.0, 7.5):
        m = w * CENTRES[LABEL].reshape(-1, 1, 1, 1)
        for sigma in (0.002, 1.0, 80.0, torch.tensor([0.1, 1.0, 9.0], dtype=torch.float64)):
            guided = Guided(ClassDenoise(), Guidance(w))(points(), sigma, LABEL)
            torch.testing.assert_close(guided, m + GaussianDenoise(S)(points() - m, sigma), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("sampler", [Heun(), DPMSolverPP2M()], ids=repr)
def test_samples_of_guided_gaussians(sampler):
    """They are the unconditional model's, moved by w m (1 - s/sqrt(s^2 + T^2)), up to the solver's error."""
    x, w, sigmas = 80 * points(), 3.0, KarrasGrid().levels(200, 0.002, 80.0)
    guided = sampler(Guided(ClassDenoise(), Guidance(w)), x, sigmas, None, LABEL)
    free = sampler(GaussianDenoise(S), x, sigmas, None)
    moved = w * CENTRES[LABEL].reshape(-1, 1, 1, 1).expand_as(x) * (1 - S / math.sqrt(S**2 + 80**2))
    torch.testing.assert_close(guided - free, moved, rtol=2e-3, atol=1e-4)


def test_weights_0_and_1_are_the_two_models_and_cost_one_evaluation():
    for w, label in ((1.0, LABEL), (0.0, torch.full_like(LABEL, NO_CLASS))):
        denoise = Counted(ClassDenoise())
        result = Guided(denoise, Guidance(w))(points(), 1.5, LABEL)
        assert torch.equal(result, ClassDenoise()(points(), 1.5, label))
        assert len(denoise.labels) == 1 and torch.equal(denoise.labels[0], label)


def test_autoguidance_takes_the_class_to_both():
    """D_0 is another model, told the class too; without classes it guides as well."""
    main, lesser = Counted(ClassDenoise()), Counted(GaussianDenoise(2.0))
    result = Guided(main, Guidance(2.0), lesser)(points(), 0.7, LABEL)
    torch.testing.assert_close(result, 2 * ClassDenoise()(points(), 0.7, LABEL) - GaussianDenoise(2.0)(points(), 0.7))
    assert main.labels[0] is LABEL and lesser.labels[0] is LABEL and len(main.labels) == len(lesser.labels) == 1
    free = Guided(GaussianDenoise(S), Guidance(2.0), GaussianDenoise(2.0))(points(), 0.7)
    torch.testing.assert_close(free, 2 * GaussianDenoise(S)(points(), 0.7) - GaussianDenoise(2.0)(points(), 0.7))


def test_no_evaluation_is_wasted_outside_the_interval():
    """Heun's 9 levels with 17 evaluations: two of the model inside (0.2, 5], one outside."""
    denoise, guidance = Counted(ClassDenoise()), Guidance(3.0, 0.2, 5.0)
    levels = karras_grid(8).tolist()
    Heun().sample(Guided(denoise, guidance), lambda: points(), 17, LABEL)
    visits = [sigma for sigma in levels for _ in range(1 if sigma == 80.0 else 2)]
    inside = sum(0.2 < sigma <= 5.0 for sigma in visits)
    assert 0 < inside < len(visits) == 17
    assert len(denoise.sigmas) == 17 + inside
    assert sum(bool((label == NO_CLASS).all()) for label in denoise.labels) == inside


def test_each_image_is_guided_by_its_own_level():
    sigma, label = torch.tensor([0.1, 0.2, 1.0, 5.0, 5.5], dtype=torch.float64), torch.tensor([0, 0, 1, 1, 2])
    x, guidance = gaussian_data(5, 1.0), Guidance(3.0, 0.2, 5.0)
    both = Guided(ClassDenoise(), Guidance(3.0))(x, sigma, label)
    result, plain = Guided(ClassDenoise(), guidance)(x, sigma, label), ClassDenoise()(x, sigma, label)
    guided = torch.tensor([False, False, True, True, False])
    assert torch.equal(guidance.inside(sigma), guided)
    torch.testing.assert_close(result, torch.where(column(guided.double(), x) > 0, both, plain))
    # with w = 0, too
    none = Guided(ClassDenoise(), Guidance(0.0, 0.2, 5.0))(x, sigma, label)
    free = ClassDenoise()(x, sigma, torch.full_like(label, NO_CLASS))
    torch.testing.assert_close(none, torch.where(column(guided.double(), x) > 0, free, plain))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Guidance(-1.0), "weight=-1.0"),
        (lambda: Guidance(math.nan), "weight=nan"),
        (lambda: Guidance(2.0, 5.0, 0.2), "sigma_low=5.0"),
        (lambda: Guidance(2.0, -1.0, 0.2), "sigma_low=-1.0"),
        (lambda: Guided(GaussianDenoise(S), Guidance(2.0))(points(), 1.0), "guidance needs labels"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def module(num_classes=3, **options):
    built = DiffusionModule(
        lambda shape, classes: MLP(shape, classes, width=16, depth=1, embedding_channels=8),
        SHAPE,
        LogNormal(-1.2, 1.2),
        total_images=1000,
        num_classes=num_classes,
        **options,
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # a fresh network gives 0, whatever the class
        for parameters in (built.denoiser.parameters(), built.ema_denoiser.parameters()):
            for parameter in parameters:
                parameter.normal_(0, 0.4, generator=generator)
    return built


def test_a_guided_module_counts_both_evaluations():
    guided = module(label_dropout=0.1, guidance=Guidance(2.0), sampler=DPMSolverPP2M()).eval()
    meter = Meter(guided.ema_denoiser.network)
    with meter.batch(3), torch.no_grad():
        x0 = guided.sample(ImageNoise([0, 1, 2], SHAPE), 5, LABEL)
    assert meter.nfe == 10
    with torch.no_grad():
        expected = DPMSolverPP2M().sample(
            Guided(guided.ema_denoiser, Guidance(2.0)), ImageNoise([0, 1, 2], SHAPE), 5, LABEL
        )
        guided.guidance = None
        plain = guided.sample(ImageNoise([0, 1, 2], SHAPE), 5, LABEL)
    torch.testing.assert_close(x0, expected)
    assert not torch.allclose(x0, plain, atol=1e-4)


def test_only_a_model_trained_without_labels_too_is_guided():
    for options, why in (({}, "label_dropout=0"), ({"num_classes": 0}, "has no classes")):
        with pytest.raises(ValueError, match=f"guidance=2.0: this model .*{why}"):
            module(guidance=Guidance(2.0), **options)
        with pytest.raises(ValueError, match=why):
            module(**options).guidance = Guidance(2.0)
    for dropout in (-0.1, 1.0):
        with pytest.raises(ValueError, match=f"label_dropout={dropout}"):
            module(label_dropout=dropout)
    with pytest.raises(ValueError, match="the data have no classes"):
        module(num_classes=0, label_dropout=0.1)


def test_label_dropout():
    """A share of the images is shown without a class; which, is a function of the seed and the images seen."""
    x0, label = gaussian_data(400, S).float(), torch.arange(400) % 3
    dropping, seen = module(label_dropout=0.2), []
    hook = dropping.denoiser.network.register_forward_pre_hook(lambda _, args: seen.append(args[2]))
    first, again = dropping.loss(x0, label), dropping.loss(x0, label)
    assert torch.equal(first, again) and torch.equal(seen[0], seen[1])
    dropped = seen[0] == NO_CLASS
    assert 0.14 < dropped.double().mean() < 0.26 and torch.equal(seen[0][~dropped], label[~dropped])
    dropping.images_seen = 400
    dropping.loss(x0, label)
    assert not torch.equal(seen[2], seen[0])
    hook.remove()
    # the other images' losses are those of a module without dropout, which draws nothing more
    plain = module().loss(x0, label)
    dropping.images_seen = 0
    torch.testing.assert_close(first[~dropped], plain[~dropped])
    assert (first[dropped] != plain[dropped]).all() and module().draw(x0).unlabelled is None
