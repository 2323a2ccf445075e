"""What `search-schedule` minimises: the distance of images sampled through given levels to the training split."""

import argparse
import time
from functools import cached_property
from typing import Any

import torch

from cli.run_files import run_directory
from cli.schedule_file import levels_text, set_levels
from cli.score_cache import ScoreCache
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


class ScheduleScore:
    """The objective of a search: the judge's Frechet distance, always of the same seeds and classes.

    A score is looked up in the cache first, is kept there, and is printed as a row. It equals what `test` would print
    for these seeds.

    Args:
        module: the method, in evaluation mode.
        data: its datamodule.
        device: where the module is.
        options: of the command: ckpt_path, batch_size, num_images, first_seed, inception_weights, cache.
    """

    def __init__(self, module: Any, data: Any, device: torch.device, options: argparse.Namespace):
        self.module, self.device, self.batch_size = module, device, options.batch_size
        self.judge = feature_network_for(module.image_shape, options.inception_weights)
        self.name = f"fd_{self.judge.name}" if isinstance(self.judge, ClassifierFeatures) else "fid"
        self.images, self.labels = data.uint8_images("train")
        count = options.num_images or self.judge.default_images(len(self.images))
        self.judged, self.compared = self.judge.compared(count, len(self.images))
        self.seeds, self.wanted = range(options.first_seed, options.first_seed + count), None
        if module.num_classes:
            self.wanted = draw_labels(self.seeds, class_counts(self.labels, module.num_classes))
        self.checkpoint = file_sha256(options.ckpt_path)
        context = {
            "score": self.name,
            "checkpoint": self.checkpoint,
            "seeds": seed_ranges(self.seeds),
            "classes": None if self.wanted is None else tensor_sha256(self.wanted),
            "features": self.judge.sha256,
            "training_images": tensor_sha256(self.images),
            "compared": [self.judged, self.compared],
            "device": device.type,
        }
        self.cache = ScoreCache(options.cache or run_directory(options.ckpt_path) / CACHE, context)
        self.rows = self.new = 0

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

    def __call__(self, levels: Levels) -> float:
        start, score, how = time.monotonic(), self.cache.get(levels), "known"
        if score is None:
            score = self.measure(levels)
            self.cache.put(levels, score)
            self.new += 1
            how = f"{time.monotonic() - start:.1f} s"
        if self.rows == 0:
            print(f"{'':>4}  {'levels':<36}{self.name:>12}")
        self.rows += 1
        print(f"{self.rows:>4}  {levels_text(levels):<36}{score:>12.4f}  {how}", flush=True)
        return score

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
