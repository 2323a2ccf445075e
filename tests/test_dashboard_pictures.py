"""The pictures in the dashboard's event files: tags, positions, sizes."""

from functools import partial
from pathlib import Path

import pytest
from dashboard_runs import NAMES, TOTAL, TinyNetwork, bcm, fit, pictures, scalars

from diffusion.levels import LogNormal
from evaluation.dashboard import SampleGrids
from lightning_modules import BCMModule, DiffusionModule, I2SBModule
from networks import MLP
from tasks.masks import box_inpainting


def restorer() -> I2SBModule:
    return I2SBModule(partial(MLP, width=8, depth=1), (1, 4, 4), box_inpainting(4, 4), TOTAL)


def test_grids_of_samples_and_inversions(tmp_path: Path) -> None:
    module = bcm()
    fit(tmp_path, module, SampleGrids(every_n_images=40, seeds=20, min_side=12))
    found, points = pictures(tmp_path), scalars(tmp_path)
    drawn = [40, 80, 96]
    assert set(found) == {"real/training_data"} | {f"ema_samples/{n}" for n in NAMES} | {
        f"inversion/{n}" for n in NAMES[:2]
    }
    assert found["real/training_data"] == [(0, 14 + 2, 8 * 14 + 2)]  # a batch of 8
    for name in NAMES:  # 20 images of 4x4 pixels, three times enlarged, in 3 rows of 8
        assert found[f"ema_samples/{name}"] == [(step, 3 * 14 + 2, 8 * 14 + 2) for step in drawn]
    for name in NAMES[:2]:  # 16 of them, twice in 3 rows of 8: real, noise, regenerated
        assert found[f"inversion/{name}"] == [(step, 6 * 14 + 2, 8 * 14 + 2) for step in drawn]
        assert [step for step, _ in points[f"val/inversion_error_{name}"]] == drawn
        assert [step for step, _ in points[f"val/inversion_noise_ratio_{name}"]] == drawn


def test_numbers_of_steps_that_a_method_refuses_are_left_out(tmp_path: Path) -> None:
    module = DiffusionModule(TinyNetwork, (1, 4, 4), LogNormal(-1.2, 1.2), TOTAL)
    fit(tmp_path, module, SampleGrids(every_n_images=48, seeds=4))
    assert set(pictures(tmp_path)) == {"real/training_data", "ema_samples/1_evaluation"}


def test_a_conditional_model_has_a_class_in_each_column(tmp_path: Path) -> None:
    asked = []

    class Asked(BCMModule):
        def sample(self, noise, steps=1, label=None):
            asked.append(label)
            return super().sample(noise, steps, label)

    fit(tmp_path, bcm(method=Asked, num_classes=3), SampleGrids(seeds=7, steps=(1,), min_side=4))
    assert all(label.tolist() == [0, 1, 2, 0, 1, 2, 0] for label in asked)
    steps = [step for step, _, _ in pictures(tmp_path)["ema_samples/1_evaluation"]]
    assert steps == [16, 24, 40, 48, 64, 72, 88, 96]  # an eighth of the run is a step and a half
    assert pictures(tmp_path)["ema_samples/1_evaluation"][0][1:] == (3 * 6 + 2, 3 * 6 + 2)


def test_points_in_the_plane_are_scattered(tmp_path: Path) -> None:
    fit(tmp_path, bcm((2, 1, 1)), SampleGrids(every_n_images=TOTAL, steps=(1,)))
    found = pictures(tmp_path)
    assert set(found) == {"real/training_data", "ema_samples/1_evaluation"} | {f"inversion/{n}" for n in NAMES[:2]}
    (step, height, width), (_, _, wide) = found["ema_samples/1_evaluation"][0], found["inversion/1_evaluation"][0]
    assert step == TOTAL and wide == 2 * width and height > 300


@pytest.mark.parametrize("make", [bcm, restorer])
def test_a_complete_run_that_goes_on_ends_well(make, tmp_path: Path) -> None:
    """No batch comes, so there are no images to restore or invert; samples are drawn."""
    module = make()
    module.images_seen = module.total_images
    fit(tmp_path, module, SampleGrids(every_n_images=40, seeds=4))
    assert set(pictures(tmp_path)) == ({f"ema_samples/{n}" for n in NAMES} if make is bcm else set())
