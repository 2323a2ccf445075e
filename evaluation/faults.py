"""Real images with one known fault each: what the numbers of a table are for noise, a missing class, memorised images.

A model whose row looks like one of them has that fault.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion.pixels import from_uint8, to_uint8
from diffusion.rng import derive_seed
from evaluation.features import FeatureNetwork, Features, extract
from evaluation.protocol import Source
from evaluation.scores import Score, score

NOISE = (0.1, 0.3)
"""Standard deviations of the added noise, for images in [-1, 1]."""
REPEATED = 300
"""Images that are memorised, where enough are judged."""


@dataclass(frozen=True)
class Fault:
    """N images of the training split, altered.

    Args:
        name: of its row.
        rows: (N,) int64, which images of the training split; a row may come more than once.
        noise: standard deviation of the Gaussian noise that is added to them, in [-1, 1].
        seed: of the noise.
    """

    name: str
    rows: Tensor
    noise: float = 0.0
    seed: int = 0

    def features(self, network: FeatureNetwork, images: Tensor, known: Features, batch_size: int) -> Features:
        """Of these N images.

        Args:
            network: the judge.
            images: the training split (M, C, H, W) uint8.
            known: its features (M) by the judge, which are taken where no noise is added.
            batch_size: images per forward pass.
        """
        if not self.noise:
            return known.at(self.rows)
        x = from_uint8(images[self.rows])
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(self.seed))
        return extract(network, to_uint8(x + self.noise * noise), batch_size)


def faults(images: int, labels: Tensor | None, n: int, seed: int = 0) -> Iterator[Fault]:
    """Sets of n images each: none altered, noise, a class dropped, few images repeated.

    All classes but the last are drawn as often as the data have them. `REPEATED` images are repeated, fewer where n is
    small: each comes four times at least, so that its third neighbour is itself, and recall counts exact copies alone.

    Args:
        images: M, of the training split.
        labels: theirs (M,), or None where the data have none: then no class is dropped.
        n: N, images of each set.
        seed: the same seed draws the same images.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "faults"))

    def drawn(rows: Tensor) -> Tensor:
        """n of them: each once in a random order, then each once more, ..."""
        turns = [rows[torch.randperm(len(rows), generator=generator)] for _ in range(-(-n // len(rows)))]
        return torch.cat(turns)[:n]

    everything = torch.arange(images)
    yield Fault("real: train", drawn(everything))
    for noise in NOISE:
        yield Fault(f"real + noise {noise}", drawn(everything), noise, derive_seed(seed, "noise of faults"))
    if labels is not None:
        last = int(labels.max())
        yield Fault(f"real: without class {last}", drawn((labels != last).nonzero().flatten()))
    few = torch.randperm(images, generator=generator)[: min(REPEATED, max(1, min(n, images) // 4))]
    yield Fault(f"real: {len(few)} images repeated", drawn(few))


def fault_scores(
    network: FeatureNetwork,
    images: Tensor,
    labels: Tensor | None,
    train: Features,
    test: Features,
    n: int,
    seed: int = 0,
    batch_size: int = 500,
) -> list[Score]:
    """Every fault against both splits, scored as n images of a model are.

    Args:
        network: the judge.
        images: the training split (M, C, H, W) uint8.
        labels: its labels (M,), or None.
        train: the judge's features of the training split.
        test: those of the test split.
        n: images of each set, as many as of a model.
        seed: of what is drawn.
        batch_size: images per forward pass.
    """
    found = []
    for fault in faults(len(images), labels, n, seed):
        judged = fault.features(network, images, train, batch_size)
        found += [score(network, judged, train, Source(fault.name), "train")]
        found += [score(network, judged, test, Source(fault.name), "test")]
    return found
