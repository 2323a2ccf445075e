"""What `search-schedule --inversion` minimises: the error of training images that were inverted and made again."""

import argparse
from typing import Any

import torch

from cli.errors import UsageError
from cli.inversion_file import InversionSchedule
from cli.level_score import LevelScore
from cli.run_files import run_directory
from cli.schedule_file import levels_text
from cli.schedule_score import CACHE
from diffusion.denoisers import BidirectionalDenoiser
from evaluation.inversion import InversionScore, score_inversion
from evaluation.protocol import library_versions
from evaluation.real_features import tensor_sha256
from evaluation.schedule_search import Levels
from evaluation.scorer import random_part
from lightning_modules.checkpoint import file_sha256

IMAGES = 500


class InversionLevelScore(LevelScore):
    """The mean squared error per pixel on [0, 1] of a part of the training split, always with the same initial noise.

    Levels are descending, as everywhere in a search, and visited upwards: (sigma_max, s) is an inversion through
    d > s > sigma_max, with the small noise d of the method's own inversions.

    Args:
        module: the method, in evaluation mode.
        data: its datamodule.
        device: where the module is.
        options: of the command: ckpt_path, batch_size, num_images, cache; and both_ways, whether the levels are visited
            on the way back too, which otherwise is one evaluation.

    Raises:
        UsageError: the model leads from noise to data only.
    """

    digits = 6

    def __init__(self, module: Any, data: Any, device: torch.device, options: argparse.Namespace):
        denoise = module.ema_denoiser
        if not isinstance(denoise, BidirectionalDenoiser):
            name = type(module).__name__
            raise UsageError(f"--inversion: a {name} leads from noise to data only; inversion needs a BCMModule")
        self.module, self.device, self.batch_size = module, device, options.batch_size
        self.small, self.both_ways = module.inversions[0][0], options.both_ways
        images, labels = data.uint8_images("train")
        self.images, labels = random_part(images, labels, options.num_images or IMAGES)
        self.labels = labels if module.num_classes else None
        context = {
            "score": "inversion",
            "checkpoint": file_sha256(options.ckpt_path),
            "small": self.small,
            "both_ways": self.both_ways,
            "images": tensor_sha256(self.images),
            "device": device.type,
        }
        cache = options.cache or run_directory(options.ckpt_path) / CACHE
        super().__init__("inversion_error", (max(self.small, denoise.sigma_min), denoise.sigma_max), cache, context)

    @property
    def protocol(self) -> str:
        back = "and back through the same levels" if self.both_ways else "and back in one evaluation"
        return (
            f"inversion_error, mean squared per pixel on [0, 1], of {len(self.images)} training images from noise of "
            f"level {self.small:g} up {back}, {library_versions()}"
        )

    def schedule(self, levels: Levels) -> InversionSchedule:
        """The way of an inversion that descending levels stand for."""
        back = levels[1:] if self.both_ways else ()
        return InversionSchedule(type(self.module).__name__, (self.small, *levels[::-1]), back)

    def text(self, levels: Levels) -> str:
        return levels_text(self.schedule(levels).levels)

    def own(self, steps: int) -> Levels | None:
        offered = [tuple(map(float, levels)) for levels in self.module.inversions]
        return next((o[:0:-1] for o in offered if len(o) == steps + 1 and o[0] == self.small), None)

    def found(self, levels: Levels) -> InversionScore:
        """All that is measured of an inversion."""
        way = self.schedule(levels)
        return score_inversion(
            self.module.ema_denoiser,
            self.images,
            way.levels,
            split="train",
            label=self.labels,
            back=way.back,
            batch_size=self.batch_size,
            device=self.device,
        )

    def measure(self, levels: Levels) -> float:
        return self.found(levels).error

    def remarks(self, best: Levels) -> list[str]:
        found = self.found(best)
        return [
            f"control, denoised and never inverted: {self.number(found.denoising_error)}; standard deviation of the "
            f"noise / {best[0]:g}: {found.noise_ratio:.4f} (1 for a perfect model)"
        ]

    def file(self, best: Levels, remarks: list[str]) -> str:
        return self.schedule(best).yaml(remarks)

    def uses(self, chosen: str) -> list[str]:
        return [f"invert {chosen}"]
