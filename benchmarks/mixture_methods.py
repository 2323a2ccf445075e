"""The methods of the mixture benchmark: one network, one optimizer, one teacher, and each method's own setting.

What is set here was the best of what was tried, docs/results.md says what.
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
from diffusion.weightings import ConstantGap, InverseGap, TruncatedSNR
from lightning_modules import CDModule, CTMModule, CTModule, KDModule, PDModule
from lightning_modules.teacher_pairs import FreshPairs
from networks import MLP

TOY = GaussianMixture()
EXACT = GaussianMixtureDenoise(TOY.means, TOY.std)
GAP = ContinuousPairs(ECTGap(q=2.0, stages=5), UniformRho())
SMALL_GAPS = {"distance": PseudoHuber(0.003, per_root_dim=True), "weight": InverseGap()}
LONG_PATHS = {"paths": GridPaths(ConstantSteps(32), max_jump=32, power=8.0), "distance": PseudoHuber(0.03, True)}


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
    return CTModule(pairs=GAP, **SMALL_GAPS, **shared(images, seed))


def cd(images: int, seed: int) -> CDModule:
    """CT's levels, distance and weight; one Heun step of the exact denoiser in the place of the true x0."""
    return CDModule(teacher=EXACT, paths=PairPaths(GAP), **SMALL_GAPS, **shared(images, seed))


def cd_long(images: int, seed: int) -> CDModule:
    """Many Heun steps between the two levels, most often nearly all the way down."""
    return CDModule(teacher=EXACT, weight=ConstantGap(), **LONG_PATHS, **shared(images, seed))


def pd(images: int, seed: int) -> PDModule:
    """From the exact denoiser's 32 DDIM steps."""
    options = shared(images, seed) | {"ema_rates": (0.0,)}  # a stage hands over its last weights
    return PDModule(teacher=EXACT, distance=SquaredL2(), weight=TruncatedSNR(), **options)


def ctm(images: int, seed: int) -> CTMModule:
    """The same paths, and a level to jump to; without the paper's discriminator."""
    options = shared(images, seed, bidirectional=True)
    return CTMModule(teacher=EXACT, levels=LogNormal(-1.2, 1.2), target_rate=0.0, **LONG_PATHS, **options)


def kd(images: int, seed: int) -> KDModule:
    """Regression on the exact denoiser's own solutions, Heun with 63 evaluations: what the network can do at all."""
    return KDModule(teacher=EXACT, pairs=FreshPairs(Heun(), 63), **shared(images, seed))


METHODS: dict[str, Callable[[int, int], LightningModule]] = {
    "CT": ct,
    "CD": cd,
    "CD-long": cd_long,
    "PD": pd,
    "CTM": ctm,
    "KD": kd,
}
