"""Mean and covariance of real images' features in a file: EDM's fid-refs."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from evaluation.distances import Moments
from evaluation.features import FeatureNetwork, Features
from evaluation.files import read_npz, write_npz

NAMES = ("mu", "sigma", "images", "features_name", "features_sha256")


@dataclass(frozen=True)
class Reference:
    """What a file tells of a set of real images. It gives Frechet distances and no score that needs the features."""

    name: str
    """The file's name and the first digits of its SHA-256."""
    moments: Moments
    images: int | None
    """How many there were; EDM's files do not say."""


def write_reference(path: str | Path, features: Features, network: FeatureNetwork) -> None:
    """Write the moments of features in the layout of NVlabs/edm's `fid.py ref`, which any reader of that takes.

    Args:
        path: the npz file; `mu` (d,) and `sigma` (d, d) are float64, sigma with N - 1 in the denominator. `images`,
            `features_name` and `features_sha256`, which EDM's readers pass over, say what they are of.
        features: of N images.
        network: what made them.
    """
    about = (np.array(len(features)), np.array(network.name), np.array(network.sha256))
    write_npz(Path(path), dict(zip(NAMES, (*(m.cpu().numpy() for m in features.moments), *about), strict=True)))


def read_reference(path: str | Path, network: FeatureNetwork) -> Reference:
    """Read such a file, EDM's own and those of ADM's reference batches (`mu` and `sigma` among others) included.

    Args:
        path: the npz file.
        network: the judge whose features it must be of. The size is always checked, the weights where they are named.

    Raises:
        ValueError: in one line: there is no such file, it holds no mean and covariance, or they are of other features.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"reference={path}: no such file")
    held = read_npz(path, NAMES)
    if not {"mu", "sigma"} <= held.keys():
        raise ValueError(f"{path}: no reference statistics, which are the arrays mu and sigma")
    mu, sigma = held["mu"], held["sigma"]
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)) or {mu.dtype.kind, sigma.dtype.kind} != {"f"}:
        raise ValueError(
            f"{path}: mu {mu.dtype} {mu.shape} and sigma {sigma.dtype} {sigma.shape} are not a mean and a covariance"
        )
    if len(mu) != network.size:
        raise ValueError(f"{path}: statistics of {len(mu)} features, and {network.name} has {network.size}")
    sha256 = str(held.get("features_sha256", network.sha256))
    if sha256 != network.sha256:
        raise ValueError(
            f"{path}: statistics of the features of {held.get('features_name')} (sha256 {sha256[:12]}), and the judge "
            f"is {network.name} (sha256 {network.sha256[:12]})"
        )
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise ValueError(f"{path}: mu or sigma is not finite")
    moments = Moments(torch.from_numpy(mu).double(), torch.from_numpy(sigma).double())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Reference(f"{path.stem}-{digest[:8]}", moments, int(held["images"]) if "images" in held else None)
