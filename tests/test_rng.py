"""Random numbers as functions of what they are for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import SmallNetwork
from scipy import stats
from torch import nn

from diffusion.rng import Draws, ImageNoise, derive_seed, has_dropout, shared_dropout

SHAPE = (1, 3, 3)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32), images_seen=st.integers(0, 10**9), world_size=st.sampled_from([1, 2, 3, 4]))
def test_slices_of_all_ranks_make_the_global_batch(seed, images_seen, world_size):
    x = torch.empty(12, *SHAPE)
    whole = Draws(seed, images_seen)
    ranks = [Draws(seed, images_seen, rank=rank, world_size=world_size) for rank in range(world_size)]
    parts = x.chunk(world_size)
    noise = torch.cat([d.normal_like(part, "noise") for d, part in zip(ranks, parts, strict=True)])
    levels = torch.cat([d.uniform(len(part), "levels") for d, part in zip(ranks, parts, strict=True)])
    assert torch.equal(noise, whole.normal_like(x, "noise"))
    assert torch.equal(levels, whole.uniform(12, "levels"))
    assert len({d.stream_seed("dropout") for d in ranks}) == 1


def test_draws_are_a_pure_function():
    """Of seed, stream and position: not of earlier draws, nor of the global generator, which they leave alone."""
    x = torch.empty(5, *SHAPE)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = Draws(3, 640)
    noise, levels = first.normal_like(x, "noise"), first.uniform(5, "levels")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second = Draws(3, 640)
    assert torch.equal(second.uniform(5, "levels"), levels)  # in another order
    assert torch.equal(second.normal_like(x, "noise"), noise)
    assert torch.equal(second.normal_like(x, "noise"), noise)  # and again


def test_other_seeds_streams_and_positions_give_other_numbers():
    drawn = {tuple(Draws(seed, seen).uniform(4, name).tolist()) for seed in (0, 1) for seen in (0, 8) for name in "ab"}
    assert len(drawn) == 8
    seeds = {derive_seed(a, s, b) for a in range(8) for b in range(8) for s in ("levels", "noise", "targets")}
    assert len(seeds) == 192 and all(0 <= seed < 2**63 for seed in seeds)


def test_laws_of_the_draws():
    """Over many steps of a few images, as training uses them: seeds next to each other must not be related."""
    steps = [Draws(0, 4 * step) for step in range(500)]
    uniform = torch.cat([d.uniform(4, "levels") for d in steps])
    normal = torch.cat([d.normal_like(torch.empty(4, 2), "noise").flatten() for d in steps])
    assert uniform.dtype == torch.float64 and uniform.min() >= 0 and uniform.max() < 1
    assert stats.kstest(uniform.numpy(), "uniform").pvalue > 0.01
    assert stats.kstest(normal.numpy(), "norm").pvalue > 0.01
    other = torch.cat([d.uniform(4, "targets") for d in steps])
    assert abs(torch.corrcoef(torch.stack([uniform, other]))[0, 1]) < 0.06
    assert abs(torch.corrcoef(torch.stack([uniform[:-4], uniform[4:]]))[0, 1]) < 0.06


def test_image_noise_depends_on_the_images_seed_alone():
    """Not on the batch it is in: every draw of every image, in any company and order."""
    together = ImageNoise(range(6), SHAPE)
    first, second = together(), together()
    assert len(together) == 6 and first.shape == (6, *SHAPE) and not torch.equal(first, second)
    for batch in ([4], [5, 0], [3, 2, 1]):
        alone = ImageNoise(batch, SHAPE)
        assert torch.equal(alone(), first[batch]) and torch.equal(alone(), second[batch])


def test_image_noise_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    ImageNoise([1, 2], SHAPE)()
    assert torch.equal(torch.get_rng_state(), state)


def masks(model: nn.Module, x: torch.Tensor, seed: int) -> torch.Tensor:
    with shared_dropout(seed, model):
        return model(x)


@pytest.mark.parametrize("layer", [nn.Dropout, nn.Dropout2d, nn.AlphaDropout])
def test_shared_dropout_gives_the_same_masks(layer):
    model = nn.Sequential(nn.Conv2d(1, 8, 1), layer(0.5), nn.Conv2d(8, 8, 1), layer(0.5))
    x = torch.randn(4, 1, 5, 5)
    first = masks(model, x, 1)
    torch.rand(100)  # whatever happens in between
    assert torch.equal(masks(model, x, 1), first)
    with torch.no_grad():
        assert torch.equal(masks(model, x, 1), first)
    assert not torch.equal(masks(model, x, 2), first)
    assert not torch.equal(model(x), model(x))


def test_shared_dropout_leaves_the_outer_generator_untouched():
    """The numbers after the block are those that would have come without it, also after an error inside."""
    model = SmallNetwork(dropout=0.5)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with shared_dropout(1, model):
        torch.rand(7)
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(5)
    with pytest.raises(RuntimeError, match="inside"), shared_dropout(1, model):
        raise RuntimeError("inside")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("model", [SmallNetwork(), SmallNetwork(dropout=0.0)])
def test_without_dropout_nothing_happens(model):
    assert not has_dropout(model) and has_dropout(SmallNetwork(dropout=1e-9))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with shared_dropout(1, model):
        assert torch.equal(torch.rand(3), expected)  # not seeded


@pytest.mark.gpu
def test_shared_dropout_on_a_gpu():
    """A GPU has a generator of its own: saving the CPU's alone shares nothing there."""
    model = SmallNetwork(dropout=0.5).cuda()
    x, c = torch.randn(4, 1, 2, 2, device="cuda"), torch.zeros(4, device="cuda")
    torch.manual_seed(5)
    expected = torch.rand(3, device="cuda")
    torch.manual_seed(5)
    outputs = []
    for seed in (1, 1, 2):
        with shared_dropout(seed, model):
            outputs.append(model(x, c))
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])
    assert torch.equal(torch.rand(3, device="cuda"), expected)
