"""What a comparison shows of a method beside its scores: samples from fixed seeds, and test images inverted.

Everything is made once, in a file by its key as the scores are, since it costs network evaluations.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion.pixels import from_uint8, to_uint8
from diffusion.rng import ImageNoise
from diffusion.samplers import inversion_start, invert
from evaluation.files import key_of, read_npz, write_npz
from evaluation.generate import generate
from evaluation.scorer import random_part, wanted_labels

SAMPLES = 32
"""Samples of each grid, from seeds 0 to 31."""
INVERTED = 16
"""Test images that are inverted, with the initial noise of seeds 0 to 15."""


@dataclass(frozen=True)
class Inversion:
    """Test images, their noise, and what one evaluation makes of it; images are (N, C, H, W) uint8.

    Of `noise`, three standard deviations of a standard normal are black and white.
    """

    levels: tuple[float, ...]
    truth: np.ndarray
    back: np.ndarray
    noise: np.ndarray


@dataclass(frozen=True)
class Pictures:
    """What a method shows.

    Args:
        module: name of its class.
        conditional: whether it is told a class.
        samples: (SAMPLES, C, H, W) uint8 by the number of evaluations.
        real: as many images of the test split.
        inversions: one for each of its ways that gives images.
        refused: numbers of evaluations that others are scored with and that it has no sampler for, with its own words.
    """

    module: str
    conditional: bool
    samples: dict[int, np.ndarray]
    real: np.ndarray
    inversions: list[Inversion]
    refused: dict[int, str]


@dataclass(frozen=True)
class Album:
    """Makes a method's pictures, or finds them.

    Args:
        module: in evaluation mode, on the CPU.
        data: the datamodule.
        folder: of the files.
        context: all that decides a picture beside what it is of: the checkpoint, the data, ...
        batch_size: images per forward pass.
    """

    module: Any
    data: Any
    folder: Path
    context: dict[str, Any]
    batch_size: int

    def pictures(
        self, steps: Sequence[int], others: Sequence[int], inversions: Sequence[Sequence[float]] = ()
    ) -> Pictures:
        """All of them.

        Args:
            steps: numbers of evaluations that the method is scored with.
            others: further ones, of other methods.
            inversions: levels of the ways of inversion to show.
        """
        samples = {n: self._known(partial(self._samples, n), samples=[n, SAMPLES])["images"] for n in steps}
        real, _ = self._test_images(SAMPLES)
        shown = [self._known(partial(self._inverted, way), inverted=[*way, INVERTED]) for way in inversions]
        refusals = {n: self._known(partial(self._refusal, n), refusal=n)["reason"] for n in others}
        return Pictures(
            type(self.module).__name__,
            bool(self.module.num_classes),
            samples,
            real.cpu().numpy(),
            [
                Inversion(tuple(way), *(held[name] for name in ("truth", "back", "noise")))
                for way, held in zip(inversions, shown, strict=True)
            ],
            {n: str(reason) for n, reason in refusals.items() if str(reason)},
        )

    def _known(self, make: Callable[[], dict[str, Any]], **kind: Any) -> dict[str, Any]:
        """The arrays of a kind of picture; its file is made where it is not there or damaged."""
        path = self.folder / f"{key_of(self.context | kind)}.npz"
        if path.is_file():
            try:
                return read_npz(path, ("images", "truth", "back", "noise", "reason"))
            except ValueError as error:
                print(f"{error}: made anew", flush=True)
        made = make()
        write_npz(path, made)
        return made

    def _test_images(self, n: int) -> tuple[Tensor, Tensor | None]:
        """n images of the test split (n, C, H, W) uint8 with their labels, at random, always the same."""
        images, labels = self.data.uint8_images("test")
        return random_part(images, labels, n)

    def _samples(self, steps: int) -> dict[str, Any]:
        """From the first seeds, of the classes that scores draw for these."""
        seeds = range(SAMPLES)
        label = wanted_labels(self.module, seeds, self.data.uint8_images("train")[1])
        shape, size = self.module.image_shape, self.batch_size
        images = generate(self.module.sample, seeds, shape, steps=steps, label=label, batch_size=size)
        return {"images": images.numpy()}

    @torch.inference_mode()
    def _inverted(self, levels: Sequence[float]) -> dict[str, Any]:
        """Test images through the levels and back."""
        module, (truth, labels) = self.module, self._test_images(INVERTED)
        label = labels if module.num_classes else None
        initial, denoise = ImageNoise(range(len(truth)), module.image_shape), module.ema_denoiser
        start, visited = inversion_start(from_uint8(truth), levels, initial, denoise.sigma_min)
        noise = invert(denoise, start, visited, label)
        back = denoise(noise, levels[-1], label)
        images = {"truth": truth, "back": to_uint8(back), "noise": to_uint8(noise / levels[-1] / 3)}
        return {name: x.numpy() for name, x in images.items()}

    @torch.inference_mode()
    def _refusal(self, steps: int) -> dict[str, Any]:
        """Why the method has no sampler of so many evaluations; empty if it has one."""
        label = torch.zeros(1, dtype=torch.int64) if self.module.num_classes else None
        try:
            self.module.sample(ImageNoise([0], self.module.image_shape), steps, label)
        except ValueError as error:
            return {"reason": str(error)}
        return {"reason": ""}
