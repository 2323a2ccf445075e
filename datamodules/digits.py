"""scikit-learn's handwritten digits: 1,797 real 8x8 images inside its wheel, so nothing is downloaded."""

import torch

from datamodules.loader import to_uint8
from datamodules.memory import InMemoryDataModule, Split


class DigitsDataModule(InMemoryDataModule):
    """The digits, 1,437 for training and 360 held out, stratified by class.

    The 17 grey values v = 0..16 become uint8 floor(127.5 (v/8 - 1) + 128).

    Args:
        batch_size: of the global batch.
        seed: of the order of training, >= 0.
        conditional: give the ten classes to the model.
        split_seed: of the split, >= 0; the split does not depend on `seed`.
    """

    image_shape = (1, 8, 8)
    source = "scikit-learn's digits"

    def __init__(self, batch_size: int = 256, seed: int = 0, conditional: bool = False, split_seed: int = 0):
        super().__init__(batch_size, seed)
        self.save_hyperparameters(logger=False)
        self.num_classes = 10 if conditional else 0
        self.split_seed = split_seed

    def load_split(self, split: str) -> Split:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        train, test = train_test_split(
            range(len(digits.target)), test_size=360, stratify=digits.target, random_state=self.split_seed
        )
        index = train if split == "train" else test
        images = torch.from_numpy(digits.images[index]).float()[:, None]
        return to_uint8(images / 8 - 1), torch.from_numpy(digits.target[index]).long()
