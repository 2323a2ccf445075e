"""Options that several methods share: a target network, compilation with dropout, budgets, validation."""

import pytest
import torch
from test_modules import METHODS, SHAPE, bcm, ct, images

from diffusion.curricula import SquareRootSteps, TargetRate
from networks import MLP


def test_cts_target_network_sees_the_students_dropout_mask():
    module, masks = ct(dropout=0.5, target_rate=TargetRate(SquareRootSteps())).train(), []
    for denoiser in (module.denoiser, module.target):
        denoiser.network.dropout.register_forward_hook(lambda *args: masks.append(args[2] != 0))
    module.loss(images())
    student, target = masks
    assert torch.equal(student, target) and 0.3 < target.double().mean() < 0.7
    assert not any(parameter.requires_grad for parameter in module.target.parameters())


def test_with_dropout_the_network_is_compiled_and_the_loss_is_the_same(monkeypatch):
    compiled, plain = [], MLP.compile
    monkeypatch.setattr(MLP, "compile", lambda self, **kwargs: compiled.append(kwargs) or plain(self, backend="eager"))

    def build(**options):
        torch.manual_seed(0)
        module = bcm(**options)
        return module.train()

    monkeypatch.setattr("test_modules.network", lambda dropout: lambda shape, n: network(shape, n))

    def network(shape, num_classes):
        return MLP(shape, num_classes, width=16, depth=1, dropout=0.5, bidirectional=True)

    eager, graph = build(), build(compile=True)
    assert compiled == [{"fullgraph": True, "dynamic": False}]
    torch.testing.assert_close(graph.loss(images()), eager.loss(images()))


@pytest.mark.parametrize("make", METHODS)
def test_a_run_of_no_images_is_refused(make):
    with pytest.raises(ValueError, match="total_images=0"):
        make(total_images=0)


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match="bidirectional_weight=-1"):
        bcm(bidirectional_weight=-1)


@pytest.mark.parametrize("make", METHODS)
def test_a_validation_batch_meets_the_same_noise_at_any_time(make):
    module, x0 = make().eval(), images()
    first, other = module.draw(x0, 0), module.draw(x0, 1)
    module.images_seen = 500
    again = module.draw(x0, 0)
    assert torch.equal(first.noise, again.noise) and not torch.equal(first.noise, other.noise)
    assert x0.shape[1:] == SHAPE
