"""Distances between images against their formulae."""

import math
import urllib.error

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion.distances import L1, LPIPS, PseudoHuber, SquaredL2

DISTANCES = [SquaredL2(), L1(), PseudoHuber(), PseudoHuber(per_root_dim=True), PseudoHuber(c_factor=0.1)]


def two_batches(shape=(3, 2, 4, 4), dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(2, *shape, dtype=torch.float64, generator=generator)).to(dtype).unbind()


def test_means_over_the_elements():
    a, b = two_batches()
    for i in range(len(a)):
        differences = [p - q for p, q in zip(a[i].flatten().tolist(), b[i].flatten().tolist(), strict=True)]
        assert math.isclose(SquaredL2()(a, b)[i], sum(d * d for d in differences) / 32, rel_tol=1e-12)
        assert math.isclose(L1()(a, b)[i], sum(abs(d) for d in differences) / 32, rel_tol=1e-12)


@pytest.mark.parametrize("c_factor", [0.00054, 0.1])
def test_pseudo_huber_is_on_the_norm_of_each_image(c_factor):
    """sqrt(||a - b||^2 + c^2) - c with c = c_factor sqrt(dim): one square root an image, not one an element."""
    a, b = two_batches()
    c = c_factor * math.sqrt(32)
    expected = torch.stack([torch.linalg.vector_norm(p - q) ** 2 + c**2 for p, q in zip(a, b, strict=True)]).sqrt() - c
    torch.testing.assert_close(PseudoHuber(c_factor)(a, b), expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(PseudoHuber(c_factor, per_root_dim=True)(a, b), expected / math.sqrt(32))
    per_element = (((a - b) ** 2 + c_factor**2).sqrt() - c_factor).flatten(1).mean(1)
    assert not torch.allclose(expected, per_element, rtol=0.05)


@pytest.mark.parametrize(("dim", "c"), [(3 * 32 * 32, 0.03), (3 * 64 * 64, 0.06)])
def test_pseudo_hubers_published_constants(dim, c):
    """c is 0.03 for CIFAR-10 and 0.06 for ImageNet-64, where the curve bends: d = c (sqrt(2) - 1) at norm c."""
    a = torch.zeros(1, dim, dtype=torch.float64)
    bend = 0.00054 * math.sqrt(dim)
    assert bend == pytest.approx(c, rel=0.01)
    b = torch.full_like(a, bend / math.sqrt(dim))
    assert PseudoHuber()(a, b).item() == pytest.approx(bend * (math.sqrt(2) - 1), rel=1e-9)


@settings(deadline=None)
@given(exponent=st.floats(-12, 3), seed=st.integers(0, 100))
def test_pseudo_huber_does_not_cancel_in_float32(exponent, seed):
    """sqrt(r^2 + c^2) - c loses every digit where r << c; 24 bits must hold from 1e-12 to 1e3."""
    direction = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    a, b = (10.0**exponent * direction).float(), torch.zeros(2, 3, 8, 8)
    r = a.double().flatten(1).norm(dim=1)
    c = 0.00054 * math.sqrt(192)
    exact = c * torch.expm1(0.5 * torch.log1p((r / c) ** 2))  # sqrt(r^2 + c^2) - c, free of cancellation
    torch.testing.assert_close(PseudoHuber()(a, b).double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("distance", DISTANCES, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_difference_has_a_finite_gradient(distance, dtype):
    a = torch.randn(2, 3, 4, 4, dtype=dtype).requires_grad_()
    d = distance(a, a.detach())
    (gradient,) = torch.autograd.grad(d.sum(), a)
    assert d.tolist() == [0, 0] and torch.equal(gradient, torch.zeros_like(a))


@pytest.mark.parametrize("distance", DISTANCES, ids=repr)
def test_gradients(distance):
    a, b = two_batches((2, 1, 2, 2))
    assert torch.autograd.gradcheck(distance, (a.requires_grad_(), b.requires_grad_()))


@pytest.mark.parametrize("distance", DISTANCES, ids=repr)
@pytest.mark.parametrize("shape", [(1, 2, 1, 1), (5, 1, 8, 8)])
def test_distances_are_per_image_symmetric_and_positive(distance, shape):
    a, b = two_batches(shape, torch.float32)
    d = distance(a, b)
    assert d.shape == shape[:1] and (d > 0).all()
    torch.testing.assert_close(d, distance(b, a))
    torch.testing.assert_close(d, torch.cat([distance(p[None], q[None]) for p, q in zip(a, b, strict=True)]))


def test_pseudo_huber_needs_a_positive_c():
    """At c = 0 the gradient at zero difference is not a number."""
    for c_factor in (0.0, -1.0):
        with pytest.raises(ValueError, match=f"c_factor={c_factor}"):
            PseudoHuber(c_factor)


# --- LPIPS, with random weights: the trained ones would have to be downloaded ----------------------------------------


@pytest.mark.parametrize(("net_type", "size"), [("vgg", 32), ("alex", 64), ("squeeze", 64)])
@pytest.mark.parametrize("channels", [1, 3])
def test_lpips_is_torchmetrics_distance_at_the_size(lpips, net_type, size, channels):
    distance = lpips(net_type, size)
    a, b = two_batches((2, channels, 8, 8), torch.float32)
    resized = [torch.nn.functional.interpolate(x, size=(size, size), mode="bilinear") for x in (a, b)]
    d = distance(a, b)
    torch.testing.assert_close(d, distance.net(*(x.expand(-1, 3, -1, -1) for x in resized)).flatten())
    assert d.shape == (2,) and (d > 0).all() and torch.equal(distance(a, a), torch.zeros(2))
    assert not any(p.requires_grad for p in distance.net.parameters())


def test_lpips_is_computed_in_float32_under_autocast(lpips):
    """In bfloat16 the gradient between near images is noise: its cosine with the true one was 0.2 at this distance."""
    distance = lpips(size=32)
    a, step = two_batches((2, 3, 32, 32), torch.float32)
    near = (a + 0.001 * step).requires_grad_()
    (exact,) = torch.autograd.grad(distance(near, a).sum(), near)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        d, half = distance(near, a), distance(near.bfloat16(), a.bfloat16())
        rounded = distance.net(near, a)  # what autocast makes of the same network
    (gradient,) = torch.autograd.grad(d.sum(), near)
    (noise,) = torch.autograd.grad(rounded.sum(), near)
    assert d.dtype == half.dtype == torch.float32
    torch.testing.assert_close(gradient, exact)
    assert torch.cosine_similarity(noise.flatten(), exact.flatten(), 0) < 0.5


def test_lpips_compiles_as_one_graph_and_moves_its_weights_there(lpips):
    distance = lpips(size=32)
    a, b = two_batches((2, 1, 8, 8), torch.float32)
    # not LPIPS itself: a compiled callable object is an error of torch's
    compiled = torch.compile(lambda a, b: distance(a, b), fullgraph=True, dynamic=False, backend="eager")
    torch.testing.assert_close(compiled(a, b), distance(a, b))
    moves = torch.compile(lambda x: distance._moved_to(x.device), fullgraph=True, backend="eager")
    assert moves(a.to("meta")) and {p.device.type for p in distance.net.parameters()} == {"meta"}


@pytest.mark.parametrize(("net_type", "file"), [("vgg", "vgg16-397923af"), ("alex", r"alexnet-owt-7be5be79")])
def test_lpips_without_its_weights_is_refused_in_one_line(monkeypatch, tmp_path, net_type, file):
    def offline(*args, **options):
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", offline)
    expected = f"needs {tmp_path}/hub/checkpoints/{file}.pth, .*no network.*; diffusion.distances.SquaredL2 .*"
    with pytest.raises(ValueError, match=expected) as error:
        LPIPS(net_type)
    assert "\n" not in str(error.value)


def test_lpips_of_an_unknown_network_is_refused():
    with pytest.raises(ValueError, match=r"net_type=resnet: .* vgg, alex, squeeze"):
        LPIPS("resnet")
