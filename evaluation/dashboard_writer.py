"""Where dashboards write, and when. The x axis of all runs is the number of images seen."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from torch.utils.tensorboard import SummaryWriter

Method = Any
"""A LightningModule with the members that docs/architecture.md lists, which the type of modules does not know."""


def tensorboard_of(trainer: Trainer) -> SummaryWriter | None:
    """The writer of the trainer's TensorBoardLogger, None without one; on processes but the first it writes nothing."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            return logger.experiment
    return None


class Interval:
    """Says when the next point is due: whenever the count of images has passed a multiple of the interval.

    Args:
        every_n_images: the interval; by default a `share` of the run, at most `longest` images.
        share: number of intervals in a run.
        longest: in images.
    """

    def __init__(self, every_n_images: int | None, share: int, longest: int):
        if every_n_images is not None and every_n_images < 1:
            raise ValueError(f"every_n_images={every_n_images}: it must be at least 1")
        self.every_n_images, self.share, self.longest = every_n_images, share, longest
        self.last = 0
        """Images seen at the last point; saved in checkpoints, so that a resumed run goes on where it stood."""

    def due(self, pl_module: Method) -> bool:
        """Whether a multiple lies in (last, images seen]."""
        every = self.every_n_images or max(1, min(pl_module.total_images // self.share, self.longest))
        return pl_module.images_seen // every > self.last // every

    def resume(self, trainer: Trainer, pl_module: Method) -> None:
        """Mark as void what an interrupted run wrote after its checkpoint, for it will be written again."""
        writer = tensorboard_of(trainer)
        if writer is None or pl_module.images_seen == 0 or not trainer.is_global_zero:
            return
        step = pl_module.images_seen if self.due(pl_module) else pl_module.images_seen + 1
        event = Event(step=step, session_log=SessionLog(status=SessionLog.START))
        writer._get_file_writer().add_event(event)  # readers drop the events of this step and after that came before it
