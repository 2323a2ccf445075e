"""What a user sees of a game of two networks, and that a collapse is told."""

import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from dashboard_runs import BATCH, TinyData, TinyNetwork, bcm, fit, read, scalars
from methods import SmallDiscriminator

from diffusion.adversarial import GradientPenalty
from diffusion.ladder import AnyLevelBelow
from evaluation.dashboard import GameWatch, TrainingCurves
from evaluation.dashboard_game import collapse_text, mean_distance
from lightning_modules import UFOGenModule
from lightning_modules.players import Player


def ufogen(image_shape=(1, 4, 4), **options):
    torch.manual_seed(3)
    player = Player(partial(torch.optim.Adam, lr=1e-3))
    options = {"total_images": 12 * BATCH, "judged": AnyLevelBelow(), "penalty": GradientPenalty(0.1), **options}
    return UFOGenModule(
        TinyNetwork, image_shape, SmallDiscriminator, generator_player=player, discriminator_player=player, **options
    )


def test_curves_of_both_sides_by_their_own_levels(tmp_path: Path) -> None:
    points = scalars(fit(tmp_path, ufogen(), TrainingCurves(3 * BATCH, levels=4)))
    for name in (*UFOGenModule.term_names, *UFOGenModule.judged_names):
        assert [step for step, _ in points[f"train/{name}"]] == [24, 48, 72, 96]
    of_real = [tag for tag in points if tag.startswith("train_logit_real_by_level/")]
    of_generator = [tag for tag in points if tag.startswith("train_adversarial_gradient_by_level/")]
    # t is never the lowest level, s never the highest
    assert {tag.split("/")[1][0] for tag in of_real} == {"0", "2"}
    assert {tag.split("/")[1][0] for tag in of_generator} == {"2", "3"}
    assert points["train/lr_0_0"][0][1] == points["train/lr_1_0"][0][1] == pytest.approx(1e-3)
    assert all(value > 0 for _, value in points["train/grad_norm"])


def test_histograms_diversity_and_samples(tmp_path: Path) -> None:
    watch = GameWatch(4 * BATCH, samples=20, steps=(1, 4), collapse=0.0)
    folder = fit(tmp_path, ufogen(), watch)
    events = read(folder)
    points = scalars(folder)
    for name in ("1_evaluation", "4_evaluations"):
        assert [step for step, _ in points[f"val/diversity_{name}"]] == [32, 64, 96]
        assert all(0 <= value < 3 for _, value in points[f"val/diversity_{name}"])
    assert not any("classes" in tag for tag in points)  # no classifier for 4x4 pixels
    tags = events.Tags()["histograms"]
    assert {tag.split("/")[1] for tag in tags} == {"real", "fake"} and len(tags) == 8  # four levels are judged at
    counts = [events.Histograms(tag)[-1].histogram_value.num for tag in tags if tag.endswith("real")]
    assert sum(counts) == 12 * BATCH


def test_a_method_without_a_discriminator_is_left_alone(tmp_path: Path) -> None:
    points = scalars(fit(tmp_path, bcm(), GameWatch(8)))
    assert not any("diversity" in tag for tag in points)


def test_a_run_is_the_same_with_and_without(tmp_path: Path) -> None:
    with_it, without = ufogen(), ufogen()
    fit(tmp_path / "a", with_it, GameWatch(8, samples=5, collapse=0.0))
    fit(tmp_path / "b", without)
    for mine, theirs in zip(with_it.parameters(), without.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_collapse_is_told_once(tmp_path: Path) -> None:
    """A generator that starts at one image; what is more diverse than the data is not told."""
    with pytest.warns(UserWarning, match=r"Samples of 1 evaluation have collapsed: .* Try ") as told:
        fit(tmp_path / "a", ufogen(), GameWatch(BATCH, samples=10, collapse=0.9))
    assert sum("collapsed" in str(w.message) for w in told) == 1
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Samples of 1")
        fit(tmp_path / "b", ufogen(), GameWatch(BATCH, samples=10, collapse=0.0))


@pytest.mark.parametrize(
    ("accuracy", "remedy"), [(0.97, "larger gamma"), (0.5, "smaller gamma"), (0.7, "lower learning rate")]
)
def test_what_to_try_depends_on_who_wins(accuracy, remedy) -> None:
    text = collapse_text("1_evaluation", 0.21, 3.0, accuracy)
    assert remedy in text and "0.21" in text and "3 classes" in text and "\n" not in text
    assert "classes are read" not in collapse_text("4_evaluations", 0.2, None, accuracy)


def test_mean_distance_is_within_classes() -> None:
    x = torch.tensor([0.0, 1.0, 10.0, 13.0])[:, None, None, None]
    assert mean_distance(x, torch.tensor([0, 0, 1, 1])) == pytest.approx(2.0)
    assert mean_distance(x) == pytest.approx((1 + 10 + 13 + 9 + 12 + 3) / 6)
    assert mean_distance(x[:1]) == 0


def test_classes_are_counted_on_the_digits(tmp_path: Path) -> None:
    from datamodules import DigitsDataModule

    module = ufogen((1, 8, 8), total_images=64)
    points = scalars(
        fit(tmp_path, module, GameWatch(64, samples=20, collapse=0.0), data=DigitsDataModule(batch_size=32))
    )
    ((_, classes),) = points["val/classes_1_evaluation"]
    assert 1 <= classes <= 10


@pytest.mark.parametrize(
    ("options", "message"),
    [({"samples": 1}, "samples=1"), ({"steps": ()}, "steps="), ({"collapse": 1.0}, "collapse=1.0")],
)
def test_options_out_of_range_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        GameWatch(**options)


def test_the_data_are_the_measure(tmp_path: Path) -> None:
    watch, data = GameWatch(8, samples=5, collapse=0.0), TinyData()
    fit(tmp_path, ufogen(), watch, data=data)
    images, _ = data.uint8_images("train")
    assert watch.real_distance == pytest.approx(mean_distance(images.float() / 127.5 - 1))


def test_a_complete_run_that_goes_on_ends_well(tmp_path: Path) -> None:
    """Killed after its last step, before the last look: no batch comes, so there are no data to compare with."""
    module = ufogen()
    module.images_seen = module.total_images
    points = scalars(fit(tmp_path, module, GameWatch(4 * BATCH, samples=20), TrainingCurves(3 * BATCH, levels=4)))
    assert not any("diversity" in tag for tag in points)


def test_equal_images_have_no_measure(tmp_path: Path) -> None:
    class Equal(TinyData):
        def uint8_images(self, split):
            return torch.zeros(40, *self.image_shape, dtype=torch.uint8), torch.arange(40) % 3

    module = ufogen()
    points = scalars(fit(tmp_path, module, GameWatch(4 * BATCH, samples=20), data=Equal(module.image_shape)))
    assert module.images_seen == module.total_images and not any("diversity" in tag for tag in points)
