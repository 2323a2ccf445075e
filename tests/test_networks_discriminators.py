"""What every discriminator must do, and the minibatch statistics."""

from collections.abc import Callable

import pytest
import torch
from jsonargparse import ArgumentParser
from test_networks import batch, perturbed, small
from torch import nn

from networks import MLP, ConvDiscriminator, MLPDiscriminator, UNet, UNetDiscriminator, UNetEncoderDiscriminator
from networks.minibatch import MinibatchDeviation

MLP_SIZE = {"width": 32, "depth": 2, "embedding_channels": 16}
UNET_SIZE = {"channels": 8, "channel_mult": (1, 2), "num_blocks": 1, "attention_resolutions": (4, 8)}
SIZES = {
    ConvDiscriminator: {"channels": 8, "channel_mult": (1, 2, 2), "embedding_channels": 16},
    MLPDiscriminator: MLP_SIZE,
    UNetDiscriminator: UNET_SIZE,
    UNetEncoderDiscriminator: UNET_SIZE,
}
each = pytest.mark.parametrize("kind", SIZES)
decoding = pytest.mark.parametrize("kind", [MLPDiscriminator, UNetDiscriminator])
starting = pytest.mark.parametrize("kind", [MLPDiscriminator, UNetDiscriminator, UNetEncoderDiscriminator])


def critic(kind, image_shape=(1, 8, 8), num_classes=10, **options):
    """A discriminator small enough to run in milliseconds."""
    torch.manual_seed(3)
    return kind(image_shape, num_classes, **(SIZES[kind] | options))


def alone(kind):
    """Options under which an image's logits are its own."""
    return {"minibatch_group": 0} if kind is ConvDiscriminator else {}


def given(image_shape=(1, 8, 8), n=3):
    return batch(image_shape, n)[:3]


@each
@pytest.mark.parametrize("image_shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
@pytest.mark.parametrize("n", [1, 5, 7, 8])
def test_logits_have_their_shape_and_start_at_zero(kind, image_shape, n):
    network = critic(kind, image_shape)
    inputs = given(image_shape, n)
    logits = network(*inputs)
    assert logits.shape == ((n, *image_shape[1:]) if kind is UNetDiscriminator else (n,))
    assert not logits.any()
    assert perturbed(network)(*inputs).any()


def test_points_of_the_plane_are_judged():
    inputs = given((2, 1, 1), 5)
    assert critic(MLPDiscriminator, (2, 1, 1))(*inputs).shape == (5,)
    assert critic(ConvDiscriminator, (2, 1, 1), channel_mult=(2,))(*inputs).shape == (5,)


@each
def test_image_level_and_label_have_an_effect_on_their_own_image_only(kind):
    network = perturbed(critic(kind, **alone(kind)))
    inputs = given()
    before = network(*inputs)
    for i in range(3):
        changed = [value.clone() for value in inputs]
        changed[i][1] = (changed[i][1] + 1) % 10
        after = network(*changed)
        assert (after[1] - before[1]).abs().max() > 1e-3
        torch.testing.assert_close(after[[0, 2]], before[[0, 2]])


@each
def test_a_label_of_minus_one_is_no_class(kind):
    network = perturbed(critic(kind, **alone(kind)))
    x, c, label = given()
    with torch.no_grad():
        network.embedding.label.weight[0] = 0
    torch.testing.assert_close(network(x, c, torch.full_like(label, -1)), network(x, c, torch.zeros_like(label)))
    with pytest.raises(ValueError, match="num_classes=10: a label is needed"):
        network(x, c)
    assert critic(kind, num_classes=0)(x, c).shape[0] == 3


@each
@pytest.mark.parametrize("n", [1, 3, 4])
def test_squared_gradient_can_be_differentiated(kind, n):
    """R1 = ||dD/dx||^2 has a finite gradient in the weights, attention's included."""
    network = perturbed(critic(kind))
    x, c, label = given(n=n)
    x.requires_grad_()
    (slope,) = torch.autograd.grad(network(x, c, label).sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert slope.any()
    grads = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    assert all(grad.isfinite().all() for grad in grads.values())
    matrices = [name for name in grads if name.endswith(("qkv.weight", "conv_in.weight", "layer_in.weight"))]
    assert matrices and all(grads[name].any() for name in matrices)


@each
def test_every_parameter_has_a_gradient(kind):
    network = perturbed(critic(kind, **({"decoded_channels": 2} if hasattr(kind, "decode") else {})))
    outputs = network.decode(*given()) if hasattr(kind, "decode") else (network(*given()),)
    sum(output.square().sum() for output in outputs).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.any() and parameter.grad.isfinite().all(), name


@each
def test_the_last_layer_learns_at_the_first_step(kind):
    network = critic(kind)
    network(*given()).sum().backward()
    moved = [name for name, p in network.named_parameters() if p.grad is not None and p.grad.any()]
    assert len(moved) == 2 and {name.split(".")[-1] for name in moved} == {"weight", "bias"}


@each
def test_autocast_to_bfloat16_stays_near_float32(kind):
    network = perturbed(critic(kind))
    inputs = given(n=5)
    exact = network(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        out = network(*inputs)
    assert out.dtype == torch.bfloat16
    assert (out.float() - exact).norm() < 0.05 * exact.norm()
    out.float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


@each
def test_float64_is_used_throughout(kind):
    network = perturbed(critic(kind)).double()
    x, c, label = given()
    exact = network(x.double(), c.double(), label)
    assert exact.dtype == torch.float64
    assert 0 < (network(x.double(), c.double() + 1e-10, label) - exact).abs().max() < 1e-6


@each
def test_discriminator_compiles_as_one_graph(kind):
    network = perturbed(critic(kind))
    inputs = given(n=5)
    out = torch.compile(network, fullgraph=True, backend="aot_eager")(*inputs)
    out.square().sum().backward()
    torch.testing.assert_close(out, network(*inputs), rtol=1e-4, atol=1e-4)


@each
def test_discriminator_is_a_plain_module(kind):
    own = {name for cls in kind.__mro__[: kind.__mro__.index(nn.Module)] for name in vars(cls)}
    assert not {name for name in own & set(vars(nn.Module)) if name.startswith("_") and not name.startswith("__")}


@decoding
@pytest.mark.parametrize("channels", [0, 2])
def test_decoded_image_comes_with_the_logits(kind, channels):
    network = critic(kind, (3, 8, 8), decoded_channels=channels)
    assert network.decoded_channels == channels
    logits, decoded = network.decode(*given((3, 8, 8), 5))
    assert decoded.shape == (5, channels, 8, 8) and not decoded.any() and not logits.any()
    logits, decoded = perturbed(network).decode(*given((3, 8, 8), 5))
    assert torch.equal(logits, network(*given((3, 8, 8), 5)))
    assert not channels or decoded.flatten(1).any(1).all()


@starting
def test_generator_lends_all_but_the_last_layer(kind):
    """The features are the generator's, told no latent; the logits start at 0."""
    base = MLP if kind is MLPDiscriminator else UNet
    generator = perturbed(small(base, num_classes=10, latent_size=5))
    network = critic(kind)
    network.load_generator(generator.state_dict())
    x, c, label = given()
    embedding = network.embedding(c, label, None)
    z = torch.zeros(3, 5)
    torch.testing.assert_close(embedding + generator.embedding.mapping(z), generator.embedding(c, label, None, z))
    features = [part.encode(x, embedding) for part in (network, generator)]
    for own, lent in zip(*(f if isinstance(f, tuple) else (f,) for f in features), strict=True):
        torch.testing.assert_close(own, lent)
    assert not network(x, c, label).any()
    head = {"layer_out", "conv_out", "head", "head_norm"}
    state = generator.state_dict()
    assert all(torch.equal(p, state[k]) for k, p in network.state_dict().items() if k.split(".")[0] not in head)


@starting
def test_weights_that_do_not_fit_are_refused(kind):
    base = MLP if kind is MLPDiscriminator else UNet
    network, state = critic(kind), small(base, num_classes=10).state_dict()
    key = "embedding.label.weight"
    with pytest.raises(ValueError, match=f"missing: {key}"):
        network.load_generator({k: v for k, v in state.items() if k != key})
    with pytest.raises(ValueError, match=f"another shape: {key}"):
        network.load_generator(state | {key: state[key][:-1]})
    with pytest.raises(ValueError, match=r"unexpected: embedding\.join"):
        network.load_generator(small(base, num_classes=10, bidirectional=True).state_dict())


@each
def test_the_source_level_has_no_effect_at_first_and_then_one(kind):
    network, (x, c, label) = perturbed(critic(kind, source_level=True)), given()
    network.embedding.reset_join()
    other = c + torch.linspace(0.5, 1, len(c))
    with torch.no_grad():
        assert torch.equal(network(x, c, label, c), network(x, c, label, other))
        network.embedding.join.weight.normal_()
        assert (network(x, c, label, c) - network(x, c, label, other)).abs().max() > 1e-3
    assert network.source_level and not critic(kind).source_level
    with pytest.raises(ValueError, match="needs c_target"):
        network(x, c, label)
    with pytest.raises(ValueError, match="takes no c_target"):
        critic(kind)(x, c, label, c)


def test_encoder_has_no_way_up():
    names = {name.split(".")[0] for name in critic(UNetEncoderDiscriminator).state_dict()}
    assert names == {"embedding", "conv_in", "down", "middle", "head_norm", "head"}
    assert critic(UNetEncoderDiscriminator, minibatch_group=4).head.in_features == 17


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (ConvDiscriminator, {"image_shape": (1, 28, 28), "channel_mult": (1, 1, 1, 1)}, "sides divisible by 8"),
        (ConvDiscriminator, {"channel_mult": ()}, "channel_mult="),
        (ConvDiscriminator, {"channels": 0}, "channels=0"),
        (ConvDiscriminator, {"minibatch_group": -1}, "minibatch_group=-1"),
        (UNetEncoderDiscriminator, {"minibatch_group": -1}, "minibatch_group=-1"),
        (MLPDiscriminator, {"decoded_channels": -1}, "decoded_channels=-1"),
        (UNetDiscriminator, {"decoded_channels": -1}, "decoded_channels=-1"),
        (UNetDiscriminator, {"num_blocks": 0}, "num_blocks=0"),
    ],
)
def test_arguments_out_of_range_are_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        critic(kind, **options)


@each
def test_discriminator_is_a_factory_in_a_config(kind):
    """As in the command line: the options of the class it extends are known, those it gives itself are not."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--net", type=Callable[[tuple[int, int, int], int], nn.Module])
    options = {name: list(size) if isinstance(size, tuple) else size for name, size in SIZES[kind].items()}
    config = parser.parse_object({"net": {"class_path": f"networks.{kind.__name__}", "init_args": options}})
    network = parser.instantiate(config).net((1, 8, 8), 10)
    assert type(network) is kind
    assert {k: p.shape for k, p in network.state_dict().items()} == {
        k: p.shape for k, p in critic(kind).state_dict().items()
    }
    for name in ("latent_size", "bidirectional", "out_channels"):
        with pytest.raises(Exception, match=name):
            parser.parse_object({"net": {"class_path": f"networks.{kind.__name__}", "init_args": {name: 1}}})


@pytest.mark.parametrize("n", [1, 3, 4, 8, 9, 11])
def test_minibatch_deviation_is_its_formula(n):
    x = torch.randn(n, 3, 2, 5, dtype=torch.float64)
    out = MinibatchDeviation(4)(x)
    assert torch.equal(out[:, :3], x) and out.shape == (n, 4, 2, 5)
    for start in range(0, n, 4):
        group = x[start : start + 4]
        variance = (group - group.mean(0)).square().mean(0)
        expected = (variance + 1e-8).sqrt().mean()
        torch.testing.assert_close(out[start : start + 4, 3], expected.expand(len(group), 2, 5))


def test_minibatch_deviation_is_the_official_one_of_reordered_images():
    """DDGAN's view(group, B/group, ...) takes images B/group apart: the same, its images put side by side."""
    x = torch.randn(8, 3, 2, 2, dtype=torch.float64)
    official = (x.view(4, -1, 1, 3, 2, 2).var(0, unbiased=False) + 1e-8).sqrt().mean([2, 3, 4]).repeat(4, 1).flatten()
    order = torch.arange(8).view(4, 2).T.flatten()
    torch.testing.assert_close(MinibatchDeviation(4)(x[order])[:, 3, 0, 0], official[order])


def test_processes_with_slices_of_a_batch_compute_what_one_does():
    network = perturbed(critic(ConvDiscriminator))
    inputs = given(n=16)
    halves = [network(*(value[part] for value in inputs)) for part in (slice(0, 8), slice(8, 16))]
    torch.testing.assert_close(torch.cat(halves), network(*inputs))


def test_one_image_alone_has_a_constant_deviation_and_no_gradient():
    x = torch.randn(5, 3, 2, 2, requires_grad=True)
    deviation = MinibatchDeviation(4)(x)[4, 3]
    torch.testing.assert_close(deviation, torch.full((2, 2), 1e-4))
    deviation.sum().backward()
    assert not x.grad.any()


@pytest.mark.parametrize("kind", [ConvDiscriminator, UNetEncoderDiscriminator])
def test_variety_of_the_group_is_seen(kind):
    network = perturbed(critic(kind, minibatch_group=2))
    x, c, label = given(n=4)
    before = network(x, c, label)
    after = network(torch.cat([x[:1], x[:1], x[2:]]), c, label)
    assert (after[0] - before[0]).abs() > 1e-4
    torch.testing.assert_close(after[2:], before[2:])
