"""The official code's stand-ins and how it is driven, with a package of ours in the place of a checkout."""

import importlib.util
import sys
import textwrap

import pytest
import torch

from benchmarks import speed
from benchmarks.official import Attention, Official, import_package, rearrange, stand_ins
from benchmarks.shapes import Shape

TINY = Shape(8, 8, (1, 2), 1, (4,), 8, batch_size=2)

PACKAGE = {
    "__init__": "",
    "logger": "def configure(dir, format_strs): pass",
    "resample": "def create_named_schedule_sampler(name, diffusion): return name",
    "script_util": """
        from types import SimpleNamespace
        import blobfile, flash_attn.flash_attention, mpi4py
        from piq import LPIPS
        from torch import nn

        def model_and_diffusion_defaults():
            return dict(dropout=0.5, use_fp16=True)

        def create_model_and_diffusion(distillation, **options):
            network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Dropout(0.5))
            network.convert_to_fp16 = network.half
            diffusion = SimpleNamespace(
                options=options, sigma_max=80.0, lpips=LPIPS(reduction="none"), loss_norm="lpips",
                denoise=lambda network, x, sigma: (x, network(x / sigma[:, None, None, None])),
            )
            return network, diffusion
        """,
    "train_util": """
        def update_ema(targets, sources, rate):
            for target, source in zip(targets, sources):
                target.detach().mul_(rate).add_(source, alpha=1 - rate)

        class CMTrainLoop:
            def __init__(self, **options):
                self.__dict__.update(options)
                self.mp_trainer = type("Trainer", (), {"param_groups_and_shapes": None, "lg_loss_scale": 20.0})
                self.calls = []

            def forward_backward(self, batch, cond):
                self.calls.append(("gradient", batch.shape))

            def run_step(self, batch, cond):
                self.forward_backward(batch, cond)
                self.model[0].bias.data += 1
                self._update_target_ema()
        """,
}


@pytest.fixture
def checkout(tmp_path):
    """A package `cm` of ours, with the official one's face, as both checkouts hold it."""
    for folder in (tmp_path / "cm", tmp_path / "BCM" / "cm"):
        folder.mkdir(parents=True)
        for name, text in PACKAGE.items():
            (folder / f"{name}.py").write_text(textwrap.dedent(text))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("official_")]:
        del sys.modules[name]
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("method", ["ct", "cd", "bcm"])
def test_the_official_loop_takes_the_step(checkout, method):
    official, bidirectional = Official(checkout, method, TINY, 2), method == "bcm"
    assert (official.loop.teacher_model is not None) == (method == "cd")
    assert official.loop.training_mode == f"consistency_{'distillation' if method == 'cd' else 'training'}"
    options = official.diffusion.options
    assert (options["num_channels"], options["channel_mult"], options["image_size"]) == (8, "1,2", 8)
    assert options["use_fp16"] is False and options["dropout"] == 0
    assert official.network[1].p == 0
    assert official.diffusion.loss_norm == ("lpips" if bidirectional else "l2")
    target = official.loop.target_model[0].bias.clone()
    official.step(torch.zeros(2, 3, 8, 8))
    assert official.loop.calls == [("gradient", (2, 3, 8, 8))]
    rate = 0.0 if bidirectional else TINY.target_rate
    torch.testing.assert_close(official.loop.target_model[0].bias, target + (1 - rate))
    assert official.loop.ema_scale_fn(0) == (rate, TINY.num_steps + 1)
    assert official.sample(4).shape == official.sample(4, 2).shape == (4, 3, 8, 8)


def test_float16_is_asked_for_with_a_scale_that_leaves_out_no_step(checkout):
    full, half = (Official(checkout, "ct", TINY, 2, half=half) for half in (False, True))
    assert (full.diffusion.options["use_fp16"], full.loop.use_fp16) == (False, False)
    assert (half.diffusion.options["use_fp16"], half.loop.use_fp16) == (True, True)
    for official, dtype in ((full, torch.float32), (half, torch.float16)):
        assert official.network[0].weight.dtype == official.loop.target_model[0].weight.dtype == dtype
    assert (full.loop.mp_trainer.lg_loss_scale, half.loop.mp_trainer.lg_loss_scale) == (20, 10)


def test_both_packages_live_in_one_process(checkout):
    with stand_ins():
        first, second = (import_package(checkout / name, f"official_{name}") for name in ("", "BCM"))
    assert first.train_util is not second.train_util
    assert "cm" not in sys.modules


def test_stand_ins_leave_nothing_behind():
    before = dict(sys.modules)
    with stand_ins():
        from flash_attn.flash_attention import FlashAttention

        assert FlashAttention is Attention
    assert {name for name in sys.modules if name not in before and "flash" in name} == set()
    assert importlib.util.find_spec("flash_attn") is None or "flash_attn" in before


def test_rearrange_orders_as_the_patterns_say():
    x = torch.arange(2 * 12 * 5).view(2, 12, 5)
    split = rearrange(x, "b (three h d) s -> b s three h d", three=3, h=2)
    assert split.shape == (2, 5, 3, 2, 2)
    assert split[1, 4, 2, 0, 1] == x[1, 2 * 4 + 0 * 2 + 1, 4]
    joined = rearrange(split[:, :, 0], "b s h d -> b (h d) s")
    torch.testing.assert_close(joined, x[:, :4])
    with pytest.raises(ValueError, match="only the patterns"):
        rearrange(x, "a b c -> c b a")


def test_attention_equals_softmax_attention():
    qkv = torch.randn(2, 6, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    out, _ = Attention()(qkv)
    q, k, v = qkv.unbind(2)
    weights = torch.einsum("bihd,bjhd->bhij", q, k).div(2).softmax(-1)
    torch.testing.assert_close(out, torch.einsum("bhij,bjhd->bihd", weights, v))


def test_a_path_without_the_code_is_said(tmp_path):
    with pytest.raises(ValueError, match="holds no package `cm`"):
        Official(tmp_path, "ct", TINY, 2)


def test_the_official_code_goes_where_it_sees_a_gpu(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(SystemExit):
        speed.parse(["--official-cm", "somewhere"])
    assert "CUDA_VISIBLE_DEVICES" in capsys.readouterr().err
    assert speed.parse(["--official-cm", "somewhere", "--device", "cuda"]).device.type == "cuda"
