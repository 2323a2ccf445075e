"""The protocol that every score carries: without it a score cannot be compared with another."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any


@dataclass(frozen=True)
class Source:
    """What made the images that were scored; for real images only `name` is set."""

    name: str
    steps: int | None = None
    """Evaluations asked for."""
    sampling: str | None = None
    """The levels visited, or the sampler."""
    nfe: float | None = None
    """Network evaluations per image, counted."""
    seconds_per_image: float | None = None
    """Median wall-clock time per image on one process, after a warm-up."""
    batch_size: int | None = None
    seeds: str | None = None
    ema_rate: float | None = None
    images_seen: int | None = None
    training_seconds: float | None = None
    """Wall-clock time of the training, without its set-up; None where the checkpoint does not say."""
    device: str | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class Protocol:
    """How a score was made. Scores may be compared if all but `source`, `images_alone` and `libraries` are equal."""

    images: int
    """Judged images that entered the distances."""
    reference: str
    """Split of the data that they were compared with, or a file of statistics: its name and the start of its hash."""
    reference_images: int | None
    """Images of it that entered; None where a file does not say."""
    features: str
    """Feature network."""
    features_sha256: str
    """SHA-256 of its weights."""
    resize: str
    """How images reach its input size."""
    quantisation: str
    """How float images become uint8."""
    images_alone: int
    """Images that entered the scores without reference (is, cs_*, confident_*)."""
    libraries: str
    """Versions of what computed it."""
    source: Source
    judges_sha256: str = ""
    """SHA-256 of the further judges' weights, joined by commas, where a score holds means over judges as well."""

    def differences(self, other: "Protocol") -> list[str]:
        """What keeps scores of the two from being compared, in words; empty if nothing does."""
        names = [f.name for f in fields(self) if f.name not in ("source", "images_alone", "libraries")]
        return [
            f"{name}: {getattr(self, name)} and {getattr(other, name)}"
            for name in names
            if getattr(self, name) != getattr(other, name)
        ]

    def require_comparable(self, other: "Protocol") -> None:
        """Refuse to compare scores of unlike protocols.

        Raises:
            ValueError: naming every difference.
        """
        if differences := self.differences(other):
            raise ValueError(f"scores of different protocols cannot be compared ({'; '.join(differences)})")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a JSON file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Protocol":
        """The inverse of `as_dict`.

        Raises:
            ValueError: if a name is missing or unknown.
        """
        try:
            return cls(**{**values, "source": Source(**values["source"])})
        except (TypeError, KeyError) as error:
            raise ValueError(f"not a protocol: {error}") from None

    def describe(self) -> str:
        """What all scores of one judge share, in one line."""
        hashes = (
            [self.features_sha256, *self.judges_sha256.split(",")] if self.judges_sha256 else [self.features_sha256]
        )
        return (
            f"features {self.features} (sha256 {', '.join(h[:12] for h in hashes)}), resize {self.resize}, "
            f"{self.quantisation}, {self.libraries}"
        )


def seed_ranges(seeds: Sequence[int]) -> str:
    """Seeds as ranges: [0, 1, 2, 7] -> "0-2,7"."""
    if not seeds:
        return ""
    starts = [0] + [i + 1 for i, (a, b) in enumerate(pairwise(seeds)) if b != a + 1]
    ends = [*starts[1:], len(seeds)]
    parts = [(seeds[a], seeds[b - 1]) for a, b in zip(starts, ends, strict=True)]
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def library_versions() -> str:
    """The libraries that decide the last digits of a score."""
    from importlib.metadata import version

    return ", ".join(f"{name} {version(name)}" for name in ("torch", "torch-fidelity"))
