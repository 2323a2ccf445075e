"""The official implementations of CT, CD and BCM, run from a user's checkout beside ours.

    openai/consistency_models        the folder that holds `cm/`
    Mosasaur5526/BCM-iCT-torch       the folder that holds `BCM/cm/`

Nothing of theirs lies here: their packages are imported from the given path, under names of our own since both are
called `cm`, and their own training loop takes the step that is timed. What they import and the mathematics does not
need is replaced by stand-ins of ours where it is not installed.
"""

import contextlib
import importlib
import importlib.util
import io
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.shapes import CPU, Shape


class _Inert(types.ModuleType):
    """A module whose every attribute is a class that does nothing."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": lambda self, *args, **options: None})


class Attention(nn.Module):
    """Stands for flash-attention 1's module: (b, s, 3, h, d) -> ((b, s, h, d), None), by PyTorch's fused kernel.

    So the official network gets the best attention that this machine has; its own fallback computes in float16.
    """

    def __init__(self, attention_dropout: float = 0.0, **options: Any):
        super().__init__()

    def forward(self, qkv: Tensor, **options: Any) -> tuple[Tensor, None]:
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2), None


def rearrange(x: Tensor, pattern: str, **sizes: int) -> Tensor:
    """Stands for einops: the two patterns that the official attention uses."""
    if pattern == "b (three h d) s -> b s three h d":
        return x.unflatten(1, (3, sizes["h"], -1)).permute(0, 4, 1, 2, 3)
    if pattern == "b s h d -> b (h d) s":
        return x.permute(0, 2, 3, 1).flatten(1, 2)
    raise ValueError(f"pattern={pattern!r}: only the patterns of the official attention are known")


@contextlib.contextmanager
def stand_ins() -> Iterator[None]:
    """Within it, what the official code imports exists; afterwards only what is installed does."""
    modules: dict[str, types.ModuleType] = {name: _Inert(name) for name in ("mpi4py", "blobfile", "piq")}
    modules["torchvision"] = _Inert("torchvision")
    modules["torchvision.transforms"] = _Inert("torchvision.transforms")
    modules["flash_attn"] = _Inert("flash_attn")
    modules["flash_attn.flash_attention"] = types.ModuleType("flash_attn.flash_attention")
    modules["flash_attn.flash_attention"].FlashAttention = Attention  # type: ignore[attr-defined]
    modules["einops"] = types.ModuleType("einops")
    modules["einops"].rearrange = rearrange  # type: ignore[attr-defined]
    absent = {name for name in modules if "." not in name and importlib.util.find_spec(name) is None}
    absent.add("flash_attn")  # its modules have moved since
    added = {name: module for name, module in modules.items() if name.split(".")[0] in absent}
    before = {name: sys.modules[name] for name in added if name in sys.modules}
    sys.modules.update(added)
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]
        sys.modules.update(before)


def import_package(folder: Path, alias: str) -> Any:
    """Import the package `cm` of `folder` as `alias`, and give a namespace of the modules that are needed."""
    init = folder / "cm" / "__init__.py"
    if not init.is_file():
        raise ValueError(f"{folder} holds no package `cm`: give the path of a checkout of the official code")
    spec = importlib.util.spec_from_file_location(alias, init, submodule_search_locations=[str(init.parent)])
    assert spec is not None and spec.loader is not None
    sys.modules[alias] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[alias])
    names = ("script_util", "train_util", "logger", "resample")
    return types.SimpleNamespace(**{name: importlib.import_module(f"{alias}.{name}") for name in names})


def checkout_commit(path: Path) -> str:
    """The commit of a checkout, or "unknown" where it is none."""
    done = subprocess.run(["git", "-C", str(path), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


@dataclass
class Official:
    """The official network, loss and training loop at one shape, on one process.

    Args:
        checkout: of openai/consistency_models, or of Mosasaur5526/BCM-iCT-torch.
        method: "ct" or "cd" of the first, "bcm" of the second.
        shape: of the network.
        batch_size: images per step.
        device: the GPU where there is one, for there the official code goes by itself; else the CPU.
        half: in float16, as their scripts train; for a GPU. The loss is scaled by 2^10 from the start, so that no
            step is left out while the scale falls from their 2^20.

    Raises:
        ValueError: the path holds no such checkout.
    """

    checkout: Path
    method: str
    shape: Shape
    batch_size: int
    device: torch.device = CPU
    half: bool = False

    def __post_init__(self) -> None:
        self.bidirectional = self.method == "bcm"
        folder = self.checkout / "BCM" if self.bidirectional else self.checkout
        with stand_ins(), contextlib.redirect_stdout(io.StringIO()):
            package = import_package(folder, f"official_{'bcm' if self.bidirectional else 'cm'}")
            self.network, self.diffusion = self._network(package)
            target, _ = self._network(package)
            target.load_state_dict(self.network.state_dict())
            teacher = self._network(package, distillation=False) if self.method == "cd" else (None, None)
            self.loop = self._loop(package, target, *teacher)
        if self.half:
            self.loop.mp_trainer.lg_loss_scale = 10.0
        self.sigma_max = self.diffusion.sigma_max

    def _network(self, package: Any, distillation: bool = True) -> tuple[nn.Module, Any]:
        options = package.script_util.model_and_diffusion_defaults() | {
            "image_size": self.shape.size,
            "num_channels": self.shape.channels,
            "channel_mult": ",".join(map(str, self.shape.channel_mult)),
            "num_res_blocks": self.shape.num_blocks,
            "attention_resolutions": ",".join(map(str, self.shape.attention_resolutions)),
            "num_head_channels": self.shape.channels_per_head,
            "resblock_updown": True,
            "use_scale_shift_norm": True,
            "dropout": 0.0,
            "class_cond": False,
            "use_fp16": self.half,
            "weight_schedule": "ict" if self.bidirectional else "uniform",
        }
        network, diffusion = package.script_util.create_model_and_diffusion(**options, distillation=distillation)
        for layer in network.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0  # BCM's network has some that no option reaches
        if not self.bidirectional:
            diffusion.loss_norm = "l2"  # LPIPS, whatever the option says; its network would be most of the time
        if self.half:  # as their scripts do with every network
            network.convert_to_fp16()
        return network.to(self.device).train(), diffusion

    def _loop(self, package: Any, target: nn.Module, teacher: nn.Module | None, teacher_diffusion: Any) -> Any:
        if not dist.is_initialized():
            dist.init_process_group(
                "nccl" if self.device.type == "cuda" else "gloo", store=dist.HashStore(), rank=0, world_size=1
            )
        with tempfile.TemporaryDirectory() as folder:
            package.logger.configure(dir=folder, format_strs=[])
        update_ema, rate = package.train_util.update_ema, 0.0 if self.bidirectional else self.shape.target_rate
        loop: Any = package.train_util.CMTrainLoop

        class Loop(loop):
            """The official loop with its fault in float32 mended.

            Note: openai's own averages flattened target weights with unflattened weights and fails unless use_fp16;
            here its own average runs on the weights as they are, which is less work.
            """

            def _update_target_ema(self) -> None:
                if self.mp_trainer.param_groups_and_shapes is not None:
                    super()._update_target_ema()
                    return
                with torch.no_grad():
                    update_ema(self.target_model.parameters(), self.model.parameters(), rate=rate)

        return Loop(
            model=self.network,
            target_model=target,
            teacher_model=teacher,
            teacher_diffusion=teacher_diffusion,
            training_mode="consistency_training" if teacher is None else "consistency_distillation",
            ema_scale_fn=lambda step: (rate, self.shape.num_steps + 1),  # the official code counts the grid's points
            total_training_steps=10**9,
            diffusion=self.diffusion,
            data=None,
            batch_size=self.batch_size,
            microbatch=-1,
            lr=1e-4,
            ema_rate="0.9999",
            log_interval=10**9,
            save_interval=10**9,
            resume_checkpoint="",
            use_fp16=self.half,
            schedule_sampler=package.resample.create_named_schedule_sampler("uniform", self.diffusion),
            weight_decay=0.0,
            lr_anneal_steps=0,
        )

    def calls(self, x0: Tensor) -> dict[str, Callable[[], Any]]:
        """What is timed, by measure, at images x0 (B, C, H, W) in [-1, 1]."""
        return {
            "step": partial(self.step, x0),
            "gradient": partial(self.gradient, x0),
            "sample_1": partial(self.sample, len(x0)),
            "sample_2": partial(self.sample, len(x0), 2),
        }

    def step(self, x0: Tensor) -> None:
        """One training step as the official loop takes it: loss, backward, norms, RAdam, EMA, log."""
        self.loop.run_step(x0, {})

    def gradient(self, x0: Tensor) -> None:
        """Loss and backward alone."""
        self.loop.forward_backward(x0, {})

    @torch.no_grad()
    def sample(self, batch_size: int, evaluations: int = 1) -> Tensor:
        """Samples (B, C, H, W) from the training network; noised anew between evaluations."""
        x = torch.zeros(batch_size, *self.shape.image_shape, device=self.device)
        for level in (self.sigma_max, 0.821)[:evaluations]:
            noised = x + level * torch.randn_like(x)
            x = self.diffusion.denoise(self.network, noised, x.new_full((batch_size,), level))[1]
        return x
