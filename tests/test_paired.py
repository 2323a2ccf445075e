"""The methods that are trained on pairs: what they learn from, what they are shown, and what else there is of them."""

import pytest
import torch
from methods import SHAPE, gradients, i2sb, images, palette
from small_runs import config, fit
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from diffusion.bridge import BridgeSchedule
from diffusion.ode_samplers import Heun
from diffusion.rng import ImageNoise
from lightning_modules import I2SBModule, load_module
from main import main
from networks import MLP, UNet
from tasks.jpeg import JPEG
from tasks.masks import box_inpainting
from tasks.operators import AveragePool, Inpainting


def test_i2sb_learns_the_noise_of_the_bridge():
    """A restatement of eq. 11 and 12, with the network called as it is: its target is (x - x0)/sigma."""
    module, x0 = i2sb(fill=0.0, condition=False).double(), images().double()
    x1, noise, t, _ = draws = module.draw(x0)
    torch.testing.assert_close(x1, x0.mean((2, 3), keepdim=True).expand_as(x0))
    total, column = module.schedule.sigma_max, t.double().reshape(-1, 1, 1, 1)
    behind = total**2 - column**2
    x = (behind * x0 + column**2 * x1) / total**2 + (column**2 * behind).clamp(min=0).sqrt() / total * noise
    restated = (module.denoiser.network(x, t.double().log() / 4) - (x - x0) / column).square().mean((1, 2, 3))
    ours = module.loss_at(x0, None, draws)
    torch.testing.assert_close(ours, restated, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(
        gradients(ours, module.denoiser), gradients(restated, module.denoiser), rtol=1e-5, atol=1e-6
    )


def test_palette_learns_to_denoise_beside_the_damaged_image():
    module, x0 = palette(sigma_data=0.4).double(), images().double()
    condition, noise, t, _ = draws = module.draw(x0)
    s, t = 0.4, t.double().reshape(-1, 1, 1, 1)
    x, root = x0 + t * noise, (0.4**2 + t**2).sqrt()
    shown = torch.cat([x / root, x0.mean((2, 3), keepdim=True).expand_as(x0)], 1)
    d = s**2 / root**2 * x + s * t / root * module.denoiser.network.network(shown, t.flatten().log() / 4)
    restated = (root / (s * t)).square().flatten() * (d - x0).square().mean((1, 2, 3))
    torch.testing.assert_close(module.loss_at(x0, None, draws), restated, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(condition, shown[:, 1:])


@pytest.mark.parametrize("make", [i2sb, palette])
def test_what_is_given_is_what_is_shown(make):
    module = make()
    one, other = (module.restore(torch.full((1, 1, 1, 1), y), ImageNoise([3], SHAPE), 2) for y in (-0.5, 0.5))
    assert not torch.allclose(one, other)
    blind = i2sb(condition=False)
    assert blind.denoiser.network.out_shape == SHAPE and blind.loss(images()).isfinite().all()


def test_what_is_lost_is_filled_with_noise():
    mask = torch.tensor([[True, False], [True, True]])
    module, x0 = i2sb(operator=Inpainting(mask), fill=0.7), images(2000)
    x1 = module.draw(x0).x1
    assert torch.equal(x1[..., mask], x0[..., mask])
    assert x1[..., ~mask].std().item() == pytest.approx(0.7, rel=0.05)
    assert not torch.equal(x1, module.draw(x0, position=5).x1) and torch.equal(x1, module.draw(x0).x1)


def test_a_jpeg_is_filled_with_nothing():
    """What a codec keeps of noise, which it clips, is no projection of it."""
    operator, x0 = JPEG(10), torch.rand(2, 3, 8, 8) * 2 - 1
    module = I2SBModule(lambda *a, **k: MLP(*a, width=8, depth=1, **k), (3, 8, 8), operator, 100, fill=0.7)
    assert torch.equal(module.draw(x0).x1, operator.measure(x0))


@pytest.mark.parametrize("make", [i2sb, palette])
def test_what_is_known_is_kept_where_that_is_asked_for(make):
    mask, noise = torch.tensor([[True, False], [True, True]]), [ImageNoise([0, 1], SHAPE) for _ in range(2)]
    y = Inpainting(mask).measure(images(2))
    kept, free = (make(operator=Inpainting(mask), keep_known=k).restore(y, noise[k], 4) for k in (True, False))
    tolerance = 2e-3 if make is palette else 0.02  # a bridge ends at sigma_0 with a share of the last point
    assert (kept - y)[..., mask].abs().max() < tolerance < (free - y)[..., mask].abs().max()


def test_the_noise_of_a_measurement_is_seen_in_training():
    quiet, loud = (palette(operator=AveragePool(2, sigma_y=s)).draw(images(3000)).condition for s in (0.0, 0.3))
    assert (loud - quiet).std().item() == pytest.approx(0.3, rel=0.05)


def test_the_ode_draws_nothing():
    module, y = i2sb(ot_ode=True, fill=0.0), torch.zeros(2, 1, 1, 1)
    assert (module.draw(images()).noise == 0).all()
    assert torch.equal(*(module.restore(y, ImageNoise(seeds, SHAPE), 3) for seeds in ([0, 1], [5, 6])))


def test_other_samplers_of_palette():
    module = palette(restorer=Heun())
    assert len(module.levels(5)) == 3
    with pytest.raises(ValueError, match="steps=4"):
        module.restore(torch.zeros(1, 1, 1, 1), ImageNoise([0], SHAPE), 4)


@pytest.mark.parametrize(
    "network", [lambda *a, **k: MLP(*a, width=8, depth=1, **k), lambda *a, **k: UNet(*a, channels=8, num_blocks=1,
                channel_mult=(1,), attention_resolutions=(), **k)]
)  # fmt: skip
@pytest.mark.parametrize("operator", [JPEG(10), box_inpainting(8, 8)])
def test_networks_and_operators(network, operator):
    for condition in (True, False):
        module = I2SBModule(network, (3, 8, 8), operator, 100, num_classes=2, condition=condition)
        x0 = torch.rand(2, 3, 8, 8) * 2 - 1
        assert module.loss(x0, torch.tensor([0, 1])).isfinite().all()
        made = module.restore(operator.measure(x0), ImageNoise([0, 1], (3, 8, 8)), 2, torch.tensor([0, 1]))
        assert made.shape == x0.shape


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="fill=-1"):
        i2sb(fill=-1)
    with pytest.raises(ValueError, match="n=3"):
        i2sb(schedule=BridgeSchedule(n=3))


@pytest.mark.parametrize("module", ["I2SBModule", pytest.param("PaletteModule", marks=pytest.mark.slow)])
def test_a_run(module, tmp_path, capsys, caplog):
    """The dashboard shows restorations, the end names the next command, and nothing scores samples that are not."""
    content = config(module, 256)
    content["data"]["init_args"]["conditional"] = True
    run = fit(tmp_path, content)
    last = str(run / "checkpoints" / "last.ckpt")
    said = capsys.readouterr().out
    assert f"restore --ckpt_path {last} --task upscale" in said and "sample --ckpt_path" not in said
    assert "network:  MLP" in said and "No samples" not in said
    assert "restored/1_evaluation" in EventAccumulator(str(run)).Reload().Tags()["images"]
    loaded = load_module(last)
    assert loaded.operator.p == 2 and type(loaded).__name__ == module
    assert main(["test", "--ckpt_path", last]) == 0
    assert "No scores: this model makes no images of its own" in caplog.text
    for command in (["sample", "--seeds", "0-1", "--out", str(tmp_path / "s")], ["truth", "--steps", "1"]):
        assert main([command[0], "--ckpt_path", last, *command[1:]]) == 2
        err = capsys.readouterr().err
        assert f"{module} makes no images of its own" in err and err.count("\n") == 1
