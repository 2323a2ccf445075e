"""The U-Net: published shapes, where dropout and attention are, memory format, attention against its formula."""

import math

import pytest
import torch
from test_networks import batch, perturbed, small
from torch import nn

from networks import UNet
from networks.blocks import ResidualBlock, SelfAttention, group_norm
from networks.embeddings import FourierEmbedding, LevelEmbedding, PositionalEmbedding

DDPMPP = {
    "channels": 128,
    "channel_mult": (2, 2, 2),
    "num_blocks": 4,
    "attention_resolutions": (16,),
    "adaptive_scale": False,
    "skip_scale": 0.5**0.5,
    "skip_projection": True,
    "attend_all_up": False,
}
ADM = {
    "channels": 192,
    "channel_mult": (1, 2, 3, 4),
    "num_blocks": 3,
    "attention_resolutions": (32, 16, 8),
    "channels_per_head": 64,
}


@pytest.mark.parametrize(
    ("image_shape", "num_classes", "shape", "parameters"),
    [((3, 32, 32), 0, DDPMPP, 55_732_739), ((3, 64, 64), 1000, ADM, 295_899_267)],
)
def test_published_shapes_have_their_number_of_parameters(image_shape, num_classes, shape, parameters):
    """EDM's DDPM++ for CIFAR-10 and ADM for ImageNet-64 (arXiv 2206.00364), counted in NVlabs/edm at 008a4e5."""
    with torch.device("meta"):
        network = UNet(image_shape, num_classes, **shape)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_second_level_adds_its_mlp_and_the_join():
    with torch.device("meta"):
        counts = [
            sum(p.numel() for p in UNet((3, 64, 64), 1000, **ADM, bidirectional=two).parameters())
            for two in (False, True)
        ]
    assert counts[1] - counts[0] == (192 + 1) * 768 + (768 + 1) * 768 + 2 * 768 * 768


@pytest.mark.parametrize("highest", [None, 8, 4, 2])
def test_dropout_is_at_low_resolutions_only(highest):
    network = small(UNet, (1, 16, 16), channel_mult=(1, 1, 1), dropout=0.25, dropout_max_resolution=highest)
    seen = []
    for block in network.modules():
        if isinstance(block, ResidualBlock):
            block.register_forward_hook(lambda block, args, _: seen.append((args[0].shape[2], block.dropout.p)))
    x, c, *_ = batch((1, 16, 16))
    network(x, c)
    assert {height for height, _ in seen} == {16, 8, 4}
    assert all(p == (0.25 if highest is None or height <= highest else 0) for height, p in seen)


def test_attention_is_where_it_is_asked_for():
    def heights(**options):
        network = small(UNet, (1, 16, 16), channel_mult=(1, 1, 1), num_blocks=2, **options)
        seen = []
        for layer in network.modules():
            if isinstance(layer, SelfAttention):
                layer.register_forward_hook(lambda layer, args, _: seen.append(args[0].shape[2]))
        x, c, *_ = batch((1, 16, 16))
        network(x, c)
        return seen

    assert heights(attention_resolutions=(8,)) == [8, 8, 4, 8, 8, 8]
    assert heights(attention_resolutions=(8,), attend_all_up=False) == [8, 8, 4, 8]
    assert heights(attention_resolutions=(), attend_middle=False) == []


def test_patches_are_folded_and_unfolded():
    """With patches of 2 the network of an 8x8 image works on 4x4, and a constant output goes back to its pixels."""
    network = small(UNet, (1, 8, 8), patch_size=2)
    seen = []
    network.conv_in.register_forward_hook(lambda layer, args, _: seen.append(args[0].shape))
    with torch.no_grad():
        network.conv_out.bias.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    x, c, *_ = batch((1, 8, 8))
    out = network(x, c)
    assert seen == [(3, 4, 4, 4)]
    assert torch.equal(out, torch.tensor([[1.0, 2.0], [3.0, 4.0]]).repeat(4, 4).expand(3, 1, 8, 8))


@pytest.mark.parametrize("options", [{}, {"qk_norm": True, "channels_per_head": 4}, {"patch_size": 2}])
def test_channels_last_gives_the_same_output(options):
    network = perturbed(small(UNet, (3, 16, 16), 10, bidirectional=True, **options))
    x, *conditions = batch((3, 16, 16))
    expected = network(x, *conditions)
    network = network.to(memory_format=torch.channels_last)
    out = network(x.to(memory_format=torch.channels_last), *conditions)
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_attention_is_its_formula(qk_norm):
    """x + W softmax(q k^T / sqrt(d)) v per head, of q, k, v divided by their root mean square with qk_norm."""
    layer = perturbed(SelfAttention(8, channels_per_head=4, qk_norm=qk_norm)).double()
    x = torch.randn(2, 8, 3, 5, dtype=torch.float64)
    qkv = layer.qkv(layer.norm(x))
    heads = []
    for h in range(2):
        q, k, v = (qkv[:, 8 * i + 4 * h : 8 * i + 4 * h + 4].flatten(2) for i in range(3))
        if qk_norm:
            q, k, v = (a / (a.square().mean(1, keepdim=True).sqrt() + 1e-4) for a in (q, k, v))
        weight = torch.einsum("bcq,bck->bqk", q, k).div(2).softmax(2)
        heads.append(torch.einsum("bqk,bck->bcq", weight, v).reshape(2, 4, 3, 5))
    torch.testing.assert_close(layer(x), x + layer.out(torch.cat(heads, 1)))


def test_qk_norm_bounds_the_attention():
    """Normalised, q.k/sqrt(d) is at most sqrt(d), and the result does not grow with the weights of q, k and v."""
    layer = SelfAttention(16, channels_per_head=4, qk_norm=True)
    with torch.no_grad():
        nn.init.dirac_(layer.out.weight)
        x = torch.randn(4, 16, 6, 6)
        before = layer(x) - x
        layer.qkv.weight.mul_(1e4)
        after = layer(x) - x
    torch.testing.assert_close(after, before, rtol=1e-2, atol=1e-2)
    assert after.abs().max() <= math.sqrt(4) + 1e-5  # each head's vector of 4 has length sqrt(4) at most


def test_fresh_blocks_pass_their_input_on():
    x, embedding = torch.randn(2, 8, 4, 4), torch.randn(2, 16)
    assert torch.equal(ResidualBlock(8, 8, 16)(x, embedding), x)
    assert torch.equal(SelfAttention(8)(x), x)
    down = ResidualBlock(8, 8, 16, resample=0.5)(x, embedding)
    torch.testing.assert_close(down, x.reshape(2, 8, 2, 2, 2, 2).mean((3, 5)))
    up = ResidualBlock(8, 8, 16, resample=2)(x, embedding)
    assert torch.equal(up, x.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_a_new_skip_path_keeps_the_variance():
    """Without it the signal would shrink at every change of channels."""
    torch.manual_seed(0)
    out = ResidualBlock(64, 64, 16, skip_projection=True)(torch.randn(8, 64, 8, 8), torch.randn(8, 16))
    assert 0.9 < out.std() < 1.1


@pytest.mark.parametrize(("channels", "groups"), [(2, 1), (6, 1), (8, 2), (64, 16), (96, 24), (100, 25), (192, 32)])
def test_groups_divide_the_channels(channels, groups):
    assert group_norm(channels).num_groups == groups


def test_positional_embedding_is_its_formula():
    c = torch.tensor([-1.5, 0.0, 1.1])
    out = PositionalEmbedding(6, scale=10.0, max_period=1000.0)(c)
    frequencies = torch.tensor([1.0, 0.1, 0.01])
    angle = 10 * c[:, None] * frequencies
    torch.testing.assert_close(out, torch.cat([angle.cos(), angle.sin()], 1), rtol=1e-5, atol=1e-6)


def test_fourier_embedding_of_small_scale_varies_slowly():
    """d e / d c has norm 2 pi scale sqrt(mean b^2) over that of e: about 0.13 at 0.02, 100 at 16."""
    torch.manual_seed(0)
    c = torch.tensor([0.0, 1e-3])
    for scale, speed in ((0.02, 0.126), (16.0, 100.5)):
        e = FourierEmbedding(4096, scale)(c)
        assert ((e[1] - e[0]).norm() / e[0].norm() / 1e-3).item() == pytest.approx(speed, rel=0.1)


def test_fourier_frequencies_are_saved():
    """They are random, so a checkpoint without them would be another network."""
    networks = [small(UNet, fourier_scale=0.02) for _ in range(2)]
    assert not torch.equal(networks[0].embedding.position.frequencies, networks[1].embedding.position.frequencies)
    networks[1].load_state_dict(networks[0].state_dict())
    assert torch.equal(networks[0].embedding.position.frequencies, networks[1].embedding.position.frequencies)


def test_norm_groups_must_divide_all_channels():
    with pytest.raises(ValueError, match="norm_groups=12"):
        UNet((1, 8, 8), channels=32, channel_mult=(1,), num_blocks=1, norm_groups=12)


def test_last_frequency_is_the_slowest():
    """With `endpoint` cos and sin of c / max_period stand last, and without it those of one step before."""
    c = torch.tensor([3.0], dtype=torch.float64)
    last = PositionalEmbedding(8, max_period=64.0, endpoint=True)(c)[0, 3]
    torch.testing.assert_close(last, (c / 64).cos()[0])
    before = PositionalEmbedding(8, max_period=64.0)(c)[0, 3]
    torch.testing.assert_close(before, (c / 64**0.75).cos()[0])


@pytest.mark.parametrize("label", [-1, 0, 2])
def test_class_before_the_first_layer(label):
    embed = LevelEmbedding(8, 16, 3, label_first=True)
    c = torch.tensor([0.3])
    first = embed.position(c) + (embed.label.weight[label] if label >= 0 else 0)
    torch.testing.assert_close(embed(c, torch.tensor([label]), None), embed.noise_mlp(first))


def test_two_levels_take_no_class_before_them():
    with pytest.raises(ValueError, match="label_first"):
        LevelEmbedding(8, 16, 3, bidirectional=True, label_first=True)
