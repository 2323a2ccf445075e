"""The dashboard's event files, read back: tags, positions, values, and what a resumed run leaves in them."""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from torch import Tensor, nn

from diffusion.curricula import DoublingSteps, SquareRootSteps, TargetRate
from diffusion.distances import PseudoHuber, SquaredL2
from diffusion.levels import LogNormal
from diffusion.pairs import GridPairs
from diffusion.weightings import ConstantGap, InverseGap
from evaluation.dashboard import RunSummary, SampleGrids, TrainingCurves
from evaluation.dashboard_run import flatten
from lightning_modules import BCMModule, CTModule, DiffusionModule

BATCH, TOTAL = 8, 96
NAMES = ["1_evaluation", "2_evaluations", "4_evaluations"]


class TinyNetwork(nn.Module):
    """One hidden layer on the pixels and both levels."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int):
        super().__init__()
        size = math.prod(image_shape)
        self.layers = nn.Sequential(nn.Linear(size + 2, 16), nn.SiLU(), nn.Linear(16, size))
        self.embedding = nn.Embedding(max(num_classes, 1), 16)

    def forward(
        self, x: Tensor, c_noise: Tensor, label: Tensor | None = None, c_target: Tensor | None = None
    ) -> Tensor:
        levels = torch.stack([c_noise, c_noise if c_target is None else c_target], 1)
        hidden = self.layers[0](torch.cat([x.flatten(1), levels], 1))
        if label is not None:
            hidden = hidden + self.embedding(label)
        return self.layers[2](self.layers[1](hidden)).view_as(x)


class Stream(torch.utils.data.IterableDataset):
    """Endless batches, each a function of the images seen before it."""

    def __init__(self, images_seen: int, image_shape: tuple[int, int, int]):
        self.images_seen, self.image_shape = images_seen, image_shape

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            g = torch.Generator().manual_seed(self.images_seen)
            yield torch.rand(BATCH, *self.image_shape, generator=g) * 2 - 1, torch.randint(0, 3, (BATCH,), generator=g)
            self.images_seen += BATCH


class TinyData(LightningDataModule):
    """Random images, or points."""

    def __init__(self, image_shape: tuple[int, int, int] = (1, 4, 4)):
        super().__init__()
        self.save_hyperparameters()
        self.image_shape = image_shape

    def train_dataloader(self) -> torch.utils.data.DataLoader:
        stream = Stream(self.trainer.lightning_module.images_seen, self.image_shape)
        return torch.utils.data.DataLoader(stream, batch_size=None)

    def uint8_images(self, split: str) -> tuple[Tensor, Tensor]:
        assert split == "test"
        g = torch.Generator().manual_seed(1)
        images = torch.randint(0, 256, (40, *self.image_shape), generator=g, dtype=torch.uint8)
        return images, torch.arange(40) % 3


class Record(Callback):
    """What every training step gave, by the images seen before it; optionally breaks the run off."""

    def __init__(self, break_at: int | None = None):
        self.steps: list[tuple[int, dict]] = []
        self.norms: list[float] = []
        self.break_at = break_at

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch, batch_idx: int) -> None:
        if pl_module.images_seen == self.break_at:
            raise RuntimeError("broken off")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs, batch, batch_idx: int) -> None:
        self.steps.append((batch_idx * BATCH, outputs))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer) -> None:
        squares = [p.grad.square().sum() for p in pl_module.denoiser.parameters() if p.grad is not None]
        self.norms.append(float(torch.stack(squares).sum().sqrt()))


def bcm(image_shape: tuple[int, int, int] = (1, 4, 4), **kwargs) -> BCMModule:
    """A small BCM with the defaults of the paper."""
    seed_everything(3, verbose=False)
    options = dict(pairs=GridPairs(DoublingSteps(4, 32)), distance=PseudoHuber(), total_images=TOTAL)
    options |= dict(weight=InverseGap(), target_weight=InverseGap(), optimizer=partial(torch.optim.Adam, lr=1e-3))
    return BCMModule(TinyNetwork, image_shape, **(options | kwargs))


def fit(
    folder: Path, module: LightningModule, *callbacks: Callback, data: LightningDataModule | None = None, **kwargs
) -> Path:
    """Train to the end with a TensorBoardLogger; the event files are in the folder that is returned."""
    logger = TensorBoardLogger(folder, name="", version="", default_hp_metric=False)
    options = dict(accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, max_epochs=-1)
    options["enable_checkpointing"] = any(isinstance(c, ModelCheckpoint) for c in callbacks)
    ckpt_path = kwargs.pop("ckpt_path", None)
    trainer = Trainer(logger=logger, callbacks=list(callbacks), **(options | kwargs))
    trainer.fit(module, datamodule=data or TinyData(module.image_shape), ckpt_path=ckpt_path, weights_only=False)
    return folder


def read(folder: Path) -> EventAccumulator:
    """All events of a folder."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    events.Reload()
    return events


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Points (images seen, value) of each tag."""
    events = read(folder)
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def pictures(folder: Path) -> dict[str, list[tuple[int, int, int]]]:
    """(images seen, height, width) of the pictures of each tag."""
    events = read(folder)
    return {tag: [(e.step, e.height, e.width) for e in events.Images(tag)] for tag in events.Tags()["images"]}


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
    assert points["curriculum/N"] == [(k, steps(k / TOTAL)) for k in (24, 48, 72, 96)]
    last_steps = [1e-3 * (1 - (k - BATCH) / TOTAL / 2) for k in (24, 48, 72, 96)]
    assert [value for _, value in points["train/lr"]] == pytest.approx(last_steps)
    assert [value for _, value in points["train/skipped_steps"]] == [0, 0, 0, 0]
    assert min(value for _, value in points["train/images_per_second"]) > 0


def test_ct_shows_the_rate_of_its_target(tmp_path: Path) -> None:
    rate = TargetRate(SquareRootSteps(2, 20))
    options = dict(distance=SquaredL2(), weight=ConstantGap(), total_images=TOTAL, target_rate=rate)
    module = CTModule(TinyNetwork, (1, 4, 4), GridPairs(rate.steps), **options)
    points = scalars(fit(tmp_path, module, TrainingCurves(every_n_images=48)))
    assert points["curriculum/mu"] == [(k, pytest.approx(rate(k / TOTAL))) for k in (48, 96)]
    losses = [value for _, value in points["train/loss"]]
    assert [value for _, value in points["train/consistency"]] == pytest.approx(losses, rel=1e-6)


def test_values_that_are_not_finite_count_as_skipped_and_in_no_mean(tmp_path: Path) -> None:
    class Broken(Stream):
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            for x0, label in super().__iter__():
                yield (x0 * math.nan if self.images_seen == 32 else x0), label

    class BrokenData(TinyData):
        def train_dataloader(self) -> torch.utils.data.DataLoader:
            return torch.utils.data.DataLoader(Broken(0, self.image_shape), batch_size=None)

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
        assert [step for step, _ in points[f"inversion_error/{name}"]] == drawn
        assert [step for step, _ in points[f"inversion_noise_ratio/{name}"]] == drawn


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

    options = dict(pairs=GridPairs(DoublingSteps(4, 32)), distance=PseudoHuber(), total_images=TOTAL)
    options |= dict(weight=InverseGap(), target_weight=InverseGap(), num_classes=3)
    fit(tmp_path, Asked(TinyNetwork, (1, 4, 4), **options), SampleGrids(seeds=7, steps=(1,), min_side=4))
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
    assert values["data.image_shape"].string_value == "(1, 4, 4)"
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
    assert dict(flatten({"make": torch.optim.Adam})) == {"make": "Adam"}
    assert dict(flatten({"make": partial(torch.optim.Adam, lr=0.1)})) == {"make": "Adam", "make.lr": 0.1}


def test_what_validation_keeps_from_the_logger_stands_at_images_seen(tmp_path: Path) -> None:
    class Validated(BCMModule):
        def validation_step(self, batch, batch_idx: int) -> None:
            self.log("val/loss", 2.5, logger=False)
            self.log("val/other", 3.5)  # this one Lightning writes itself

    class ValidatedData(TinyData):
        def val_dataloader(self) -> torch.utils.data.DataLoader:
            return self.train_dataloader()

    options = dict(pairs=GridPairs(DoublingSteps(4, 32)), distance=PseudoHuber(), total_images=TOTAL)
    module = Validated(TinyNetwork, (1, 4, 4), weight=InverseGap(), target_weight=InverseGap(), **options)
    often = dict(val_check_interval=4, limit_val_batches=1, check_val_every_n_epoch=None)
    points = scalars(fit(tmp_path, module, TrainingCurves(), data=ValidatedData(), **often))
    assert points["val/loss"] == [(32, 2.5), (64, 2.5), (96, 2.5)]
    assert len(points["val/other"]) == 3


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
