"""The precision of a run that names none: bfloat16 where the machine has instructions for it.

Elsewhere bfloat16 is emulated: on an AMD EPYC with AVX2 alone a 512 x 512 matrix product took 40 times as long.
"""

from typing import Any

import torch

MIXED, FULL = "bf16-mixed", "32-true"
FASTER = f"--trainer.precision {FULL}"


def fastest_precision(accelerator: Any) -> str:
    """bf16-mixed or 32-true.

    Args:
        accelerator: that of a Trainer; None and "auto" are the GPU if there is one.
    """
    if accelerator in (None, "auto", "gpu", "cuda") and torch.cuda.is_available():
        return MIXED if torch.cuda.is_bf16_supported(including_emulation=False) else FULL
    if accelerator in (None, "auto", "cpu"):
        return MIXED if cpu_computes_bfloat16() else FULL
    return FULL


def is_slow(precision: Any, accelerator: Any) -> bool:
    """Whether a precision of bfloat16 was asked for where it is emulated."""
    return str(precision).startswith("bf16") and fastest_precision(accelerator) == FULL


def cpu_computes_bfloat16() -> bool:
    """Whether the CPU has matrix instructions of bfloat16 (amx_bf16, avx512_bf16); a PyTorch that cannot tell: no."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(has and "bf16" in name for name, has in capabilities.items())
