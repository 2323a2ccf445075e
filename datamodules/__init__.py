"""Datamodules: batches (x0 in [-1, 1], label), from memory and on the device."""

from datamodules.digits import DigitsDataModule
from datamodules.encoded import Limits
from datamodules.images import ImageDataModule
from datamodules.toy import Checkerboard, Gaussian, GaussianGrid, GaussianMixture, ToyDataModule, TwoMoons

__all__ = [
    "Checkerboard",
    "DigitsDataModule",
    "Gaussian",
    "GaussianGrid",
    "GaussianMixture",
    "ImageDataModule",
    "Limits",
    "ToyDataModule",
    "TwoMoons",
]
