"""Images as bytes and as numbers in [-1, 1]: the one way from each to the other."""

import torch
from torch import Tensor


def to_uint8(x: Tensor) -> Tensor:
    """Round images in [-1, 1] to uint8 as EDM does: clip(127.5 x + 128), truncated.

    Raises:
        ValueError: if a value is not finite, which has no pixel value.
    """
    if not x.isfinite().all():
        raise ValueError(f"{int((~x.isfinite()).flatten(1).any(1).sum())} of {len(x)} images are not finite")
    return (x.float() * 127.5 + 128).clip(0, 255).to(torch.uint8)


def from_uint8(images: Tensor) -> Tensor:
    """uint8 images as float32 in [-1, 1]; `to_uint8` takes them back exactly."""
    return images.float() / 127.5 - 1
