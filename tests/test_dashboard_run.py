"""The configuration on the dashboard."""

from functools import partial
from pathlib import Path

import torch
from dashboard_runs import bcm, fit, read
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata

from diffusion.curricula import DoublingSteps
from diffusion.levels import LogNormal
from diffusion.pairs import GridPairs
from evaluation.dashboard import RunSummary, TrainingCurves
from evaluation.dashboard_run import flatten


def test_configuration_and_hyperparameters(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model:\n  total_images: 96\n")
    fit(tmp_path, bcm(), TrainingCurves(24), RunSummary())
    events = read(tmp_path)
    text = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text == "    model:\n      total_images: 96\n"
    content = events.SummaryMetadata(hparams_metadata.SESSION_START_INFO_TAG).plugin_data.content
    values = hparams_metadata.parse_session_start_info_plugin_data(content).hparams
    assert values["method"].string_value == "BCMModule"
    assert values["pairs.steps.s1"].number_value == 32
    assert values["data.image_shape"].string_value == "[1, 4, 4]"
    assert values["optimizer"].string_value == "Adam" and values["optimizer.lr"].number_value == 1e-3
    content = events.SummaryMetadata(hparams_metadata.SESSION_END_INFO_TAG).plugin_data.content
    assert hparams_metadata.parse_session_end_info_plugin_data(content).status == api_pb2.STATUS_SUCCESS


def test_objects_and_their_configuration_flatten_to_the_same_values() -> None:
    config = {
        "pairs": {
            "class_path": "diffusion.pairs.GridPairs",
            "init_args": {
                "steps": {"class_path": "diffusion.curricula.DoublingSteps", "init_args": {"s0": 4, "s1": 32}},
                "levels": {"class_path": "diffusion.levels.LogNormal", "init_args": {"mean": -1.1, "std": 2.0}},
                "target_levels": None,
                "rho": 7.0,
                "reach_top": True,
            },
        },
        "_class_path": "lightning_modules.BCMModule",
    }
    expect = {"pairs": "GridPairs", "pairs.steps": "DoublingSteps", "pairs.steps.s0": 4, "pairs.steps.s1": 32}
    expect |= {"pairs.levels": "LogNormal", "pairs.levels.mean": -1.1, "pairs.levels.std": 2.0}
    expect |= {"pairs.target_levels": "None", "pairs.rho": 7.0, "pairs.reach_top": True}
    assert dict(flatten(config)) == expect
    assert dict(flatten({"pairs": GridPairs(DoublingSteps(4, 32), LogNormal(-1.1, 2.0))})) == expect
    assert dict(flatten({"rates": (0.9,)})) == dict(flatten({"rates": [0.9]})) == {"rates": "[0.9]"}
    assert dict(flatten({"make": torch.optim.Adam})) == {"make": "Adam"}
    assert dict(flatten({"make": partial(torch.optim.Adam, lr=0.1)})) == {"make": "Adam", "make.lr": 0.1}
