"""Datamodules: batches (x0 in [-1, 1], label), from memory and on the device."""

from datamodules.digits import DigitsDataModule
from datamodules.encoded import Limits
from datamodules.images import ImageDataModule
from datamodules.toy import Checkerboard, Gaussian, GaussianMixture, ToyDataModule, TwoMoons

__all__ = [
    "Checkerboard",
    "DigitsDataModule",
    "Gaussian",
    "GaussianMixture",
    "ImageDataModule",
    "Limits",
    "ToyDataModule",
    "TwoMoons",
]
