"""What a run's TensorBoard files say of its training: the loss by images seen, and the speed."""

import statistics
from dataclasses import dataclass
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

LOSS, SPEED = "train/loss", "train/images_per_second"
POINTS = 300
"""Most points of a curve."""


@dataclass(frozen=True)
class Training:
    """A run as its dashboard saw it.

    Args:
        images: seen at each point of the curve.
        loss: mean of it since the point before.
        images_per_second: the median over all points; None if it was not written.
    """

    images: list[int]
    loss: list[float]
    images_per_second: float | None


def read_training(directory: Path) -> Training | None:
    """The curve of the run in a directory, thinned to `POINTS` points, the last one kept; None if it has none.

    What an interrupted run wrote after the checkpoint that it went on from is left out, as TensorBoard does.
    """
    if not any(directory.glob("events.out.tfevents.*")):
        return None
    sizes = {"scalars": 0, "images": 1, "tensors": 1, "histograms": 1, "compressedHistograms": 1, "audio": 1}
    events = EventAccumulator(str(directory), size_guidance=sizes).Reload()  # 0 keeps all
    tags = events.Tags()["scalars"]
    if LOSS not in tags:
        return None
    points = events.Scalars(LOSS)
    every = -(-len(points) // POINTS)
    kept = points[::-1][::every][::-1]
    speed = statistics.median(p.value for p in events.Scalars(SPEED)) if SPEED in tags else None
    return Training([p.step for p in kept], [p.value for p in kept], speed)
