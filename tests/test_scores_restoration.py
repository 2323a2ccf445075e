"""PSNR and SSIM of each image, against their definitions."""

import math
import urllib.error

import pytest
import torch
from torch.nn.functional import avg_pool2d, pad

from diffusion.pixels import from_uint8
from evaluation.restoration import CAP, Perceptual, consistency, psnr, residual, ssim


def images(n=3, channels=1, side=16, seed=0):
    return torch.randint(
        0, 256, (n, channels, side, side), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )


def test_psnr_is_of_each_image():
    truth = images(channels=3).clamp(min=2)
    off = truth.clone()
    off[1] -= 2
    assert psnr(off, truth).tolist() == pytest.approx([CAP, 20 * math.log10(255 / 2), CAP])
    assert psnr(truth, off).equal(psnr(off, truth))
    assert psnr(torch.full_like(truth, 255), torch.zeros_like(truth)).tolist() == pytest.approx([0, 0, 0])


def test_ssim_of_small_images_by_its_definition():
    """Uniform windows of 3 x 3, the image mirrored: (2 m m' + c1)(2 cov + c2) / ((m^2 + m'^2 + c1)(v + v' + c2))."""
    a, b = images(side=8), images(side=8, seed=1)
    x, y = (pad(z.double(), (1, 1, 1, 1), mode="reflect") for z in (a, b))
    (mx, my), c1, c2 = (avg_pool2d(z, 3, 1) for z in (x, y)), (0.01 * 255) ** 2, (0.03 * 255) ** 2
    vx, vy = avg_pool2d(x * x, 3, 1) - mx**2, avg_pool2d(y * y, 3, 1) - my**2
    cov = avg_pool2d(x * y, 3, 1) - mx * my
    expected = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    torch.testing.assert_close(ssim(a, b), expected.mean((1, 2, 3)), rtol=1e-6, atol=0)


def test_ssim_falls_with_noise():
    truth = images(channels=3, side=32)
    assert ssim(truth, truth).tolist() == pytest.approx([1, 1, 1])
    noisy = [(truth.float() + s * torch.randn(truth.shape)).clamp(0, 255).to(torch.uint8) for s in (5, 20, 80)]
    scores = [ssim(x, truth).mean() for x in noisy]
    assert 1 > scores[0] > scores[1] > scores[2] > 0
    alone = [ssim(noisy[1][i : i + 1], truth[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(torch.cat(alone), ssim(noisy[1], truth))
    assert ssim(images(1), images(1)).shape == (1,)


def test_consistency_counts_what_can_be_known():
    """Hidden pixels of an inpainting are 0 whatever they hold; a mean of blocks counts every block."""
    truth, kept = images(side=8), torch.zeros(8, 8, dtype=torch.bool)
    kept[:, :2] = True
    x = truth.float() / 127.5 - 1

    def hide(x):
        return torch.where(kept, x, 0.0)

    off = truth.clone()
    off[1, 0, 0, 0] ^= 4
    off[2, 0, 0, 5] ^= 64
    assert consistency(hide, off, hide(x)).tolist() == pytest.approx(
        [CAP, 20 * math.log10(255 / 4) + 10 * math.log10(16), CAP]
    )
    assert consistency(lambda x: avg_pool2d(x, 4), off, avg_pool2d(x, 4))[2] == pytest.approx(
        20 * math.log10(255 * 16 / 64) + 10 * math.log10(4)
    )


@pytest.mark.parametrize("score", [psnr, ssim])
def test_unlike_images_are_refused(score):
    for other in (images(2), images().float(), images()[0]):
        with pytest.raises(ValueError, match="two uint8 tensors of one shape"):
            score(other, images())


def test_residuals_are_over_the_noise():
    """1 for the truth, 0 for what keeps all the noise, and more than 1 for another image."""
    truth, generator = images(4, side=32), torch.Generator().manual_seed(1)
    y = from_uint8(truth) + 0.3 * torch.randn(4, 1, 32, 32, generator=generator)
    assert residual(lambda x: x, truth, y, 0.3).tolist() == pytest.approx([1] * 4, rel=0.2)
    assert residual(lambda x: x, truth, from_uint8(truth), 0.3).tolist() == [0] * 4
    assert residual(lambda x: x, images(4, side=32, seed=2), y, 0.3).min() > 2
    assert residual(lambda x: avg_pool2d(x, 2), truth, avg_pool2d(y, 2), 0.15).mean() == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("side", [32, 96])
def test_lpips_of_each_image(lpips, side):
    """Of small images at 64 pixels, of others at their own; the batches it takes make no difference."""
    a, b = images(5, 3, side), images(5, 3, side, seed=1)
    b[2] = a[2]
    found = Perceptual((3, side, side))(a, b, batch_size=2)
    expected = lpips("alex", size=max(side, 64))(from_uint8(a), from_uint8(b))
    torch.testing.assert_close(found, expected.double())
    assert found.shape == (5,) and found[2] == 0 and (found > 0).sum() == 4


@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 31, 31), (3, 64, 32)])
def test_images_without_an_lpips(shape):
    with pytest.raises(ValueError, match="square colour images of at least 32 pixels") as error:
        Perceptual(shape)
    assert "\n" not in str(error.value)


def test_lpips_without_its_weights(monkeypatch, tmp_path):
    def offline(*args, **options):
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", offline)
    expected = f"LPIPS needs {tmp_path}/hub/checkpoints/alexnet-owt-7be5be79.pth, .*no network.*"
    with pytest.raises(ValueError, match=expected) as error:
        Perceptual((3, 32, 32))
    assert "\n" not in str(error.value) and "SquaredL2" not in str(error.value)
