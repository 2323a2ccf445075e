"""Paintings made of images."""

import pytest
import torch

from diffusion.pixels import to_uint8
from tasks.strokes import Strokes


def photos(channels, side=64):
    """Smooth colours with noise on them."""
    ramp = torch.linspace(-1, 1, side)
    waves = torch.stack(
        [ramp.expand(side, side), ramp[:, None].expand(side, side), (3 * ramp).sin().expand(side, side)]
    )
    noise = 0.2 * torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(0))
    return (waves[:channels] + noise).clamp(-1, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_painting_has_few_colours_and_keeps_coarse_shapes(channels):
    x = photos(channels)
    painted = Strokes(colours=5).measure(x)
    assert painted.shape == x.shape and painted.dtype == x.dtype
    for one in to_uint8(painted):
        assert 2 <= len(one.flatten(1).T.unique(dim=0)) <= 5
    coarse = [torch.nn.functional.avg_pool2d(z, 16) for z in (x, painted)]
    assert (coarse[0] - coarse[1]).square().mean() < 0.1 * coarse[0].var()
    fine = [(z - torch.nn.functional.avg_pool2d(z, 3, 1, 1)).square().mean() for z in (x, painted)]
    assert fine[1] < 0.3 * fine[0]  # the noise is gone
    assert torch.equal(Strokes(colours=5).measure(x[1:]), painted[1:])


def test_a_painting_of_one_colour_is_itself():
    x = torch.full((1, 3, 8, 8), 0.2)
    painted = Strokes().measure(x)
    assert (painted - x).abs().max() <= 1 / 127.5 and torch.equal(Strokes().pseudo_inverse(x), x)
    assert torch.equal(Strokes().observe(x, lambda: pytest.fail("no noise is drawn")), painted)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Strokes(colours=1), "colours=1"),
        (lambda: Strokes(share=0), "share=0"),
        (lambda: Strokes().measure(torch.zeros(1, 2, 8, 8)), "images of 2 channels"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
