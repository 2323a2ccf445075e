"""What `search-schedule` minimises of sampling: the distance of images made through levels to the training split."""

import argparse
from functools import cached_property
from typing import Any

import torch

from cli.level_score import LevelScore
from cli.run_files import run_directory
from cli.schedule_file import Schedule, level_range, own_levels, schedule_yaml, set_levels
from evaluation.classifier import ClassifierFeatures
from evaluation.distances import Moments, frechet_distance, moments
from evaluation.features import extract, feature_network_for
from evaluation.generate import draw_labels, generate
from evaluation.protocol import library_versions, seed_ranges
from evaluation.real_features import tensor_sha256
from evaluation.schedule_search import Levels
from evaluation.scorer import class_counts
from evaluation.scores import QUANTISATION
from lightning_modules.checkpoint import file_sha256

CACHE = "schedule_search.json"


class ScheduleScore(LevelScore):
    """The judge's Frechet distance, always of the same seeds and classes.

    It equals what `test` would print for these seeds.

    Args:
        module: the method, in evaluation mode.
        data: its datamodule.
        device: where the module is.
        options: of the command: ckpt_path, batch_size, num_images, first_seed, inception_weights, cache.
    """

    def __init__(self, module: Any, data: Any, device: torch.device, options: argparse.Namespace):
        self.module, self.device, self.batch_size = module, device, options.batch_size
        self.judge = feature_network_for(module.image_shape, options.inception_weights)
        name = f"fd_{self.judge.name}" if isinstance(self.judge, ClassifierFeatures) else "fid"
        self.images, self.labels = data.uint8_images("train")
        count = options.num_images or self.judge.default_images(len(self.images))
        self.judged, self.compared = self.judge.compared(count, len(self.images))
        self.seeds, self.wanted = range(options.first_seed, options.first_seed + count), None
        if module.num_classes:
            self.wanted = draw_labels(self.seeds, class_counts(self.labels, module.num_classes))
        context = {
            "score": name,
            "checkpoint": file_sha256(options.ckpt_path),
            "seeds": seed_ranges(self.seeds),
            "classes": None if self.wanted is None else tensor_sha256(self.wanted),
            "features": self.judge.sha256,
            "training_images": tensor_sha256(self.images),
            "compared": [self.judged, self.compared],
            "device": device.type,
        }
        cache = options.cache or run_directory(options.ckpt_path) / CACHE
        super().__init__(name, level_range(module), cache, context)

    @property
    def protocol(self) -> str:
        """How the score is made, in one line."""
        return (
            f"{self.name} of {self.judged} images (seeds {seed_ranges(self.seeds)}) against {self.compared} of the "
            f"training split; features {self.judge.name} (sha256 {self.judge.sha256[:12]}), resize "
            f"{self.judge.resize}, {QUANTISATION}, {library_versions()}"
        )

    @cached_property
    def reference(self) -> Moments:
        """Of the training split; not needed where all scores are known."""
        features = extract(self.judge, self.images, self.batch_size, self.device)
        self.judge.check(features, self.labels)
        return moments(features.subset(self.compared).features)

    def own(self, steps: int) -> Levels | None:
        return own_levels(self.module, steps)

    def remarks(self, best: Levels) -> list[str]:
        return []

    def file(self, best: Levels, remarks: list[str]) -> str:
        return schedule_yaml(Schedule(type(self.module).__name__, best), remarks)

    def uses(self, chosen: str) -> list[str]:
        return [f"test {chosen}", f"sample {chosen} --seeds 0-63 --out samples/"]

    def measure(self, levels: Levels) -> float:
        """Generate through the levels, and score."""
        reference = self.reference
        set_levels(self.module, levels)
        images = generate(
            self.module.sample,
            self.seeds,
            self.module.image_shape,
            steps=len(levels),
            label=self.wanted,
            batch_size=self.batch_size,
            device=self.device,
        )
        features = extract(self.judge, images, self.batch_size, self.device).first(self.judged)
        return frechet_distance(moments(features.features), reference)
