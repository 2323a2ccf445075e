"""Datamodules: batches (x0 in [-1, 1], label), from memory and on the device."""

from datamodules.digits import DigitsDataModule

__all__ = ["DigitsDataModule"]
