"""Small networks of official code: names and shapes of their weights, and outputs that were recorded from them.

Each was filled by `fill`, so that no weight is stored and no two weights of one shape are alike, and its denoiser run
on `IMAGES` at `SIGMAS`, with the classes 2 and 0 where it has classes, and for BCM to the levels `TARGETS`. OpenAI's
and BCM's in float64, with float64 frequencies, group norms and (BCM) norms of queries, keys and values, and without the
rounding of attention to float16; EDM's, whose denoiser rounds its input, in float32. The records name repository and
commit; nothing of the official code is here.
"""

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

RECORDS = json.loads((Path(__file__).parent / "official_weights.json").read_text())
SIGMAS, TARGETS, LABELS = (1.3, 0.07), (0.002, 15.0), (2, 0)
IMAGES = torch.sin(1 + 1.7 * torch.arange(2 * 3 * 16 * 16, dtype=torch.float64)).reshape(2, 3, 16, 16)


def fill(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """A state dict (float64) by a formula of each weight's name and shape; a box filter is one quarter everywhere."""
    state = {}
    for key, shape in shapes.items():
        k = torch.arange(math.prod(shape), dtype=torch.float64)
        phase = zlib.crc32(key.encode()) % 1000 / 100
        vector = 0.6 + 0.4 * torch.cos(1.3 * k + phase)
        weight = torch.sin(0.7 * k + 0.13 * k.sqrt() + phase) * 2 / math.sqrt(math.prod(shape[1:]))
        flat = torch.full_like(k, 0.25) if key.endswith("resample_filter") else vector if len(shape) == 1 else weight
        state[key] = flat.reshape(shape)
    return state


def recorded(name: str) -> tuple[dict[str, Tensor], Tensor]:
    """The state dict of a recorded network and 32 numbers of its denoiser's output, evenly spaced."""
    record = RECORDS[name]
    return fill(record["shapes"]), torch.tensor(record["output"], dtype=torch.float64)


def spaced(output: Tensor) -> Tensor:
    """The numbers of an output that are recorded."""
    flat = output.detach().double().flatten()
    return flat[:: flat.numel() // 32][:32]
