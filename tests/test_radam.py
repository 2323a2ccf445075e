"""RAdam equals torch's, and a skipped step leaves everything as it was."""

import copy

import pytest
import torch

from lightning_modules.radam import RAdam


def _gradients(shapes, seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def test_equals_torch_radam_before_and_after_rectification():
    shapes = [(3, 4), (5,), ()]
    mine = [torch.nn.Parameter(g.clone()) for g in _gradients(shapes, 99)]
    theirs = copy.deepcopy(mine)
    ours, reference = RAdam(mine, lr=3e-2, betas=(0.9, 0.99)), torch.optim.RAdam(theirs, lr=3e-2, betas=(0.9, 0.99))
    for k in range(30):  # the rectification begins at step 6 for beta2 = 0.99
        for a, b, g in zip(mine, theirs, _gradients(shapes, k), strict=True):
            a.grad, b.grad = g.clone(), g.clone()
        ours.step()
        reference.step()
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=2e-6, atol=2e-7)


def test_a_flagged_step_changes_nothing():
    shapes = [(3, 4), (5,)]
    parameters = [torch.nn.Parameter(g) for g in _gradients(shapes, 0)]
    optimizer = RAdam(parameters, lr=1e-2)
    for k in range(8):
        for p, g in zip(parameters, _gradients(shapes, k), strict=True):
            p.grad = g
        optimizer.step()
    weights, state = [p.detach().clone() for p in parameters], copy.deepcopy(optimizer.state_dict()["state"])
    for p in parameters:
        p.grad = torch.full_like(p, float("nan"))
    optimizer.found_inf = torch.ones(())
    optimizer.step()
    assert all(torch.equal(p, w) for p, w in zip(parameters, weights, strict=True))
    for before, after in zip(state.values(), optimizer.state_dict()["state"].values(), strict=True):
        assert all(torch.equal(before[key], after[key]) for key in before)
    optimizer.found_inf = torch.zeros(())
    for p in parameters:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert not any(torch.equal(p, w) for p, w in zip(parameters, weights, strict=True))


@pytest.mark.parametrize("bad", [{"lr": -1.0}, {"betas": (0.9, 1.0)}, {"eps": 0.0}])
def test_bad_arguments_are_refused(bad):
    with pytest.raises(ValueError, match="are needed"):
        RAdam([torch.nn.Parameter(torch.zeros(1))], **bad)
