"""Inception as torch-fidelity has it: the network behind FID, IS and KID, loaded without a download."""

import hashlib
import io
import pickle
from pathlib import Path

import torch
from torch import Tensor

from evaluation.distances import (
    Moments,
    frechet_distance,
    inception_score,
    kernel_inception_distance,
    precision_recall,
)
from evaluation.features import FeatureNetwork, Features

FILE_NAME = "weights-inception-2015-12-05-6726825d.pth"
"""torch-fidelity's file; its name ends in the first eight digits of the file's SHA-256."""


def cached_weights() -> Path:
    """Where torch-fidelity keeps its file in torch.hub's cache, whether it is there or not."""
    return Path(torch.hub.get_dir()) / "checkpoints" / FILE_NAME


def find_weights(path: str | Path | None = None) -> Path:
    """The file given, or torch-fidelity's in torch.hub's cache.

    Raises:
        ValueError: in one line that says how to get the file.
    """
    if path is not None:
        if not Path(path).is_file():
            raise ValueError(f"inception_weights={path}: no such file")
        return Path(path)
    cached = cached_weights()
    if not cached.is_file():
        raise ValueError(
            f"FID, IS and KID need Inception's weights: download {FILE_NAME} from the v0.2.0 release of "
            f"github.com/toshas/torch-fidelity and put it at {cached}, or pass --inception_weights PATH"
        )
    return cached


class InceptionFeatures(FeatureNetwork):
    """torch-fidelity's "inception-v3-compat": 2048 features before the last layer, and logits without its bias.

    Note: torch-fidelity would unpickle a local file without restriction and a missing one it would download. So the
    file is read here with weights_only=True, and torch-fidelity is handed a copy.

    Args:
        weights: file of weights; without it torch-fidelity's own in the cache.

    Raises:
        ValueError: if there is no file, or it does not hold this network's weights.
    """

    resize = "299x299 bilinear as TensorFlow 1"
    size = 2048

    def __init__(self, weights: str | Path | None = None):
        super().__init__()
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        path = find_weights(weights)
        data = path.read_bytes()
        self.sha256 = hashlib.sha256(data).hexdigest()
        official = self.sha256.startswith(FILE_NAME.rsplit("-")[-1].removesuffix(".pth"))
        if weights is None and not official:
            raise ValueError(f"{path}: damaged, its SHA-256 is {self.sha256[:8]}..., not that in its name")
        self.name = "inception-v3-compat" if official else "inception-v3-compat with other weights"
        try:
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            copy = io.BytesIO()
            torch.save(state, copy)
            copy.seek(0)
            self.network = FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=copy
            )
        except (RuntimeError, pickle.UnpicklingError, TypeError, EOFError, AttributeError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ValueError(f"{path}: not the weights of torch-fidelity's Inception ({reason})") from None

    def extract(self, images: Tensor) -> Features:
        """Features (B, 2048) and logits (B, 1008) of images (B, 1 or 3, H, W) uint8; grey becomes three channels."""
        if images.shape[1] not in (1, 3):
            raise ValueError(f"images with {images.shape[1]} channels: Inception reads 1 or 3")
        return Features(*self.network(images.expand(-1, 3, -1, -1)))

    def check(self, real: Features, label: Tensor | None) -> None:
        """Inception judges anything."""

    def default_images(self, reference: int) -> int:
        """As many as the training split has, at most 50,000."""
        return min(reference, 50_000)

    def compared(self, judged: int, reference: int) -> tuple[int, int]:
        """All of both, as published FIDs have it."""
        return judged, reference

    def scores_alone(self, judged: Features, label: Tensor | None = None) -> dict[str, float]:
        """The Inception score over 10 splits."""
        return {"is": inception_score(judged.logits)}

    def scores_by_moments(self, judged: Features, reference: Moments) -> dict[str, float]:
        """FID."""
        return {"fid": frechet_distance(judged.moments, reference)}

    def scores_against(
        self, judged: Features, reference: Features, device: torch.device | str = "cpu"
    ) -> dict[str, float]:
        """FID; KID over 100 subsets of 1000; precision and recall (k = 3) of equally many of both.

        With fewer than 1000 images on a side, KID's subsets are as large as the smaller side.
        """
        n = min(len(judged), len(reference))
        precision, recall = precision_recall(judged.first(n).features, reference.subset(n).features, 3, device)
        return self.scores_by_moments(judged, reference.moments) | {
            "kid": kernel_inception_distance(judged.features, reference.features, subset_size=min(1000, n)),
            "precision": precision,
            "recall": recall,
        }
