"""The comparison in TensorBoard."""

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar.metadata import CONFIG_SUMMARY_TAG
from tensorboard.plugins.hparams import metadata as hparams_metadata

from cli.compare_board import write_board
from evaluation.comparison import Row, Spread

LEVELS = {"class_path": "diffusion.levels.LogNormal", "init_args": {"mean": -1.0, "std": 1.0}}


def row(method, steps, **values):
    spreads = {name: Spread.of([value, value + 2]) for name, value in values.items()}
    return Row(
        method=method,
        steps=steps,
        reference="train",
        images=10,
        nfe=float(steps),
        sampling=None,
        images_seen=7,
        seconds_per_image=None,
        training_seconds=None,
        values=spreads,
    )


@pytest.fixture
def board(tmp_path):
    """Of two methods at two numbers of evaluations, written twice."""
    methods = {}
    for i, name in enumerate(("CT", "1/RF")):
        methods[name] = tmp_path / f"{i}.ckpt"
        hyper = {"_class_path": "lightning_modules.DiffusionModule", "levels": LEVELS, "seed": i}
        torch.save({"state_dict": {}, "images_seen": 100 * (i + 1), "hyper_parameters": hyper}, methods[name])
    rows = [row(m, n, **{"fd_digits": 10.0 * n, "share_digits/0": 0.1}) for m in methods for n in (1, 4)]
    for _ in range(2):
        write_board(tmp_path / "board", methods, rows)
    return tmp_path / "board"


def events(folder):
    (file,) = folder.glob("events*")  # the second writing replaced the first
    return EventAccumulator(str(file)).Reload()


def test_scores_stand_at_their_evaluations_and_at_the_images(board):
    assert sorted(p.name for p in board.iterdir()) == ["1_RF", "CT", "layout"]
    found = events(board / "1_RF")
    assert [(e.step, e.value) for e in found.Scalars("compared/fd_digits")] == [(1, 11.0), (4, 41.0)]
    assert [(e.step, e.value) for e in found.Scalars("final/fd_digits_4_steps")] == [(200, 41.0)]
    assert set(found.Tags()["scalars"]) == {"compared/fd_digits", "final/fd_digits_1_steps", "final/fd_digits_4_steps"}


def test_hyperparameters_stand_beside_them(board):
    found = events(board / "CT")
    content = found.SummaryMetadata(hparams_metadata.SESSION_START_INFO_TAG).plugin_data.content
    values = hparams_metadata.parse_session_start_info_plugin_data(content).hparams
    assert values["method"].string_value == "CT" and values["levels.mean"].number_value == -1.0


def test_one_layout_names_the_charts(board):
    (tensor,) = events(board / "layout").Tensors(CONFIG_SUMMARY_TAG)
    layout = layout_pb2.Layout.FromString(tensor.tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for category in layout.category for chart in category.chart}
    assert charts["fd_digits"] == ["compared/fd_digits$"] and charts["loss"] == ["^train/loss$"]
    assert len(charts) == 1 + 5
