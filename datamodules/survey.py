"""What the images of a split are: sizes, modes, classes, exact duplicates, bad files, and a hash of the content."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

from datamodules.encoded import EncodedImages, Limits, flattened, open_upright

GREY = ("1", "L", "LA")
"""Pillow's modes of images without colour."""


class Facts(NamedTuple):
    """One image: its name, format and mode as stored, (width, height) upright, class, and digest of its pixels."""

    name: str
    format: str
    mode: str
    size: tuple[int, int]
    label: int | None
    digest: bytes


@dataclass
class Survey:
    """What the usable images of a split are.

    Args:
        source: where they are.
        class_names: name of each class, where known.
        ignored: files beside them that are no images.
        images: of each.
        faults: (name, reason) of each that cannot be used.
    """

    source: str
    class_names: Sequence[str] | None = None
    ignored: int = 0
    images: list[Facts] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)

    def count(self, attribute: str) -> dict[Any, int]:
        """How many images have each value of "format", "mode", "size" or "label", the most frequent first."""
        return dict(Counter(getattr(image, attribute) for image in self.images).most_common())

    @property
    def grey(self) -> bool:
        """Whether no image has colours."""
        return all(image.mode in GREY for image in self.images)

    def classes(self) -> dict[str, int] | None:
        """Images of each class by its name or number, in the order of the numbers; None without labels."""
        counts = Counter(image.label for image in self.images if image.label is not None)
        if not counts:
            return None
        names = self.class_names or range(max(counts) + 1)
        return {str(name): counts[label] for label, name in enumerate(names)}

    def duplicates(self) -> list[list[str]]:
        """Names of the images that have the same pixels, two or more in each list."""
        same = groupby(sorted(self.images, key=lambda image: image.digest), lambda image: image.digest)
        found = ([image.name for image in images] for _, images in same)
        return sorted(names for names in found if len(names) > 1)

    @property
    def sha256(self) -> str:
        """A hash of all pixels and classes in their order, however they are stored; grey is RGB of equal parts."""
        parts = (f"{image.digest.hex()} {image.label}\n".encode() for image in self.images)
        return hashlib.sha256(b"".join(parts)).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "source": self.source,
            "images": len(self.images),
            "formats": self.count("format"),
            "modes": self.count("mode"),
            "sizes": {size_text(size): n for size, n in self.count("size").items()},
            "classes": self.classes(),
            "duplicates": self.duplicates(),
            "faults": [{"file": name, "reason": reason} for name, reason in self.faults],
            "other_files": self.ignored,
            "sha256": self.sha256,
        }


def size_text(size: tuple[int, int]) -> str:
    """A size as width x height in pixels."""
    return f"{size[0]}x{size[1]}"


def survey(images: EncodedImages, limits: Limits) -> Survey:
    """Decode every image of a split once, and go on after those that cannot be."""
    found = Survey(images.source, images.class_names, images.ignored)
    labels = iter(images.labels or ())
    for name, facts in _facts(images, limits):
        label = next(labels, None)
        if isinstance(facts, ValueError):
            found.faults.append((name, str(facts).removeprefix(f"{images.source}: ").removeprefix(f"{name}: ")))
        else:
            found.images.append(facts._replace(name=name, label=label))
    return found


def _facts(images: EncodedImages, limits: Limits) -> Iterator[tuple[str, Facts | ValueError]]:
    """Those of each image, without its label; at the end what keeps the rest from being read."""
    seen = 0
    try:
        for name, facts in images.map(lambda name, data: _facts_of(data, name, limits)):
            seen += 1
            yield name, facts
    except ValueError as error:
        yield f"what follows image {seen:,}" if seen else "all images", error


def _facts_of(data: bytes, name: str, limits: Limits) -> Facts:
    image = open_upright(data, name, limits)
    pixels = flattened(image).convert("RGB")
    digest = hashlib.sha256(f"{size_text(pixels.size)} ".encode() + pixels.tobytes()).digest()
    return Facts(name, str(image.format), image.mode, image.size, None, digest)


def leaks(surveys: Mapping[str, Survey]) -> int:
    """How many images of the test split have the pixels of one of the training split."""
    train = {image.digest for image in surveys["train"].images} if "train" in surveys else set()
    return sum(image.digest in train for image in surveys["test"].images) if "test" in surveys else 0
