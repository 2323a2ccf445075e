"""Train a classifier that judges generated grey images, and write it to evaluation/weights/.

    python -m benchmarks.train_feature_classifier digits --seed 0
    python -m benchmarks.train_feature_classifier mnist --seed 0 --train mnist/train.parquet --test mnist/test.parquet

Seeds 0, 1 and 2 make the three judges that ship. A classifier sees the real training split alone, turned, scaled,
sheared and shifted a little. Length and network are fixed here; the test accuracy is printed, kept in the file, and
below 97 % nothing is written. Another CPU or torch version gives other last digits, and so other weights.
"""

import argparse
import io
import json
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from diffusion.pixels import from_uint8
from evaluation.classifier import CONFIDENT, MIN_ACCURACY, FeatureClassifier, read, weights


@dataclass(frozen=True)
class Recipe:
    """What decides the weights."""

    width: int
    pool: int
    epochs: int
    batch_size: int = 64
    max_lr: float = 4e-3
    weight_decay: float = 0.05
    seed: int = 0
    rotation: float = 0.2  # radians, each to either side
    scale: float = 0.12
    shear: float = 0.15
    shift: float = 0.125  # of half the image


RECIPES = {
    "digits": Recipe(width=24, pool=2, epochs=60),
    "mnist": Recipe(width=16, pool=3, epochs=3, batch_size=128, rotation=0.15, scale=0.08, shear=0.1, shift=0.07),
}


def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Images (N, 1, 8, 8) uint8 and labels of both splits."""
    from datamodules.digits import DigitsDataModule

    data = DigitsDataModule()
    return data.uint8_images("train"), data.uint8_images("test")


def mnist(path: Path) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 28, 28) uint8 and labels of a parquet file in the layout of the Hugging Face Hub."""
    import pyarrow.parquet as pq
    from PIL import Image

    table = pq.read_table(path)
    encoded = table.column("image").to_pylist()
    images = np.stack([np.asarray(Image.open(io.BytesIO(item["bytes"])).convert("L")) for item in encoded])
    return torch.from_numpy(images).unsqueeze(1), torch.tensor(table.column("label").to_pylist())


def augment(x: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """A random affine map of each image (B, C, H, W)."""

    def uniform(reach: float) -> Tensor:
        return (2 * torch.rand(len(x), generator=generator) - 1) * reach

    angle, scale, shear = uniform(recipe.rotation), 1 + uniform(recipe.scale), uniform(recipe.shear)
    rows = [
        torch.stack([scale * angle.cos(), shear - angle.sin(), uniform(recipe.shift)], 1),
        torch.stack([angle.sin(), scale * angle.cos(), uniform(recipe.shift)], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def train(x: Tensor, y: Tensor, recipe: Recipe) -> FeatureClassifier:
    """Train on images x (N, C, H, W) in [-1, 1] with labels y (N,)."""
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    network = FeatureClassifier(tuple(x.shape[1:]), recipe.width, pool=recipe.pool)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=recipe.weight_decay)
    steps = math.ceil(len(x) / recipe.batch_size) * recipe.epochs
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.max_lr, total_steps=steps)
    for _ in range(recipe.epochs):
        for rows in torch.randperm(len(x), generator=generator).split(recipe.batch_size):
            loss = F.cross_entropy(network(augment(x[rows], recipe, generator))[1], y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


@torch.inference_mode()
def outputs(network: FeatureClassifier, x: Tensor) -> tuple[Tensor, Tensor]:
    """Features and logits of images x (N, C, H, W)."""
    parts = [network(batch) for batch in x.split(1000)]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def main() -> None:
    """Train, test, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=sorted(RECIPES))
    parser.add_argument("--train", type=Path, help="parquet file, for mnist")
    parser.add_argument("--test", type=Path, help="parquet file, for mnist")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation")
    parser.add_argument("--out", type=Path, help="file to write; by default the shipped one of this seed")
    arguments = parser.parse_args()
    name, recipe = arguments.data, replace(RECIPES[arguments.data], seed=arguments.seed)
    if name == "mnist" and not (arguments.train and arguments.test):
        parser.error("mnist needs --train and --test")
    torch.set_num_threads(1)  # the order of sums, and so the weights, depend on it
    torch.use_deterministic_algorithms(True)

    (images, y), (test_images, test_y) = (
        digits() if name == "digits" else (mnist(arguments.train), mnist(arguments.test))
    )
    x, test_x = from_uint8(images), from_uint8(test_images)
    start = time.perf_counter()
    network = train(x, y, recipe)
    print(f"trained on {len(x)} images in {time.perf_counter() - start:.0f} s")

    features, _ = outputs(network, x)
    _, logits = outputs(network, test_x)
    accuracy = float((logits.argmax(1) == test_y).double().mean())
    reading = read(logits)
    print(f"{len(test_x)} test images: accuracy {accuracy:.4f}, log loss {float(F.cross_entropy(logits, test_y)):.4f}")
    print(f"read with confidence over {CONFIDENT}: {reading.confident:.4f}, mean confidence {reading.confidence:.4f}")
    if accuracy < MIN_ACCURACY:
        raise SystemExit(f"test accuracy {accuracy:.4f} is below {MIN_ACCURACY}: nothing is written")

    about = {
        "name": name,
        "image_shape": list(x.shape[1:]),
        "network": {"width": recipe.width, "pool": recipe.pool},
        "test_accuracy": accuracy,
        "test_confident": reading.confident,
        "train_images": len(x),
        "test_images": len(test_x),
        "recipe": asdict(recipe),
    }
    tensors = {key: value.contiguous() for key, value in network.state_dict().items()}
    tensors |= {"mean": features.double().mean(0).float(), "std": features.double().std(0).float()}
    path = arguments.out or weights(name, recipe.seed)
    save_file(tensors, path, metadata={"classifier": json.dumps(about)})
    print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
