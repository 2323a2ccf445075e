"""Operators: adjoints, pseudo-inverses, projections, and that bad input is told in one line."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles import gaussian_data
from PIL import Image

from diffusion.pixels import from_uint8, to_uint8
from diffusion.rng import ImageNoise
from tasks.jpeg import JPEG, JPEGSurrogate
from tasks.masks import box_mask, half_mask, mask_from_image, random_mask
from tasks.operators import GREY_WEIGHTS, AveragePool, Grey, Inpainting, LinearOperator
from tasks.separable import Separable, bicubic, gaussian_blur

H, W = 12, 8
SHAPE = (3, H, W)
ISOTROPIC: dict[str, LinearOperator] = {
    "box": Inpainting(box_mask(H, W)),
    "half": Inpainting(half_mask(H, W)),
    "random": Inpainting(random_mask(H, W, 0.3)),
    "nothing missing": Inpainting(torch.ones(H, W, dtype=torch.bool)),
    "pool 2": AveragePool(2),
    "pool 4": AveragePool(4),
    "grey": Grey(),
}
SEPARABLE: dict[str, LinearOperator] = {
    "bicubic 2": bicubic(H, W, 2),
    "bicubic 4": bicubic(H, W, 4),
    "blur": gaussian_blur(H, W, 0.8),
    "window": gaussian_blur(H, W, 10.0, radius=2),
}
ALL = ISOTROPIC | SEPARABLE
each = pytest.mark.parametrize("operator", ALL.values(), ids=ALL.keys())


def images(n=3, seed=0):
    return gaussian_data(n, 0.5, SHAPE, seed)


def inner(a, b):
    return (a * b).sum().item()


@each
def test_the_adjoint(operator):
    x, y = images(), operator.measure(images(seed=1))
    other = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert inner(operator.measure(x), other) == pytest.approx(inner(x, operator.adjoint(other)), rel=1e-12)


@each
def test_the_projector(operator):
    """P^2 = P = P^T, and A of the pseudo-inverse gives a measurement back (a blur's up to the threshold)."""
    x, other = images(), images(seed=1)
    known = operator.known_part(x)
    torch.testing.assert_close(operator.known_part(known), known, rtol=1e-10, atol=1e-12)
    assert inner(known, other) == pytest.approx(inner(x, operator.known_part(other)), rel=1e-9)
    y = operator.measure(x)
    lost = 0 if full_rank(operator) else 2e-3
    torch.testing.assert_close(operator.measure(operator.pseudo_inverse(y)), y, rtol=0, atol=1e-12 + lost)


def full_rank(operator):
    """Whether nothing of it lies below a threshold: all but the blurs."""
    return not (isinstance(operator, Separable) and operator.threshold == 1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@each
def test_after_replacement_what_is_known_is_the_measurement(operator, dtype):
    """To 1e-6, A P x = A A^+ y, which is A x = y where A has full rank; and what is unknown is as it was."""
    x0, y = images(seed=1).to(dtype), operator.measure(images().to(dtype))
    replaced = operator.project(x0, y)
    known = operator.measure(operator.known_part(replaced))
    assert replaced.dtype == dtype
    assert (known - operator.measure(operator.pseudo_inverse(y))).abs().max() <= 1e-6
    if full_rank(operator):
        assert (operator.measure(replaced) - y).abs().max() <= 1e-6
    unknown = x0 - operator.known_part(x0)
    torch.testing.assert_close(replaced - operator.known_part(replaced), unknown, rtol=0, atol=1e-5)


@each
def test_the_ridge_inverse_solves_its_equation(operator):
    """A^T (A A^T + c I)^-1 y by the matrix, at one c for all and at one for each image."""
    eye = torch.eye(3 * H * W, dtype=torch.float64).reshape(-1, *SHAPE)
    a = operator.measure(eye).flatten(1).T
    y = operator.measure(images())
    for ratio in (0.3, torch.tensor([0.1, 0.3, 2.0], dtype=torch.float64).reshape(3, 1, 1, 1)):
        for i, c in enumerate(torch.as_tensor(ratio, dtype=torch.float64).flatten().expand(3)):
            solved = torch.linalg.solve(a @ a.T + c * torch.eye(len(a), dtype=torch.float64), y[i].flatten())
            made = operator.ridge_inverse(y, ratio)[i].flatten()
            torch.testing.assert_close(
                made, a.T @ solved, rtol=0, atol=2e-6 if isinstance(operator, Separable) else 1e-12
            )


@each
def test_weights_of_known_directions(operator):
    """V w(r) V^T with r = sigma_y/s of the whole matrix: P for the weight 1, sigma_y^2 times A^+ (A^+)^T for r^2."""
    noisy, x = replace(operator, sigma_y=0.2), images()
    torch.testing.assert_close(noisy.weighted(x, torch.ones_like), operator.known_part(x), rtol=0, atol=1e-9)
    eye = torch.eye(3 * H * W, dtype=torch.float64).reshape(-1, *SHAPE)
    a = operator.measure(eye).flatten(1).T
    made = noisy.weighted(x, lambda r: 1 / r**2).flatten(1)
    torch.testing.assert_close(made, x.flatten(1) @ a.T @ a / 0.04, rtol=0, atol=1e-3)
    if full_rank(operator):
        torch.testing.assert_close(made, x.flatten(1) @ a.T @ a / 0.04, rtol=0, atol=1e-9)


@pytest.mark.parametrize("operator", ISOTROPIC.values(), ids=ISOTROPIC.keys())
def test_kappa(operator):
    """A A^T = kappa I on measurements."""
    y = operator.measure(images())
    torch.testing.assert_close(operator.measure(operator.adjoint(y)), operator.kappa * y, rtol=1e-12, atol=1e-14)


@each
def test_noise_of_a_measurement(operator):
    """sigma_y of it, on the measurement alone, and of every image its own."""
    fields = {name: getattr(operator, name) for name in operator.__dataclass_fields__}
    noisy = type(operator)(**(fields | {"sigma_y": 0.2}))
    x = images(400).float()
    rest = noisy.observe(x, ImageNoise(range(400), SHAPE)) - operator.measure(x)
    share = operator.mask.double().mean().item() if isinstance(operator, Inpainting) else 1.0
    assert rest.square().mean().item() == pytest.approx(share * 0.04, rel=0.05)
    alone = noisy.observe(x[5:6], ImageNoise([5], SHAPE)) - operator.measure(x[5:6])
    torch.testing.assert_close(alone, rest[5:6])


def test_grey():
    assert GREY_WEIGHTS == (0.2989, 0.5870, 0.1140) and Grey().kappa == pytest.approx(0.4469, abs=5e-5)
    red, green, blue = images().unbind(1)
    expected = (0.2989 * red + 0.5870 * green + 0.1140 * blue)[:, None]
    torch.testing.assert_close(Grey().measure(images()), expected)


@each
def test_a_measurement_is_shown_as_an_image_that_is_measured_as_it(operator):
    """All but the grey one as the pseudo-inverse, which would colour it."""
    y = operator.measure(images())
    shown = operator.shown(y)
    assert shown.shape == images().shape
    if isinstance(operator, Grey):
        assert torch.equal(shown[:, 0], shown[:, 1]) and torch.equal(shown[:, 1], shown[:, 2])
        torch.testing.assert_close(operator.measure(shown), sum(GREY_WEIGHTS) * y)
    else:
        assert torch.equal(shown, operator.pseudo_inverse(y))


def orthogonal(first):
    """The consistency models' Q: QR of the identity with its first column replaced, that column of positive sum."""
    matrix = torch.eye(len(first), dtype=torch.float64)
    matrix[:, 0] = first / first.norm()
    q, _ = torch.linalg.qr(matrix)
    return q * q[:, 0].sum().sign()


def test_the_colour_matrix():
    """As in arXiv 2303.01469's code to 4 digits (cut off); Q^T [(Q y)(1 - M) + (Q x) M] is `project`."""
    q = orthogonal(torch.tensor(GREY_WEIGHTS, dtype=torch.float64))
    printed = [[0.4471, -0.8204, 0.3563], [0.8780, 0.4785, 0.0], [0.1705, -0.3129, -0.9343]]
    torch.testing.assert_close(q, torch.tensor(printed, dtype=torch.float64), rtol=0, atol=1e-4)
    unit = torch.zeros(1, 1, 1, 1, dtype=torch.float64) + Grey().kappa ** -0.5
    torch.testing.assert_close(Grey().adjoint(unit).flatten(), q[:, 0])

    truth, x0 = images(), images(seed=1)
    coordinates = torch.einsum("bchw,ck->bkhw", x0, q)
    coordinates[:, 0] = torch.einsum("bchw,c->bhw", truth, q[:, 0])
    expected = torch.einsum("bkhw,ck->bchw", coordinates, q)
    torch.testing.assert_close(Grey().project(x0, Grey().measure(truth)), expected, rtol=0, atol=1e-12)


def test_pooling_is_the_orthogonal_transform_of_blocks():
    p, truth, x0 = 4, images(), images(seed=1)
    q = orthogonal(torch.ones(p * p, dtype=torch.float64))

    def blocks(x):
        return x.unfold(2, p, p).unfold(3, p, p).flatten(4)

    coordinates = blocks(x0) @ q
    coordinates[..., 0] = (blocks(truth) @ q)[..., 0]
    replaced = AveragePool(p).project(x0, AveragePool(p).measure(truth))
    torch.testing.assert_close(blocks(replaced), coordinates @ q.T, rtol=0, atol=1e-12)


@pytest.mark.parametrize("p", [2, 4])
def test_bicubic_is_torchs_with_antialiasing_away_from_the_border(p):
    """torch cuts the window off at the border instead of mirroring there."""
    x = gaussian_data(2, 0.5, (1, 32, 40))
    expected = torch.nn.functional.interpolate(x, scale_factor=1 / p, mode="bicubic", antialias=True)
    made = bicubic(32, 40, p).measure(x)
    torch.testing.assert_close(made[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2], rtol=0, atol=1e-6)


@pytest.mark.parametrize("operator", SEPARABLE.values(), ids=SEPARABLE.keys())
def test_filters_keep_what_is_even(operator):
    torch.testing.assert_close(
        operator.measure(torch.full((1, 1, H, W), 0.3)),
        torch.full_like(operator.measure(torch.zeros(1, 1, H, W)), 0.3),
        rtol=0,
        atol=1e-6,
    )


def test_blur_against_a_convolution():
    x, taps = (
        gaussian_data(2, 0.5, (1, H, W)),
        torch.exp(-(torch.arange(-3.0, 4.0, dtype=torch.float64) ** 2) / 2 / 0.64),
    )
    kernel = torch.outer(taps, taps) / taps.sum() ** 2
    expected = torch.nn.functional.conv2d(x, kernel[None, None])
    operator = gaussian_blur(H, W, 0.8)
    torch.testing.assert_close(operator.measure(x)[..., 3:-3, 3:-3], expected)
    strong = gaussian_blur(H, W, 2.0)
    assert strong.factors[0].s.min() >= 1e-3 and len(strong.factors[0].s) < H


def test_masks():
    assert box_mask(8, 8).sum() == 48 and not box_mask(8, 8)[2:6, 2:6].any()
    assert box_mask(8, 8, (0, 2), (3, 8)).sum() == 54
    assert half_mask(4, 6)[:, :3].all() and not half_mask(4, 6)[:, 3:].any()
    assert random_mask(10, 10, 0.08).sum() == 8
    assert not torch.equal(random_mask(10, 10, 0.5, 1), random_mask(10, 10, 0.5, 2))
    assert torch.equal(random_mask(10, 10, 0.5, 1), random_mask(10, 10, 0.5, 1))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_a_mask_from_an_image(mode, tmp_path):
    mask = random_mask(H, W, 0.4)
    Image.fromarray(mask.numpy().astype(np.uint8) * 255).convert(mode).save(tmp_path / "mask.png")
    assert torch.equal(mask_from_image(tmp_path / "mask.png", H, W), mask)


def save(path, pixels):
    Image.fromarray(pixels).save(path)
    return path


def broken(path):
    path.write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    return path


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda p: save(p, np.zeros((H, W + 1), np.uint8)), r"a mask of 12 x 9 pixels for images of 12 x 8"),
        (lambda p: save(p, np.zeros((H, W), np.uint8)), "empty mask, every pixel is dark"),
        (lambda p: save(p, np.full((H, W), 255, np.uint8)), "empty mask, no pixel is dark"),
        (lambda p: save(p, np.zeros((H, W), np.uint16)), r"mode I;16"),
        (broken, "no mask can be read"),
        (lambda p: p.with_name("nowhere.png"), "nowhere.png: no mask can be read"),
    ],
)
def test_bad_mask_files(make, line, tmp_path):
    with pytest.raises(ValueError, match=line) as error:
        mask_from_image(make(tmp_path / "mask.png"), H, W)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: Inpainting(torch.ones(H, W)), "bool is needed"),
        (lambda: Inpainting(torch.ones(1, H, W, dtype=torch.bool)), r"\(1, 12, 8\)"),
        (lambda: Inpainting(torch.zeros(H, W, dtype=torch.bool)), "empty mask"),
        (lambda: Inpainting(box_mask(8, 8)).measure(images()), r"mask of \(8, 8\) for images of \(12, 8\)"),
        (lambda: AveragePool(1), "p=1"),
        (lambda: AveragePool(3).measure(images()), "p=3 does not divide images of 12 x 8"),
        (lambda: AveragePool(2, sigma_y=-0.1), "sigma_y=-0.1"),
        (lambda: Grey().measure(images()[:, :1]), "images of 1 channels"),
        (lambda: bicubic(H, W, 5), "p=5 does not divide"),
        (lambda: bicubic(8, 8, 2).measure(images()), r"images of \(12, 8\) pixels"),
        (lambda: gaussian_blur(H, W, 0.0), "std=0.0"),
        (lambda: gaussian_blur(H, W, 1.0, threshold=0.0), "threshold=0.0"),
        (lambda: box_mask(8, 8, (5, 5)), "rows 5 to 5"),
        (lambda: box_mask(8, 8, (0, 8), (0, 8)), "hides a part"),
        (lambda: box_mask(8, 8, (4, 9)), "rows 4 to 9"),
        (lambda: half_mask(8, 1), "no left and right half"),
        (lambda: random_mask(8, 8, 1.0), "kept=1.0"),
        (lambda: random_mask(8, 8, 0.001), "kept=0.001"),
        (lambda: JPEG(0), "quality=0"),
        (lambda: JPEG(10).measure(images()[:, :2]), "images of 2 channels"),
        (lambda: JPEGSurrogate(10).measure(images()[:, :2]), "images of 2 channels"),
    ],
)
def test_bad_input(call, line):
    with pytest.raises(ValueError, match=line) as error:
        call()
    assert "\n" not in str(error.value)


def smooth(n=2, channels=3, height=40, width=56):
    coarse = torch.randn(n, channels, 6, 6, generator=torch.Generator().manual_seed(0))
    fine = 0.05 * torch.randn(n, channels, height, width, generator=torch.Generator().manual_seed(1))
    return (0.6 * torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic") + fine).clamp(-1, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_pillows(channels, tmp_path):
    x = smooth(channels=channels)
    y = JPEG(10).measure(x)
    pixels = to_uint8(x)[1].permute(1, 2, 0).squeeze(2 if channels == 1 else ()).numpy()
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=10)
    with Image.open(tmp_path / "a.jpg") as image:
        decoded = torch.from_numpy(np.array(image)).reshape(40, 56, channels).permute(2, 0, 1)
    assert torch.equal(to_uint8(y)[1], decoded) and y.shape == x.shape
    assert torch.equal(JPEG(10).measure(x[1:]), y[1:])
    errors = [(JPEG(q).measure(x) - x).square().mean() for q in (5, 20, 90)]
    assert errors[0] > errors[1] > errors[2]
    assert torch.equal(JPEG(10).project(x, y), x - y + y) and torch.equal(JPEG(10).pseudo_inverse(y), y)


@pytest.mark.parametrize("quality", [5, 10, 50, 90])
@pytest.mark.parametrize(("channels", "grey_levels"), [(1, 0.6), (3, 2.0)])
def test_the_surrogate_is_near_the_codec(quality, channels, grey_levels):
    """Mean distance in grey levels, far below what the compression does."""
    x = smooth(channels=channels)
    real, made = JPEG(quality).measure(x), JPEGSurrogate(quality).measure(x)
    distance = 127.5 * (real - made).abs().mean()
    assert distance < grey_levels and distance < 0.3 * 127.5 * (real - x).abs().mean()
    assert torch.equal(from_uint8(to_uint8(made)), made.float())


def test_a_gradient_passes_through_the_surrogate():
    """Of grey images it is the identity's; colour loses the resolution that the codec drops."""
    x = (0.8 * smooth(channels=1).double()).requires_grad_()
    direction = gaussian_data(2, 1.0, x.shape[1:])
    (gradient,) = torch.autograd.grad((JPEGSurrogate(20).measure(x) * direction).sum(), x)
    inside = JPEGSurrogate(20).measure(x).detach().abs() < 0.99
    assert inside.double().mean() > 0.8 and gradient.abs().sum() > 0
    colour = smooth().double().requires_grad_()
    (gradient,) = torch.autograd.grad(JPEGSurrogate(20).measure(colour).square().sum(), colour)
    assert gradient.isfinite().all() and gradient.abs().mean() > 0.1
