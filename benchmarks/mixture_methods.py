"""The methods of the mixture benchmark: one network, one optimizer, one teacher, and each method's own setting.

All settings but these were the same for all methods; see docs/results.md for what was tried.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule

from datamodules.toy import GaussianMixture, ToyDataModule
from diffusion.curricula import ConstantSteps, CosineDecay, ECTGap
from diffusion.distances import PseudoHuber, SquaredL2
from diffusion.exact import GaussianMixtureDenoise
from diffusion.levels import LogNormal, UniformRho
from diffusion.ode_samplers import Heun
from diffusion.pairs import ContinuousPairs
from diffusion.paths import GridPaths, PairPaths
from diffusion.weightings import InverseGap, TruncatedSNR
from lightning_modules import CDModule, CTMModule, CTModule, KDModule, PDModule
from lightning_modules.teacher_pairs import FreshPairs
from networks import MLP

TOY = GaussianMixture()
EXACT = GaussianMixtureDenoise(TOY.means, TOY.std)
GAP = ContinuousPairs(ECTGap(q=2.0, stages=5), UniformRho())
DISTANCE, WEIGHT = PseudoHuber(0.03, per_root_dim=True), InverseGap()


def shared(images: int, seed: int, bidirectional: bool = False) -> dict[str, Any]:
    """What all methods share."""
    return {
        "network": partial(MLP, width=128, depth=3, embedding_channels=64, bidirectional=bidirectional),
        "image_shape": ToyDataModule.image_shape,
        "total_images": images,
        "optimizer": partial(torch.optim.Adam, lr=2e-3, betas=(0.9, 0.99), fused=True),
        "lr_factor": CosineDecay(warmup=0.01, final=0.02),
        "ema_rates": (0.999,),
        "seed": seed,
    }


def ct(images: int, seed: int) -> CTModule:
    """ECT's gaps, without a teacher."""
    return CTModule(pairs=GAP, distance=DISTANCE, weight=WEIGHT, **shared(images, seed))


def cd(images: int, seed: int) -> CDModule:
    """CT's levels, distance and weight, the exact denoiser's Heun step in the place of the true x0."""
    return CDModule(teacher=EXACT, paths=PairPaths(GAP), distance=DISTANCE, weight=WEIGHT, **shared(images, seed))


def pd(images: int, seed: int) -> PDModule:
    """From the exact denoiser's 32 DDIM steps."""
    options = shared(images, seed) | {"ema_rates": (0.0,)}  # a stage hands over its last weights
    return PDModule(teacher=EXACT, distance=SquaredL2(), weight=TruncatedSNR(), **options)


def ctm(images: int, seed: int) -> CTMModule:
    """CTM's paths on 17 intervals, without its discriminator."""
    return CTMModule(
        teacher=EXACT,
        paths=GridPaths(ConstantSteps(17), max_jump=17),
        distance=SquaredL2(),
        levels=LogNormal(-1.2, 1.2),
        target_rate=0.0,
        **shared(images, seed, bidirectional=True),
    )


def kd(images: int, seed: int) -> KDModule:
    """Regression on the exact denoiser's own solutions, Heun with 63 evaluations: what the network can do at all."""
    return KDModule(teacher=EXACT, pairs=FreshPairs(Heun(), 63), **shared(images, seed))


METHODS: dict[str, Callable[[int, int], LightningModule]] = {"CT": ct, "CD": cd, "PD": pd, "CTM": ctm, "KD": kd}
