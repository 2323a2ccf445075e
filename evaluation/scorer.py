"""The callback that scores a model at the end of `test`."""

from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from diffusion.denoisers import BidirectionalDenoiser
from diffusion.rng import ImageNoise
from evaluation.features import FeatureNetwork, extract, feature_network_for
from evaluation.generate import Meter, draw_labels, generate
from evaluation.inversion import InversionScore, score_inversion
from evaluation.protocol import Source, seed_ranges
from evaluation.real_features import FOLDER, real_features
from evaluation.reference import Reference, read_reference
from evaluation.report import describe_levels, print_report, scalars, write_json
from evaluation.scores import Score, floors, score, score_by_moments

CPU = torch.device("cpu")


class Scorer(Callback):
    """Generates from the EMA weights, scores against both splits, prints tables, writes JSON, logs scalars.

    Images come from seeds 0 to num_images - 1; the work is divided among the processes. A bidirectional model is
    inverted as well, through each of the module's `inversions`.

    Args:
        features: the judge; by default `feature_network_for` the image shape.
        steps: network evaluations to score, one row each; by default 1, 2, 4 and the method's own default, as far as it
            has a sampler for them.
        num_images: images to generate; by default 2,000 for the classifiers, and for Inception as many as the
            training split has, at most 50,000.
        inception_weights: file of Inception's weights, for images that are neither 8x8 nor 28x28 grey.
        reference: an npz file of `mu` and `sigma` in EDM's layout, as of the command `reference`: the Frechet distance
            to it is scored beside those to the data's own splits. Scores that need a reference's features are not.
        cache: whether the features of real images are kept in the folder real_features beside the runs.
        batch_size: images per forward pass.
        out: the JSON file; by default scores.json in the run's directory.
    """

    def __init__(
        self,
        features: FeatureNetwork | None = None,
        steps: Sequence[int] | None = None,
        num_images: int | None = None,
        inception_weights: str | None = None,
        reference: str | None = None,
        cache: bool = True,
        batch_size: int = 500,
        out: str | None = None,
    ):
        if steps is not None and (len(steps) == 0 or min(steps) < 1):
            raise ValueError(f"steps={list(steps)}: at least one number of evaluations, each >= 1, is needed")
        if num_images is not None and num_images < 10:
            raise ValueError(f"num_images={num_images}: at least 10 are needed")
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: it must be at least 1")
        self.features, self.num_images = features, num_images
        self.steps = None if steps is None else tuple(steps)
        self.inception_weights, self.batch_size, self.out = inception_weights, batch_size, out
        self.reference, self.cache = reference, cache
        self.known: Reference | None = None
        self.scores: list[Score] = []
        self.inversions: list[InversionScore] = []

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Find the judge and read the reference before anything is computed, so that what is missing is told at once.

        Raises:
            ValueError: there are no weights, or the reference is not of the judge's features.
        """
        points = tuple(pl_module.image_shape[1:]) == (1, 1)
        if stage == "test" and self.features is None and not points:
            self.features = feature_network_for(pl_module.image_shape, self.inception_weights)
        if stage == "test" and self.features is not None and self.reference is not None:
            self.known = read_reference(self.reference, self.features)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Score, on all processes; process 0 reports."""
        judge, device, size = self.features, pl_module.device, self.batch_size
        if judge is None:
            rank_zero_info("No scores: they are defined for images, and these data are points.")
            return
        if hasattr(pl_module, "restore"):
            rank_zero_info("No scores: this model makes no images of its own. python main.py restore scores it.")
            return
        evaluations = sampled_steps(pl_module, self.steps)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        train_images, train_labels = data.uint8_images("train")
        test_images, test_labels = data.uint8_images("test")
        folder = Path(trainer.default_root_dir) / FOLDER if self.cache else None
        train = real_features(judge, train_images, folder, size, device)
        test = real_features(judge, test_images, folder, size, device)
        judge.check(test, test_labels)

        count = self.num_images or judge.default_images(len(train))
        seeds = range(count)
        label = wanted_labels(pl_module, seeds, train_labels)
        made = []
        for steps in evaluations:
            images, source = generated(pl_module, seeds, steps, label, size, device)
            made.append((source, extract(judge, images, size, device)))
        self.inversions = score_inversions(pl_module, *random_part(test_images, test_labels, count), size)
        directory = trainer.log_dir or trainer.default_root_dir  # asks all processes
        if not trainer.is_global_zero:
            return

        self.scores = [
            score(judge, features, reference, source, split, label, device)
            for source, features in made
            for split, reference in (("train", train), ("test", test))
        ]
        if self.known is not None:
            self.scores += [score_by_moments(judge, features, self.known, source, label) for source, features in made]
        real = floors(judge, train, test, device, most=count, reference=self.known)
        print_report([*self.scores, *real], self.inversions)
        for logger in trainer.loggers:
            logger.log_metrics(scalars(self.scores, self.inversions), step=pl_module.images_seen)
        path = Path(self.out) if self.out else Path(directory) / "scores.json"
        write_json(path, self.as_dict(trainer, pl_module, real))
        if self.known is not None:
            missing = ", ".join(name for name in self.scores[0].distances if name not in self.scores[-1].distances)
            print(f"{self.reference}: compared by mean and covariance alone, without {missing}")
        print(f"Scores written to {path}")

    def as_dict(self, trainer: Trainer, pl_module: Any, real: Sequence[Score]) -> dict[str, Any]:
        """The content of scores.json."""
        return {
            "module": type(pl_module).__name__,
            "checkpoint": None if trainer.ckpt_path is None else str(trainer.ckpt_path),
            "images_seen": pl_module.images_seen,
            "scores": [score.as_dict() for score in self.scores],
            "floors": [score.as_dict() for score in real],
            "inversions": [inversion.as_dict() for inversion in self.inversions],
        }


def sampled_steps(pl_module: Any, wanted: Sequence[int] | None) -> list[int]:
    """The numbers of evaluations to score, each tried on one image.

    Args:
        pl_module: the method.
        wanted: what the user asked for; None for all of 1, 2, 4 and the method's default that it can do.

    Raises:
        ValueError: the method's own, if it cannot do what was asked for.
    """
    default = signature(pl_module.sample).parameters["steps"].default
    offered, label = [], torch.zeros(1, dtype=torch.int64, device=pl_module.device) if pl_module.num_classes else None
    for steps in wanted or sorted({1, 2, 4} | ({default} if isinstance(default, int) else set())):
        try:
            with torch.inference_mode():
                pl_module.sample(ImageNoise([0], pl_module.image_shape, pl_module.device), steps, label)
            offered.append(steps)
        except ValueError:
            if wanted:
                raise
    return offered


def wanted_labels(pl_module: Any, seeds: Sequence[int], train_labels: Tensor | None) -> Tensor | None:
    """The classes (N,) that images of these seeds are to have, as often as the training data have them.

    None for a model that is told none.
    """
    if not pl_module.num_classes:
        return None
    return draw_labels(seeds, class_counts(train_labels, pl_module.num_classes))


def generated(
    pl_module: Any,
    seeds: Sequence[int],
    steps: int,
    label: Tensor | None,
    batch_size: int,
    device: torch.device = CPU,
) -> tuple[Tensor, Source]:
    """Images (N, C, H, W) uint8 of the EMA weights, as `evaluation.generate.generate`, and how they were made."""
    meter = Meter(pl_module.ema_denoiser.network)
    images = generate(
        pl_module.sample,
        seeds,
        pl_module.image_shape,
        steps=steps,
        label=label,
        batch_size=batch_size,
        device=device,
        meter=meter,
    )
    source = Source(
        name=f"{type(pl_module).__name__}, {steps} step{'s' * (steps > 1)}",
        steps=steps,
        sampling=describe_sampling(pl_module, steps),
        nfe=meter.nfe,
        seconds_per_image=meter.seconds_per_image,
        batch_size=min(batch_size, len(seeds)),
        seeds=seed_ranges(seeds),
        ema_rate=pl_module.ema.rates[0],
        images_seen=pl_module.images_seen,
        training_seconds=getattr(pl_module, "training_seconds", 0.0) or None,
        device=device_name(device),
        dtype=str(next(pl_module.ema_denoiser.parameters()).dtype).removeprefix("torch."),
    )
    return images, source


def describe_sampling(pl_module: Any, steps: int) -> str | None:
    """What a module's `sample` does with so many evaluations: the levels it visits, or its sampler."""
    if hasattr(pl_module, "sampler"):
        guidance = getattr(pl_module, "guidance", None)
        return f"{pl_module.sampler}, {guidance}" if guidance else str(pl_module.sampler)
    for levels in getattr(pl_module, "schedules", ()):
        if len(levels) == steps:
            return describe_levels(levels)
    return next((str(plan) for plan in getattr(pl_module, "plans", ()) if plan.steps == steps), None)


def score_inversions(pl_module: Any, images: Tensor, labels: Tensor | None, batch_size: int) -> list[InversionScore]:
    """Each of the module's ways of inversion."""
    denoise, label = pl_module.ema_denoiser, labels if pl_module.num_classes else None
    return [
        score_inversion(denoise, images, levels, label=label, batch_size=batch_size, device=pl_module.device)
        for levels in inversions_of(pl_module)
    ]


def inversions_of(pl_module: Any) -> Sequence[Sequence[float]]:
    """The levels of each way of inversion; none where its denoiser goes in one direction only."""
    return pl_module.inversions if isinstance(pl_module.ema_denoiser, BidirectionalDenoiser) else ()


def random_part(images: Tensor, labels: Tensor | None, n: int) -> tuple[Tensor, Tensor | None]:
    """At most n of the images with their labels, at random, always the same."""
    rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:n]
    return images[rows], None if labels is None else labels[rows]


def class_counts(labels: Tensor | None, num_classes: int) -> Tensor:
    """Images of each class (num_classes,)."""
    if labels is None:
        raise ValueError(f"num_classes={num_classes}, but the data have no labels to draw classes from")
    return torch.bincount(labels.cpu(), minlength=num_classes)


def device_name(device: torch.device) -> str:
    """What the device is called, e.g. "cpu" or "cuda (NVIDIA H200)"."""
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type
