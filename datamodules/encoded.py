"""Encoded images and how they become one uint8 tensor."""

import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "PPM", "TIFF")
"""What Pillow may decode: pixel formats only, never one that runs a program (EPS)."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff")
WHITE = (255, 255, 255, 255)
CHUNK = 128
"""Encoded images held at once."""
THREADED_BYTES = 20_000
"""Encoded images of this size and larger are decoded by several threads; small ones are faster in one."""


@dataclass(frozen=True)
class Limits:
    """What a data set may hold; beyond it is refused, since a small file can unpack to any size.

    Args:
        images: how many.
        pixels: of one image before it is resized.
        file_bytes: of one encoded image.
        total_bytes: of all encoded images together.
        memory_bytes: of all decoded images together, at the resolution of training.
    """

    images: int = 5_000_000
    pixels: int = 2**26
    file_bytes: int = 2**26
    total_bytes: int = 2**38
    memory_bytes: int = 2**35

    def check(self, what: str, limit: str, value: int) -> None:
        """Refuse a value above a limit.

        Raises:
            ValueError: with the name of the thing, the value and the limit.
        """
        allowed = getattr(self, limit)
        if value > allowed:
            raise ValueError(f"{what}: {value:,} {limit.replace('_', ' ')}, allowed are {allowed:,} (limits.{limit})")


@dataclass(frozen=True)
class EncodedImages:
    """The images of a split, still encoded.

    Args:
        source: where they are.
        count: how many.
        read: yields (name, encoded bytes) of each, in a fixed order.
        labels: class index of each, or None.
        class_names: name of each class, where known.
        ignored: files beside them that are no images.
    """

    source: str
    count: int
    read: Callable[[], Iterator[tuple[str, bytes]]]
    labels: Sequence[int] | None = None
    class_names: Sequence[str] | None = None
    ignored: int = 0

    def decode(self, resolution: int, channels: int, limits: Limits) -> tuple[Tensor, Tensor | None]:
        """Decode all images.

        Args:
            resolution: side of the result in pixels.
            channels: 1 (grey) or 3 (RGB).
            limits: what is refused.

        Returns:
            images uint8 (N, channels, resolution, resolution) and labels int64 (N,) or None.

        Raises:
            ValueError: there are no images, one cannot be decoded, or a limit is passed.
        """
        if self.count == 0:
            raise ValueError(f"{self.source}: no images{f' among {self.ignored} files' if self.ignored else ''}")
        limits.check(self.source, "images", self.count)
        limits.check(self.source, "memory_bytes", self.count * channels * resolution**2)
        images = torch.empty(self.count, channels, resolution, resolution, dtype=torch.uint8)
        rows = images.numpy()

        def one(numbered: tuple[int, tuple[str, bytes]]) -> None:
            i, (name, data) = numbered
            rows[i] = decode_image(data, f"{self.source}: {name}", resolution, channels, limits)

        items = enumerate(self.read())
        with warnings.catch_warnings(), ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            warnings.simplefilter("ignore")  # what Pillow warns of is refused or harmless
            while chunk := list(islice(items, CHUNK)):
                large = sum(len(data) for _, (_, data) in chunk) > THREADED_BYTES * len(chunk)
                for _ in (pool.map if large else map)(one, chunk):
                    pass
        labels = None if self.labels is None else torch.tensor(self.labels, dtype=torch.int64)
        return images, labels


def decode_image(data: bytes, name: str, resolution: int, channels: int, limits: Limits) -> np.ndarray:
    """Decode one image, turn it upright, cut out the central square and resize that (Lanczos).

    An image that has the wanted size already keeps its pixels. Grey is ITU-R 601 luma; transparent parts are white.

    Args:
        data: the encoded image.
        name: for messages.
        resolution: side of the result in pixels.
        channels: 1 (grey) or 3 (RGB).
        limits: on bytes and pixels.

    Returns:
        uint8 (channels, resolution, resolution).

    Raises:
        ValueError: it cannot be decoded, has more than 8 bits per channel, or passes a limit.
    """
    limits.check(name, "file_bytes", len(data))
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            too_many = width * height > limits.pixels  # known before a pixel is decoded
            if not too_many:
                image.load()
                upright = image if image.format == "PNG" else ImageOps.exif_transpose(image)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name}: {error}") from None
    except UnidentifiedImageError:
        raise ValueError(f"{name}: no readable image (none of {', '.join(FORMATS)})") from None
    except Exception as error:  # a damaged file makes Pillow's decoders raise almost anything
        raise ValueError(f"{name}: no readable image ({type(error).__name__}: {error})") from error
    if too_many:
        limits.check(name, "pixels", width * height)
    if upright.mode in ("I", "F", "LAB", "HSV") or upright.mode.startswith("I;"):
        raise ValueError(f"{name}: pixels of mode {upright.mode}; convert the image to 8 bits per channel, grey or RGB")
    if upright.has_transparency_data:
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, WHITE), upright.convert("RGBA"))
    mode = "L" if channels == 1 else "RGB"
    if upright.mode != mode:
        upright = upright.convert(mode)
    if upright.size != (resolution, resolution):
        width, height = upright.size
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        square = (left, top, left + side, top + side)
        upright = upright.resize((resolution, resolution), Image.Resampling.LANCZOS, box=square)
    pixels = np.asarray(upright)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
