"""Features of real images with their moments on disk, so that they are computed once and not by every scoring run."""

import hashlib
import json
from pathlib import Path

import torch
from torch import Tensor

from evaluation.distances import Moments
from evaluation.features import FeatureNetwork, Features, extract
from evaluation.files import read_npz, write_npz
from evaluation.gather import everywhere, place

FOLDER = "real_features"
"""Where a scoring run keeps them, in the folder that holds all runs."""


def real_features(
    network: FeatureNetwork,
    images: Tensor,
    folder: Path | None,
    batch_size: int = 500,
    device: torch.device | str = "cpu",
) -> Features:
    """`extract`, but of images seen before the features and their mean and covariance are read from a file.

    A file is found by what decides its content: the images, the network's weights and the kind of device. It holds
    `mu` and `sigma` as a fid-ref does, and the features and logits that KID, precision, recall and the floors need
    (12 kB for each image with Inception). A damaged or foreign file is told in one line and written anew; one that
    cannot be written is told too, and does no harm.

    Args:
        network: the judge; it is moved to `device` where it is needed.
        images: all N images (N, C, H, W) uint8, the same on every process.
        folder: of the files; None keeps none.
        batch_size: images per forward pass.
        device: where the network runs.
    """
    if folder is None:
        return extract(network, images, batch_size, device)
    key = _key(network, images, device)
    path = folder / f"{key[:16]}.npz"
    known = _read(path, key, len(images), network.size)
    if everywhere(known is not None) and known is not None:
        return known
    features = extract(network, images, batch_size, device)
    if place()[0] == 0:
        mu, sigma = features.moments
        parts = {"features": features.features, "logits": features.logits, "mu": mu, "sigma": sigma}
        try:
            write_npz(path, {"key": key, **{name: part.numpy() for name, part in parts.items()}})
        except OSError as error:
            print(f"features of real images are not kept: {path}: {error.strerror or error}", flush=True)
    return features


def tensor_sha256(x: Tensor) -> str:
    """The SHA-256 of a tensor's values."""
    return hashlib.sha256(x.cpu().contiguous().numpy().data).hexdigest()


def _key(network: FeatureNetwork, images: Tensor, device: torch.device | str) -> str:
    content = {
        "images": [tensor_sha256(images), *images.shape],
        "features": [network.name, network.sha256, network.resize],
        "device": torch.device(device).type,  # the last digits differ
    }
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _read(path: Path, key: str, n: int, size: int) -> Features | None:
    """What the file holds of n images, None if it is not there or not what it should be."""
    if not path.is_file():
        return None
    try:
        held = read_npz(path, ("key", "features", "logits", "mu", "sigma"))
        whole = str(held["key"]) == key and len(held["logits"]) == n
        shapes = (held["features"].shape, held["mu"].shape, held["sigma"].shape)
        if whole and shapes == ((n, size), (size,), (size, size)):
            features, logits, mu, sigma = (torch.from_numpy(held[k]) for k in ("features", "logits", "mu", "sigma"))
            return Features(features, logits, Moments(mu, sigma))
    except (ValueError, KeyError, TypeError):
        pass
    if place()[0] == 0:
        print(f"{path} is damaged or of another kind: the features are computed anew", flush=True)
    return None
