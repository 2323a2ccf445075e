"""The dashboard's event files, read back: tags, positions, values, and what a resumed run leaves in them."""

import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from dashboard_runs import BATCH, TOTAL, Record, Stream, TinyData, TinyNetwork, bcm, fit, pictures, scalars
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from diffusion.curricula import DoublingSteps, ECTGap, SquareRootSteps, TargetRate
from diffusion.distances import SquaredL2
from diffusion.pairs import ContinuousPairs, GridPairs
from diffusion.weightings import ConstantGap
from evaluation.dashboard import RunSummary, SampleGrids, TrainingCurves
from lightning_modules import BCMModule, CTModule


def test_points_stand_at_images_seen_and_are_means_since_the_last(tmp_path: Path) -> None:
    record = Record()
    curves = TrainingCurves(every_n_images=24, levels=4)
    points = scalars(fit(tmp_path, bcm(), curves, record))
    for tag, values in points.items():
        if "_by_level" not in tag:  # a bin without images has no point
            assert [step for step, _ in values] == [24, 48, 72, 96], tag
    edges = torch.linspace(math.log(0.002), math.log(80), 5).exp()
    names = curves.level_names()
    assert names[0] == "0_0.002-0.028" and names[3] == "3_5.7-80"
    for n, first in enumerate((0, 24, 48, 72)):
        steps = [outputs for before, outputs in record.steps if first <= before < first + 24]
        assert len(steps) == 3
        expect = {"train/loss": torch.stack([o["loss"] for o in steps]).mean()}
        expect["train/grad_norm"] = torch.tensor(record.norms[3 * n : 3 * n + 3]).mean()
        sigma = torch.cat([o["sigma"] for o in steps])
        for term in ("consistency", "bidirectional"):
            value = torch.cat([o["terms"][term] for o in steps])
            expect[f"train/{term}"] = value.mean()
            for k, name in enumerate(names):
                inside = (sigma > edges[k]) & (sigma <= edges[k + 1])
                tag = f"train_{term}_by_level/{name}"
                if inside.any():
                    expect[tag] = value[inside].mean()
                else:
                    assert first + 24 not in dict(points.get(tag, []))
        for tag, value in expect.items():
            assert dict(points[tag])[first + 24] == pytest.approx(float(value), rel=1e-5), tag


def test_the_state_of_a_run_is_shown(tmp_path: Path) -> None:
    module = bcm(lr_factor=lambda progress: 1 - progress / 2)
    points = scalars(fit(tmp_path, module, TrainingCurves(every_n_images=24)))
    steps = DoublingSteps(4, 32)
    assert points["train/N"] == [(k, steps(k / TOTAL)) for k in (24, 48, 72, 96)]
    last_steps = [1e-3 * (1 - (k - BATCH) / TOTAL / 2) for k in (24, 48, 72, 96)]
    assert [value for _, value in points["train/lr"]] == pytest.approx(last_steps)
    assert [value for _, value in points["train/skipped_steps"]] == [0, 0, 0, 0]
    assert min(value for _, value in points["train/images_per_second"]) > 0


def test_continuous_levels_show_their_gap(tmp_path: Path) -> None:
    module = bcm(pairs=ContinuousPairs(ECTGap(q=2.0, stages=4, k=0.0)))
    points = scalars(fit(tmp_path, module, TrainingCurves(every_n_images=24)))
    assert points["train/gap"] == [(24, 0.25), (48, 0.125), (72, 0.0625), (96, 0.0625)]  # 1/q^(stage + 1)
    assert "train/N" not in points


def test_ct_shows_the_rate_of_its_target(tmp_path: Path) -> None:
    rate = TargetRate(SquareRootSteps(2, 20))
    options = dict(distance=SquaredL2(), weight=ConstantGap(), total_images=TOTAL, target_rate=rate)
    module = CTModule(TinyNetwork, (1, 4, 4), GridPairs(rate.steps), **options)
    points = scalars(fit(tmp_path, module, TrainingCurves(every_n_images=48)))
    assert points["train/mu"] == [(k, pytest.approx(rate(k / TOTAL))) for k in (48, 96)]
    losses = [value for _, value in points["train/loss"]]
    assert [value for _, value in points["train/consistency"]] == pytest.approx(losses, rel=1e-6)


def test_values_that_are_not_finite_count_as_skipped_and_in_no_mean(tmp_path: Path) -> None:
    class Broken(Stream):
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            for x0, label in super().__iter__():
                yield (x0 * math.nan if self.images_seen == 32 else x0), label

    class BrokenData(TinyData):
        def train_dataloader(self) -> torch.utils.data.DataLoader:
            return torch.utils.data.DataLoader(Broken(self.trainer, self.image_shape), batch_size=None)

    record = Record()
    points = scalars(fit(tmp_path, bcm(), TrainingCurves(every_n_images=24), record, data=BrokenData()))
    assert [value for _, value in points["train/skipped_steps"]] == [0, 1, 1, 1]
    losses = {before: float(outputs["loss"]) for before, outputs in record.steps}
    assert math.isnan(losses[32])
    assert dict(points["train/loss"])[48] == pytest.approx((losses[24] + losses[40]) / 2)
    assert all(math.isfinite(value) for values in points.values() for _, value in values)


def test_accumulated_gradients_do_not_change_the_scale_of_the_loss(tmp_path: Path) -> None:
    record = Record()
    points = scalars(fit(tmp_path, bcm(), TrainingCurves(every_n_images=48), record, accumulate_grad_batches=3))
    both = [points["train/consistency"], points["train/bidirectional"]]
    sums = [(step, a + b) for (step, a), (_, b) in zip(*both, strict=True)]
    assert points["train/loss"] == [(step, pytest.approx(value, rel=1e-5)) for step, value in sums]
    assert dict(points["train/grad_norm"])[48] == pytest.approx(sum(record.norms[:2]) / 2, rel=1e-5)


@pytest.mark.parametrize("saved_at", [56, 48])  # within an interval; where a point is due but not yet written
def test_a_resumed_run_has_the_curves_of_an_unbroken_one(tmp_path: Path, saved_at: int) -> None:
    def callbacks() -> list[Callback]:
        return [TrainingCurves(every_n_images=24), SampleGrids(every_n_images=48, seeds=4), RunSummary()]

    whole = fit(tmp_path / "whole", bcm(), *callbacks())
    checkpoint = ModelCheckpoint(tmp_path, filename="half", every_n_train_steps=saved_at // BATCH, save_top_k=1)
    broken = tmp_path / "broken"
    with pytest.raises(RuntimeError, match="broken off"):
        fit(broken, bcm(), *callbacks(), checkpoint, Record(break_at=88))
    assert [step for step, _ in scalars(broken)["train/loss"]] == [24, 48, 72]
    states = torch.load(tmp_path / "half.ckpt", weights_only=False)["callbacks"]
    ours = [state for name, state in states.items() if name.startswith(("TrainingCurves", "SampleGrids"))]
    torch.save(ours, tmp_path / "states")
    assert len(torch.load(tmp_path / "states", weights_only=True)) == 2  # tensors and plain values only
    for file in broken.glob("events*"):  # event files are read in the order of their names, which begin with the second
        file.rename(broken / "events.out.tfevents.0000000001")
    fit(broken, bcm(), *callbacks(), ckpt_path=tmp_path / "half.ckpt")
    expect, found = scalars(whole), scalars(broken)
    for curves in (expect, found):
        speed = curves.pop("train/images_per_second")
        assert min(value for _, value in speed) > 0
    assert found == expect
    found, expect = pictures(broken), pictures(whole)
    first, again = found.pop("real/training_data")  # each start shows what data it was given
    assert [first] == expect.pop("real/training_data") and again[0] == saved_at
    assert found == expect


def test_a_dashboard_changes_nothing_in_a_run(tmp_path: Path) -> None:
    plain, watched = bcm(), bcm()
    fit(tmp_path / "plain", plain)
    fit(tmp_path / "watched", watched, TrainingCurves(8), SampleGrids(24, seeds=4), RunSummary())
    for name, value in plain.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name


def test_what_validation_keeps_from_the_logger_stands_at_images_seen(tmp_path: Path) -> None:
    class Validated(BCMModule):
        def validation_step(self, batch, batch_idx: int) -> None:
            self.log("val/loss", 2.5, logger=False)
            self.log("val/other", 3.5)  # this one Lightning writes itself

        def test_step(self, batch, batch_idx: int) -> None:
            self.log("test/loss", 4.5, logger=False)

    class ValidatedData(TinyData):
        def val_dataloader(self) -> torch.utils.data.DataLoader:
            return self.train_dataloader()

    often = dict(val_check_interval=4, limit_val_batches=1, check_val_every_n_epoch=None)
    points = scalars(fit(tmp_path, bcm(method=Validated), TrainingCurves(), data=ValidatedData(), **often))
    assert points["val/loss"] == [(32, 2.5), (64, 2.5), (96, 2.5)]
    assert len(points["val/other"]) == 3
    module = bcm(method=Validated)
    module.images_seen = 96
    options = dict(accelerator="cpu", enable_progress_bar=False, callbacks=[TrainingCurves()])
    trainer = Trainer(logger=TensorBoardLogger(tmp_path, name="", version="test"), limit_test_batches=1, **options)
    trainer.test(module, torch.utils.data.DataLoader([0]), verbose=False)
    assert scalars(tmp_path / "test")["test/loss"] == [(96, 4.5)]


def test_a_step_does_not_wait_for_the_device() -> None:
    curves = TrainingCurves()
    curves.means, curves.edges = curves.means.to("meta"), curves.edges.to("meta")
    logger = TensorBoardLogger("nowhere")
    logger._experiment = SimpleNamespace()
    guard = SimpleNamespace(grad_norm=torch.zeros((), device="meta"))
    trainer = SimpleNamespace(loggers=[logger], callbacks=[guard], accumulate_grad_batches=1)
    sigma = torch.ones(4, device="meta")  # a tensor without values: whoever asks for one fails
    outputs = {"loss": sigma.mean(), "sigma": sigma, "terms": {"a": sigma, "b": sigma}}
    curves.on_train_batch_end(trainer, None, outputs, None, 0)
    assert curves.by_level.shape == (2, 2, 8) and curves.by_level.is_meta


@pytest.mark.slow
def test_two_processes_write_the_points_of_one(tmp_path: Path) -> None:
    one = scalars(fit(tmp_path / "one", bcm(), TrainingCurves(24)))
    options = dict(devices=2, strategy="ddp_spawn", use_distributed_sampler=False)
    two = scalars(fit(tmp_path / "two", bcm(), TrainingCurves(24), SampleGrids(48, seeds=4), RunSummary(), **options))
    one.pop("train/images_per_second")
    for tag, points in one.items():
        assert two[tag] == [(step, pytest.approx(value, rel=1e-4)) for step, value in points], tag


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainingCurves(levels=0), "levels=0"),
        (lambda: TrainingCurves(every_n_images=0), "every_n_images=0"),
        (lambda: SampleGrids(steps=()), "steps="),
        (lambda: SampleGrids(seeds=0), "seeds=0"),
    ],
)
def test_bad_arguments_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
