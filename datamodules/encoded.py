"""Encoded images and how they become one uint8 tensor."""

import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "PPM", "TIFF")
"""What Pillow may decode: pixel formats only, never one that runs a program (EPS)."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff")
WHITE = (255, 255, 255, 255)
CHUNK = 128
"""Encoded images held at once."""
THREADED_BYTES = 20_000
"""Encoded images of this size and larger are decoded by several threads; small ones are faster in one."""

MOST_CLASSES = 2**20
"""Labels reach to one less: a table that counts images by class would have room for no more."""

Made = TypeVar("Made")
Fault = Callable[[str, str], None]
"""What to do about a file that cannot be used: called with its name and one line that says why."""


def refuse(name: str, message: str) -> None:
    """A `Fault` that lets a data set with one bad file be refused.

    Raises:
        ValueError: with the message.
    """
    raise ValueError(message)


OtherSize = Callable[[str, tuple[int, int]], None]
"""Told of an image that is to be cut and resized: its name for messages, and (width, height) upright. A ValueError that
it raises refuses the image. Called by several threads."""


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
        read: yields (name, load) of each, in a fixed order; load() gives the encoded bytes or raises ValueError.
        labels: class index of each, or None.
        class_names: name of each class, where known.
        ignored: files beside them that are no images.
    """

    source: str
    count: int
    read: Callable[[], Iterator[tuple[str, Callable[[], bytes]]]]
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
        made = self.decoded(resolution, channels, limits)
        images = torch.empty(self.count, channels, resolution, resolution, dtype=torch.uint8)
        rows = images.numpy()
        for i, (_, pixels) in enumerate(made):
            if isinstance(pixels, ValueError):
                raise pixels
            rows[i] = pixels
        labels = None if self.labels is None else torch.tensor(self.labels, dtype=torch.int64)
        return images, labels

    def decoded(
        self, resolution: int, channels: int, limits: Limits, other_size: OtherSize | None = None
    ) -> Iterator[tuple[str, np.ndarray | ValueError]]:
        """(name, pixels (channels, resolution, resolution) uint8, or what is wrong with the image) of each, in order.

        Args:
            resolution, channels, limits: as in `decode`.
            other_size: told of each that has not that resolution.

        Raises:
            ValueError: there are no images, or a limit is passed.
        """
        if self.count == 0:
            raise ValueError(f"{self.source}: no images{f' among {self.ignored} files' if self.ignored else ''}")
        limits.check(self.source, "images", self.count)
        limits.check(self.source, "memory_bytes", self.count * channels * resolution**2)
        return self.map(lambda name, data: decode_image(data, name, resolution, channels, limits, other_size))

    def map(self, make: Callable[[str, bytes], Made]) -> Iterator[tuple[str, Made | ValueError]]:
        """(name, what `make` gives for the image) of each, in order; large images by several threads.

        Args:
            make: called with a name for messages and the encoded bytes. A ValueError of it, or of reading the image,
                is given in its place.

        Raises:
            ValueError: nothing more can be read, or there are not `count` images.
        """

        def one(loaded: tuple[str, bytes | ValueError]) -> Made | ValueError:
            name, data = loaded
            if isinstance(data, ValueError):
                return data
            try:
                return make(f"{self.source}: {name}", data)
            except ValueError as error:
                return error

        items, seen = self.read(), 0
        with warnings.catch_warnings(), ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            warnings.simplefilter("ignore")  # what Pillow warns of is refused or harmless
            while chunk := [(name, _loaded(load)) for name, load in islice(items, CHUNK)]:
                sizes = [len(data) for _, data in chunk if isinstance(data, bytes)]
                large = sum(sizes) > THREADED_BYTES * len(sizes)
                for (name, _), result in zip(chunk, (pool.map if large else map)(one, chunk), strict=True):
                    yield name, result
                seen += len(chunk)
        if seen != self.count:
            raise ValueError(f"{self.source}: it holds {seen:,} images, and says that it holds {self.count:,}")


def _loaded(load: Callable[[], bytes]) -> bytes | ValueError:
    try:
        return load()
    except ValueError as error:
        return error


def decode_image(
    data: bytes, name: str, resolution: int, channels: int, limits: Limits, other_size: OtherSize | None = None
) -> np.ndarray:
    """Decode one image, turn it upright, cut out the central square and resize that (Lanczos).

    An image that has the wanted size already keeps its pixels. Grey is ITU-R 601 luma; transparent parts are white.

    Args:
        data: the encoded image.
        name: for messages.
        resolution: side of the result in pixels.
        channels: 1 (grey) or 3 (RGB).
        limits: on bytes and pixels.
        other_size: told of it if it has not that resolution.

    Returns:
        uint8 (channels, resolution, resolution).

    Raises:
        ValueError: it cannot be decoded, has more than 8 bits per channel, passes a limit, or `other_size` refuses it.
    """
    upright = flattened(open_upright(data, name, limits))
    mode = "L" if channels == 1 else "RGB"
    if upright.mode != mode:
        upright = upright.convert(mode)
    if upright.size != (resolution, resolution):
        if other_size is not None:
            other_size(name, upright.size)
        width, height = upright.size
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        square = (left, top, left + side, top + side)
        upright = upright.resize((resolution, resolution), Image.Resampling.LANCZOS, box=square)
    pixels = np.asarray(upright)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def open_upright(data: bytes, name: str, limits: Limits) -> Image.Image:
    """Decode one image in the mode that it has, and turn it upright; its `format` is that of the file.

    Raises:
        ValueError: as `decode_image`.
    """
    limits.check(name, "file_bytes", len(data))
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            deep = _is_deep(image)
            too_many = width * height > limits.pixels  # known before a pixel is decoded
            if not too_many and not deep:
                image.load()
                upright = image if image.format == "PNG" else ImageOps.exif_transpose(image)
                upright.format = image.format
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name}: {error}") from None
    except UnidentifiedImageError:
        raise ValueError(f"{name}: no readable image (none of {', '.join(FORMATS)})") from None
    except Exception as error:  # a damaged file makes Pillow's decoders raise almost anything
        raise ValueError(f"{name}: no readable image ({type(error).__name__}: {error})") from error
    if too_many:
        limits.check(name, "pixels", width * height)
    if deep:
        raise ValueError(f"{name}: pixels of mode {image.mode}; convert the image to 8 bits per channel, grey or RGB")
    return upright


def _is_deep(image: ImageFile.ImageFile) -> bool:
    """Whether an image that was opened has more than 8 bits per channel, which Pillow would cut where it has RGB."""
    if image.mode in ("I", "F", "LAB", "HSV") or image.mode.startswith("I;"):
        return True
    for tile in image.tile:
        raw, *more = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        if ";16" in str(raw) or (tile.codec_name == "ppm" and more[0] > 255):
            return True
    return False


def flattened(image: Image.Image) -> Image.Image:
    """An image without transparency: transparent parts are white."""
    if not image.has_transparency_data:
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image.convert("RGBA"))
