"""The methods with a small random network: how they sample, what they refuse, and that the loss compiles."""

import shutil

import pytest
import torch
from methods import (
    METHODS,
    SHAPE,
    bcm,
    cd,
    ct,
    ctm,
    ddgan,
    edm,
    gradients,
    i2sb,
    images,
    kd,
    made,
    palette,
    pd,
    rf,
    siddm,
    ufogen,
)

from diffusion.curricula import DoublingSteps
from diffusion.pairs import GridPairs
from diffusion.rng import ImageNoise
from lightning_modules.bcm import BCMModule, BCMPlan
from lightning_modules.cd import CDModule
from lightning_modules.ct import CTModule
from lightning_modules.ctm import CTMModule
from lightning_modules.ddgan import DDGANModule
from lightning_modules.diffusion import DiffusionModule
from lightning_modules.i2sb import I2SBModule
from lightning_modules.kd import KDModule
from lightning_modules.palette import PaletteModule
from lightning_modules.pd import PDModule
from lightning_modules.rectified_flow import RectifiedFlowModule
from lightning_modules.siddm import SIDDMModule
from lightning_modules.ufogen import UFOGenModule


def sample_with_steps(module):
    steps = {
        BCMModule: (1, 2, 3, 4),
        CTModule: (1, 2),
        DiffusionModule: (1, 3, 7),
        CDModule: (1, 2),
        CTMModule: (1, 2, 4),
        PDModule: (1, 2, 16),
        KDModule: (1,),
        RectifiedFlowModule: (1, 2, 5),
        I2SBModule: (1, 2, 5),
        PaletteModule: (1, 2, 5),
        UFOGenModule: (1, 2, 3, 4),
        SIDDMModule: (1, 4),
        DDGANModule: (1, 4),
    }
    return steps[type(module)]


@pytest.mark.parametrize("make", METHODS)
def test_samples_take_the_evaluations_asked_for_and_ignore_the_batch(make):
    module, calls = make(num_classes=3), []
    module.ema_denoiser.network.register_forward_hook(lambda *_: calls.append(1))
    label = torch.tensor([0, 1, 2])
    for steps in sample_with_steps(module):
        calls.clear()
        together = made(module, ImageNoise([5, 6, 7], SHAPE), steps, label)
        assert len(calls) == steps and together.shape == (3, *SHAPE) and together.dtype == torch.float32
        alone = made(module, ImageNoise([6], SHAPE), steps, label[1:2])
        torch.testing.assert_close(alone, together[1:2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "value"),
    [
        (lambda noise: bcm().sample(noise, 5), r"steps=5: .*\[1, 2, 3, 4\]"),
        (lambda noise: bcm(plans=(BCMPlan((80.0, 1.0)),)).sample(noise, 1), r"steps=1: .*\[2\]"),
        (lambda noise: bcm().invert(images(2), noise, 3), r"steps=3: .*\[1, 2\]"),
        (lambda noise: ct().sample(noise, 3), r"steps=3: .*\[1, 2\]"),
        (lambda noise: edm().sample(noise, 2), "steps=2"),
        (lambda noise: cd().sample(noise, 3), r"steps=3: .*\[1, 2\]"),
        (lambda noise: ctm().sample(noise, 3), r"steps=3: .*\[1, 2, 4\]"),
        (lambda noise: pd().sample(noise, 3), r"steps=3: .*\[16, 8, 4, 2, 1\]"),
        (lambda noise: kd().sample(noise, 2), "steps=2"),
        (lambda noise: rf().sample(noise, 0), "steps=0"),
        (lambda noise: ufogen().sample(noise, 5), r"steps=5: .*\[1, 2, 3, 4\]"),
        (lambda noise: siddm().sample(noise, 0), "steps=0"),
        (lambda noise: ddgan().sample(noise, 5), "steps=5"),
        (lambda noise: edm().sample(noise, -1), "steps=-1"),
        (lambda noise: i2sb().sample(noise, 1), "I2SBModule makes no images of its own: it restores"),
        (lambda noise: palette().sample(noise, 1), "PaletteModule makes no images of its own: it restores"),
        (lambda noise: made(i2sb(), noise, 0), "steps=0: 1 to 999"),
        (lambda noise: made(palette(), noise, 0), "steps=0"),
    ],
)
def test_numbers_of_steps_that_are_not_set_are_refused(call, value):
    with pytest.raises(ValueError, match=value):
        call(ImageNoise([0, 1], SHAPE))


def test_a_plan_counts_its_evaluations():
    assert BCMPlan((80.0, 3.0), ((0.12, 0.4), (0.1, 0.2))).steps == 6


def test_inversion_ends_at_the_level_where_generation_starts():
    """The plans' first level and the last one of every inversion are sigma_max, unless a config sets others."""
    module, calls = bcm(), []
    assert {plan.levels[0] for plan in module.plans} == {module.denoiser.sigma_max}
    assert {levels[-1] for levels in module.inversions} == {module.denoiser.sigma_max}
    module.ema_denoiser.network.register_forward_hook(lambda *_: calls.append(1))
    for steps in (1, 2):
        calls.clear()
        assert module.invert(images(3), ImageNoise([0, 1, 2], SHAPE), steps).shape == (3, *SHAPE)
        assert len(calls) == steps


# --- compilation ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
def test_bcms_whole_loss_compiles_as_one_graph():
    """Once for all steps, whatever the seeds and N(k), and equal to eager: torch gives up after 8 graphs."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    module = bcm(num_classes=3, compile=True, pairs=GridPairs(DoublingSteps())).double()
    x0, label = images().double(), torch.arange(6) % 3
    for seen in range(0, 1000, 100):
        module.images_seen = seen
        loss = module.loss(x0, label)
        eager = sum(module.loss_terms(x0, label, module.draw(x0)))
        torch.testing.assert_close(loss, eager)
        torch.testing.assert_close(gradients(loss, module.denoiser), gradients(eager, module.denoiser))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]
