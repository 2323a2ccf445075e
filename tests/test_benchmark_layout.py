"""The memory format that the benchmark found faster is the one that a Trainer trains in."""

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from benchmarks.ours import bcm_module
from benchmarks.shapes import Shape

TINY = Shape(8, 8, (1, 2), 1, (4,), 8, batch_size=2)


@pytest.mark.parametrize(("precision", "channels_last"), [("32-true", True), ("bf16-mixed", False)])
def test_convolutions_are_channels_last_in_float32_on_a_cpu(tmp_path, precision, channels_last):
    module = bcm_module(TINY)
    data = DataLoader([(torch.zeros(TINY.image_shape), 0)] * 4, batch_size=2)
    options = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(
        accelerator="cpu", precision=precision, max_steps=2, logger=False, default_root_dir=tmp_path, **options
    )
    trainer.fit(module, data)
    for denoiser in (module.denoiser, module.ema_denoiser):
        weight = denoiser.network.down[0].conv_in.weight
        assert weight.is_contiguous(memory_format=torch.channels_last) == channels_last
        assert weight.is_contiguous() != channels_last
    state = trainer.optimizers[0].state[module.denoiser.network.down[0].conv_in.weight]
    assert state["exp_avg"].stride() == module.denoiser.network.down[0].conv_in.weight.stride()
