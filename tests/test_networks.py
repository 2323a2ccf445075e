"""What every network must do: shapes, zero start, conditioning, tuning from one noise level, precision, compilation."""

import pytest
import torch
from torch import nn

from networks import MLP, UNet

SHAPES = [(2, 1, 1), (1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64)]


def small(kind, image_shape=(1, 8, 8), num_classes=0, **options):
    """A network small enough to run in milliseconds."""
    if kind is MLP:
        return MLP(image_shape, num_classes, width=32, depth=2, embedding_channels=16, **options)
    mult = (1,) if image_shape[1] == 1 else (1, 2)
    sizes = {"channels": 8, "channel_mult": mult, "num_blocks": 1, "attention_resolutions": (4, 8)}
    return UNet(image_shape, num_classes, **(sizes | options))


@torch.no_grad()
def perturbed(network):
    """Every parameter moved, so that no zero initialisation hides a path."""
    generator = torch.Generator().manual_seed(7)
    for parameter in network.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


def batch(image_shape, n=3, seed=0):
    """(x, c_noise, label of 10 classes, c_target)."""
    g = torch.Generator().manual_seed(seed)
    level = [torch.rand(n, generator=g) * 2.7 - 1.6 for _ in range(2)]
    return torch.randn(n, *image_shape, generator=g), level[0], torch.randint(10, (n,), generator=g), level[1]


both = pytest.mark.parametrize("kind", [MLP, UNet])


@both
@pytest.mark.parametrize("image_shape", SHAPES)
@pytest.mark.parametrize("n", [1, 2])
def test_output_has_the_shape_of_the_input_and_starts_at_zero(kind, image_shape, n):
    network = small(kind, image_shape, num_classes=10, bidirectional=True)
    x, c, label, u = batch(image_shape, n)
    out = network(x, c, label, u)
    assert out.shape == x.shape
    assert not out.any()
    assert perturbed(network)(x, c, label, u).any()


@both
def test_every_input_has_an_effect_on_its_own_image_only(kind):
    network = perturbed(small(kind, num_classes=10, bidirectional=True))
    inputs = batch((1, 8, 8))
    before = network(*inputs)
    for i in range(4):
        changed = [value.clone() for value in inputs]
        changed[i][1] = (changed[i][1] + 1) % 10
        after = network(*changed)
        assert (after[1] - before[1]).abs().max() > 1e-3
        torch.testing.assert_close(after[[0, 2]], before[[0, 2]])


@both
def test_a_batch_is_its_images_one_by_one(kind):
    network = perturbed(small(kind, num_classes=10, bidirectional=True))
    inputs = batch((1, 8, 8))
    one_by_one = torch.cat([network(*(value[i : i + 1] for value in inputs)) for i in range(3)])
    torch.testing.assert_close(network(*inputs), one_by_one, rtol=1e-4, atol=1e-4)


@both
@pytest.mark.parametrize("options", [{}, {"qk_norm": True, "channels_per_head": 4, "adaptive_scale": False}])
def test_gradients_reach_every_parameter(kind, options):
    network = perturbed(small(kind, num_classes=10, bidirectional=True, **(options if kind is UNet else {})))
    network(*batch((1, 8, 8))).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any() and parameter.grad.isfinite().all(), name


@both
def test_tuning_starts_at_the_network_with_one_level(kind):
    one = perturbed(small(kind, num_classes=10))
    two = perturbed(small(kind, num_classes=10, bidirectional=True))
    two.load_unidirectional(one.state_dict())
    x, c, label, u = batch((1, 8, 8))
    assert (two.embedding(c, label, u) - one.embedding(c, label, None)).abs().max() <= 1e-6
    torch.testing.assert_close(two(x, c, label, u), one(x, c, label), rtol=1e-6, atol=1e-6)
    for target, noise in zip(two.embedding.target_mlp.parameters(), two.embedding.noise_mlp.parameters(), strict=True):
        assert torch.equal(target, noise) and target is not noise
    with torch.no_grad():
        two.embedding.join.weight.add_(0.1)
    assert (two(x, c, label, u) - two(x, c, label, u + 0.3)).abs().max() > 1e-4


@both
def test_tuning_refuses_other_weights(kind):
    state = small(kind, num_classes=10).state_dict()
    two = small(kind, num_classes=10, bidirectional=True)
    key = "embedding.label.weight"
    with pytest.raises(ValueError, match=f"missing: {key}"):
        two.load_unidirectional({k: v for k, v in state.items() if k != key})
    with pytest.raises(ValueError, match="unexpected: extra"):
        two.load_unidirectional(state | {"extra": state[key]})
    with pytest.raises(ValueError, match=f"another shape: {key}"):
        two.load_unidirectional(state | {key: state[key][:-1]})
    with pytest.raises(ValueError, match="bidirectional=False"):
        small(kind, num_classes=10).load_unidirectional(state)


@both
def test_missing_and_needless_conditions_are_refused(kind):
    x, c, label, u = batch((1, 8, 8))
    with pytest.raises(ValueError, match="takes no c_target"):
        small(kind)(x, c, c_target=u)
    with pytest.raises(ValueError, match="needs c_target"):
        small(kind, bidirectional=True)(x, c)
    with pytest.raises(ValueError, match="num_classes=10: a label is needed"):
        small(kind, num_classes=10)(x, c)
    with pytest.raises(ValueError, match="num_classes=0: it takes no label"):
        small(kind)(x, c, label)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (MLP, {"dropout": 1.0}, "dropout=1.0"),
        (MLP, {"num_classes": -1}, "num_classes=-1"),
        (MLP, {"embedding_max_period": 0.5}, "max_period=0.5"),
        (UNet, {"dropout": -0.1}, "dropout=-0.1"),
        (UNet, {"num_blocks": 0}, "num_blocks=0"),
        (UNet, {"channels": 9}, "channels=9: cos and sin need an even number"),
        (UNet, {"channels": 9, "fourier_scale": 0.02}, "channels=9: cos and sin need an even number"),
        (UNet, {"channel_mult": ()}, "channel_mult="),
        (UNet, {"channels_per_head": 5}, "channels_per_head=5: it must divide the 8 channels"),
        (UNet, {"image_shape": (1, 28, 28), "channel_mult": (1, 1, 1, 1)}, "divisible by 8"),
        (UNet, {"image_shape": (1, 28, 28), "patch_size": 8}, "divisible by 16"),
    ],
)
def test_arguments_out_of_range_are_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        small(kind, **options)


@both
def test_autocast_to_bfloat16_stays_near_float32(kind):
    network = perturbed(small(kind, num_classes=10, bidirectional=True))
    inputs = batch((1, 8, 8))
    exact = network(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        out = network(*inputs)
    assert out.dtype == torch.bfloat16
    assert (out.float() - exact).norm() < 0.05 * exact.norm()
    out.float().square().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in network.parameters())


@both
def test_float64_is_used_throughout(kind):
    network = perturbed(small(kind, num_classes=10, bidirectional=True)).double()
    x, c, label, u = batch((1, 8, 8))
    exact = network(x.double(), c.double(), label, u.double())
    assert exact.dtype == torch.float64
    moved = network(x.double(), c.double() + 1e-10, label, u.double())
    assert 0 < (moved - exact).abs().max() < 1e-6


@both
def test_dropout_acts_in_training_only(kind):
    network = perturbed(small(kind, dropout=0.5))
    x, c, *_ = batch((1, 8, 8))
    assert not torch.equal(network(x, c), network(x, c))
    network.eval()
    assert torch.equal(network(x, c), network(x, c))


@both
def test_network_compiles_as_one_graph(kind):
    """aot_eager traces forward and backward whole and needs no C++ compiler."""
    network = perturbed(small(kind, num_classes=10, bidirectional=True))
    inputs = batch((1, 8, 8))
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    out = compiled(*inputs)
    out.square().sum().backward()
    torch.testing.assert_close(out, network(*inputs), rtol=1e-4, atol=1e-5)
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.slow
def test_unet_compiles_to_machine_code():
    network = perturbed(small(UNet, num_classes=10, bidirectional=True))
    inputs = batch((1, 8, 8))
    out = torch.compile(network, fullgraph=True)(*inputs)
    torch.testing.assert_close(out, network(*inputs), rtol=1e-4, atol=1e-4)


@both
def test_a_network_is_a_plain_module(kind):
    """`nn.Module` calls methods of its own by name (`_apply`, `_call_impl`); none may be hidden."""
    own = {name for cls in kind.__mro__[: kind.__mro__.index(nn.Module)] for name in vars(cls)}
    assert not {name for name in own & set(vars(nn.Module)) if name.startswith("_") and not name.startswith("__")}


def test_input_frequencies_tell_close_points_apart():
    """Sines and cosines at pi and 2 pi beside each coordinate; points that differ by 2 differ in nothing else."""
    torch.manual_seed(0)
    network = MLP((2, 1, 1), width=16, depth=1, embedding_channels=8, input_frequencies=2)
    seen = []
    network.layer_in.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    x = torch.tensor([[0.25, -0.5], [2.25, 1.5]])[:, :, None, None]
    network(x, torch.zeros(2))
    a = torch.tensor([0.25, -0.5]) * torch.pi
    expected = torch.cat([x[0].flatten(), a.sin(), (2 * a).sin(), a.cos(), (2 * a).cos()])
    torch.testing.assert_close(seen[0][0], expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(seen[0][0, 2:], seen[0][1, 2:], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="input_frequencies=-1"):
        MLP((2, 1, 1), input_frequencies=-1)
