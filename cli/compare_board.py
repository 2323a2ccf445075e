"""The comparison in TensorBoard: each method's scores by number of evaluations and beside its hyper-parameters."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from evaluation.comparison import Row, table_names
from evaluation.dashboard_run import end_session, flatten, start_session
from lightning_modules.checkpoint import read_checkpoint

FOLDER = "board"
TRAINING = {
    "loss": "train/loss",
    "gradient norm": "train/grad_norm",
    "learning rate": "train/lr",
    "images per second": "train/images_per_second",
    "validation loss": "val/.*",
}
"""Curves of all runs that stand in one chart each, by regular expressions of their tags."""


def write_board(folder: Path, methods: Mapping[str, Path], rows: Sequence[Row]) -> None:
    """Write one run for each method, in the place of what stood there, and the layout of the charts.

    | tag | at step | meaning |
    |---|---|---|
    | `compared/<score>` | evaluations asked for | mean over the seed ranges |
    | `final/<score>_<n>_steps` | images seen | the same, so that TensorBoard shows it beside the hyper-parameters |

    The custom scalars' tab then holds one chart of each score with all methods, and one of each curve of training
    with all runs below TensorBoard's `--logdir`.

    Args:
        folder: everything in it is replaced.
        methods: the checkpoint of each.
        rows: of one split, real images left out.
    """
    shutil.rmtree(folder, ignore_errors=True)
    names = table_names(rows[0])
    for method, checkpoint in methods.items():
        content = read_checkpoint(checkpoint)
        with SummaryWriter(folder / method.replace("/", "_")) as writer:
            start_session(writer, {"method": method} | dict(flatten(content.get("hyper_parameters", {}))))
            for row in (row for row in rows if row.method == method):
                for name in names:
                    value = row.values[name].mean
                    writer.add_scalar(f"compared/{name}", value, row.steps)
                    writer.add_scalar(f"final/{name}_{row.steps}_steps", value, content["images_seen"])
            end_session(writer)
    with SummaryWriter(folder / "layout") as writer:
        writer.add_custom_scalars(
            {
                "Scores by number of evaluations": {n: ["Multiline", [f"compared/{n}$"]] for n in names},
                "Training by images seen": {n: ["Multiline", [f"^{tag}$"]] for n, tag in TRAINING.items()},
            }
        )
