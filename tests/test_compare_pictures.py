"""The pictures of a comparison: of the seeds that are told, made once, and of an exact inversion an exact pair."""

from types import SimpleNamespace

import numpy as np
import pytest
from methods import bcm, ct
from test_scores_inversion import ExactNetwork, gaussian_images

from cli.compare_pictures import SAMPLES, Album
from evaluation.generate import generate

DATA = SimpleNamespace(uint8_images=lambda split: (gaussian_images(40), None))


def album(module, folder, data=DATA):
    return Album(module.eval(), data, folder, {"checkpoint": "ab"}, 500)


@pytest.fixture
def exact():
    """A bidirectional model of Gaussian images that makes no error."""
    module = bcm(inversions=((0.07, 80.0), (0.07, 15.0, 80.0)), sigma_data=0.25)
    module.image_shape = (1, 8, 8)
    module.denoiser.network = module.ema.evaluated.network = ExactNetwork()
    return module


def test_samples_are_those_of_the_seeds(tmp_path):
    module = ct()
    data = SimpleNamespace(uint8_images=lambda split: (gaussian_images(40)[:, :, :2, :2], None))
    found = album(module, tmp_path, data).pictures([1, 2], [])
    for steps, images in found.samples.items():
        alone = generate(module.sample, [SAMPLES - 1], module.image_shape, steps=steps)
        assert images.shape == (SAMPLES, 1, 2, 2) and np.abs(images[-1].astype(int) - alone[0].numpy()).max() <= 1
    assert (found.module, found.conditional, found.inversions, found.refused) == ("CTModule", False, [], {})


def test_inversion_pairs(exact, tmp_path):
    found = album(exact, tmp_path).pictures([1], [], [*exact.inversions, [0.0, 80.0]])
    assert [one.levels for one in found.inversions] == [(0.07, 80.0), (0.07, 15.0, 80.0), (0.0, 80.0)]
    for one in found.inversions:
        assert np.abs(one.back.astype(int) - one.truth).mean() < 15
        assert one.noise.std() == pytest.approx(127.5 / 3, rel=0.1)  # of the unit noise, three deviations are white


def test_a_second_time_nothing_is_evaluated(exact, tmp_path):
    before = album(exact, tmp_path).pictures([1, 2], [3, 35], exact.inversions)
    assert set(before.refused) == {35} and "this model has plans for [1, 2, 3, 4]" in before.refused[35]
    exact.ema.evaluated.network = None
    after = album(exact, tmp_path).pictures([1, 2], [3, 35], exact.inversions)
    assert after.refused == before.refused and np.array_equal(after.samples[2], before.samples[2])
    assert len(after.inversions) == 2 and np.array_equal(after.inversions[0].noise, before.inversions[0].noise)


def test_a_damaged_file_is_made_anew(exact, tmp_path, capsys):
    before = album(exact, tmp_path).pictures([1], [], exact.inversions)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-30])
    after = album(exact, tmp_path).pictures([1], [], exact.inversions)
    assert np.array_equal(after.samples[1], before.samples[1]) and capsys.readouterr().out.count("made anew") == 3
