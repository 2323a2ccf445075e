"""The latent of a generator and the channels of the output."""

import pytest
import torch
from test_networks import batch, both, perturbed, small

from networks import MLP
from networks.latent import MappingNetwork


def latents(n=3, size=5, seed=1):
    return torch.randn(n, size, generator=torch.Generator().manual_seed(seed))


@both
def test_latent_has_an_effect_on_its_own_image_only(kind):
    network = perturbed(small(kind, num_classes=10, latent_size=5))
    assert network.latent_size == 5 and small(kind).latent_size == 0
    x, c, label, _ = batch((1, 8, 8))
    z = latents()
    before = network(x, c, label, latent=z)
    z[1] = -z[1]
    after = network(x, c, label, latent=z)
    assert (after[1] - before[1]).abs().max() > 1e-3
    torch.testing.assert_close(after[[0, 2]], before[[0, 2]])


@both
def test_latent_moves_the_embedding_from_the_beginning(kind):
    torch.manual_seed(0)
    network = small(kind, latent_size=5)
    c = torch.zeros(256)
    embedding = network.embedding(c, None, None, latents(256))
    assert 0.05 < embedding.std(0).mean() < 1
    # the mean over z apart, it is the level's
    torch.testing.assert_close(
        embedding - network.embedding.mapping(latents(256)), network.embedding.noise_mlp(network.embedding.position(c))
    )


def test_mapping_is_its_formula():
    mapping = perturbed(MappingNetwork(3, 4, layers=2)).double()
    z = latents(size=3).double()
    h = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
    assert len(mapping.layers) == 3
    for layer in mapping.layers:
        h = h @ layer.weight.T + layer.bias
        h = h * h.sigmoid()
    torch.testing.assert_close(mapping(z), h)
    torch.testing.assert_close(mapping(10 * z), h)  # only the direction of z matters
    assert mapping(torch.zeros(2, 3).double()).isfinite().all()


@pytest.mark.parametrize("layers", [0, 1, 4, 8])
@pytest.mark.parametrize("size", [4, 100])
def test_mapping_keeps_the_size_of_its_signal(layers, size):
    torch.manual_seed(0)
    assert 0.05 < MappingNetwork(size, 256, layers)(torch.randn(256, size)).std(0).mean() < 1


@both
def test_missing_and_needless_latents_are_refused(kind):
    x, c, *_ = batch((1, 8, 8))
    with pytest.raises(ValueError, match="latent_size=5: a latent is needed"):
        small(kind, latent_size=5)(x, c)
    with pytest.raises(ValueError, match="latent_size=0: it takes no latent"):
        small(kind)(x, c, latent=latents())
    with pytest.raises(ValueError, match="latent_size=-1"):
        small(kind, latent_size=-1)
    with pytest.raises(ValueError, match="mapping_layers=-1"):
        small(kind, latent_size=5, mapping_layers=-1)
    with pytest.raises(ValueError, match="out_channels=0"):
        small(kind, out_channels=0)


@both
def test_gradients_reach_the_mapping_network(kind):
    network = perturbed(small(kind, num_classes=10, bidirectional=True, latent_size=5, mapping_layers=2))
    network(*batch((1, 8, 8)), latents()).square().sum().backward()
    assert all(p.grad.any() and p.grad.isfinite().all() for p in network.parameters())


@both
def test_tuning_takes_the_mapping_network_along(kind):
    one = perturbed(small(kind, num_classes=10, latent_size=5))
    two = perturbed(small(kind, num_classes=10, latent_size=5, bidirectional=True))
    two.load_unidirectional(one.state_dict())
    x, c, label, u = batch((1, 8, 8))
    expected = one(x, c, label, latent=latents())
    torch.testing.assert_close(two(x, c, label, u, latents()), expected, rtol=1e-5, atol=1e-6)


@both
def test_without_a_latent_no_weight_is_added(kind):
    plain, latent = small(kind).state_dict(), small(kind, latent_size=5).state_dict()
    assert {key for key in latent if key not in plain} == {key for key in latent if ".mapping." in key}
    assert not any(".mapping." in key for key in plain)


@both
@pytest.mark.parametrize("options", [{}, {"patch_size": 2}])
@pytest.mark.parametrize("out_channels", [1, 5])
def test_output_has_the_channels_asked_for(kind, options, out_channels):
    network = small(kind, (3, 8, 8), out_channels=out_channels, **({} if kind is MLP else options))
    x, c, *_ = batch((3, 8, 8))
    assert network(x, c).shape == (3, out_channels, 8, 8)
    assert perturbed(network)(x, c).any()


@both
def test_latents_work_in_bfloat16_and_float64(kind):
    network = perturbed(small(kind, latent_size=5))
    x, c, *_ = batch((1, 8, 8))
    exact = network(x, c, latent=latents())
    with torch.autocast("cpu", torch.bfloat16):
        out = network(x, c, latent=latents())
    assert (out.float() - exact).norm() < 0.05 * exact.norm()
    double = network.double()(x.double(), c.double(), latent=latents().double())
    torch.testing.assert_close(double.float(), exact, rtol=1e-4, atol=1e-4)


@both
def test_network_with_a_latent_compiles_as_one_graph(kind):
    network = perturbed(small(kind, latent_size=5))
    x, c, *_ = batch((1, 8, 8))
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    expected = network(x, c, latent=latents())
    torch.testing.assert_close(compiled(x, c, latent=latents()), expected, rtol=1e-4, atol=1e-5)
