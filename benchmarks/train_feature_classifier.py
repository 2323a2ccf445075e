"""Train a classifier that judges generated images, and write it to evaluation/weights/.

    python -m benchmarks.train_feature_classifier digits --seed 0 1 2
    python -m benchmarks.train_feature_classifier mnist --seed 0 1 2 \\
        --train mnist/train.parquet --test mnist/test.parquet
    python -m benchmarks.train_feature_classifier cifar10 --seed 0 1 2 --device cuda \\
        --train cifar10/train.parquet --test cifar10/test.parquet

Seeds 0, 1 and 2 make the three judges that ship. A classifier sees the real training split alone, with a random change
of each image. Length and network are fixed here; the test accuracy is printed, kept in the file, and below the recipe's
least nothing is written. On a CPU a seed decides the weights, but another CPU or torch version gives other last digits,
and so other weights. On a GPU, where training runs in bfloat16, two runs of a seed differ.
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

Split = tuple[Tensor, Tensor]
"""Images (N, C, H, W) uint8 and labels (N,)."""


@dataclass(frozen=True)
class Affine:
    """A random affine map of each image."""

    rotation: float = 0.2  # radians, each to either side
    scale: float = 0.12
    shear: float = 0.15
    shift: float = 0.125  # of half the image

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """x (B, C, H, W) on the generator's device -> as many images."""

        def uniform(reach: float) -> Tensor:
            return (2 * torch.rand(len(x), generator=generator, device=x.device) - 1) * reach

        angle, scale, shear = uniform(self.rotation), 1 + uniform(self.scale), uniform(self.shear)
        rows = [
            torch.stack([scale * angle.cos(), shear - angle.sin(), uniform(self.shift)], 1),
            torch.stack([angle.sin(), scale * angle.cos(), uniform(self.shift)], 1),
        ]
        grid = F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


@dataclass(frozen=True)
class FlipAndShift:
    """Half of the images mirrored, and each moved by whole pixels over a reflected border: nothing is blurred."""

    shift: int = 4  # pixels, each to either side

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """x (B, C, H, W) on the generator's device -> as many images."""
        (n, _, height, width), device = x.shape, x.device

        def draw(count: int) -> Tensor:
            return torch.randint(count, (n, 1), generator=generator, device=device)

        rows = draw(2 * self.shift + 1) + torch.arange(height, device=device)
        columns = torch.arange(width, device=device)
        columns = draw(2 * self.shift + 1) + torch.where(draw(2) == 1, columns.flip(0), columns)
        image = torch.arange(n, device=device).view(n, 1, 1)
        padded = F.pad(x, (self.shift,) * 4, mode="reflect")
        return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Recipe:
    """What decides the weights."""

    width: int
    pool: int
    epochs: int
    augment: Affine | FlipAndShift
    stages: int = 2
    features: int = 32
    batch_size: int = 64
    max_lr: float = 4e-3
    weight_decay: float = 0.05
    seed: int = 0
    min_accuracy: float = MIN_ACCURACY
    half: bool = False  # whether the weights are stored as float16

    @property
    def network(self) -> dict[str, int]:
        """The arguments of `FeatureClassifier` beside the image shape."""
        return {"width": self.width, "features": self.features, "pool": self.pool, "stages": self.stages}


RECIPES = {
    "digits": Recipe(width=24, pool=2, epochs=60, augment=Affine()),
    "mnist": Recipe(width=16, pool=3, epochs=3, augment=Affine(0.15, 0.08, 0.1, 0.07), batch_size=128),
    "cifar10": Recipe(
        width=48,
        pool=2,
        epochs=50,
        augment=FlipAndShift(),
        stages=3,
        features=64,
        batch_size=512,
        max_lr=5e-3,
        weight_decay=0.1,
        min_accuracy=0.88,
        half=True,
    ),
}
COLUMNS = {"mnist": ("image", "L"), "cifar10": ("img", "RGB")}
"""The column of encoded images, and PIL's name of their channels, of what is read from parquet."""


def digits() -> tuple[Split, Split]:
    """Both splits, of images (N, 1, 8, 8)."""
    from datamodules.digits import DigitsDataModule

    data = DigitsDataModule()
    return data.uint8_images("train"), data.uint8_images("test")


def parquet(path: Path, column: str, channels: str) -> Split:
    """The images and labels of a parquet file in the layout of the Hugging Face Hub."""
    import pyarrow.parquet as pq
    from PIL import Image

    table = pq.read_table(path)
    encoded = table.column(column).to_pylist()
    images = [np.atleast_3d(Image.open(io.BytesIO(item["bytes"])).convert(channels)) for item in encoded]
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return x, torch.tensor(table.column("label").to_pylist())


def train(images: Tensor, y: Tensor, recipe: Recipe, device: torch.device | str = "cpu") -> FeatureClassifier:
    """Train on images (N, C, H, W) uint8 with labels y (N,), all of them held on the device."""
    device = torch.device(device)
    on_gpu = device.type == "cuda"
    images, y = images.to(device), y.to(device)
    torch.manual_seed(recipe.seed)
    generator = torch.Generator(device).manual_seed(recipe.seed)
    network = FeatureClassifier(tuple(images.shape[1:]), **recipe.network).to(device)
    if on_gpu:
        network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=recipe.weight_decay)
    steps = math.ceil(len(images) / recipe.batch_size) * recipe.epochs
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.max_lr, total_steps=steps)
    for _ in range(recipe.epochs):
        for rows in torch.randperm(len(images), generator=generator, device=device).split(recipe.batch_size):
            x = recipe.augment(from_uint8(images[rows]), generator)
            with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu):
                loss = F.cross_entropy(network(x)[1], y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


@torch.inference_mode()
def outputs(network: FeatureClassifier, images: Tensor) -> Split:
    """Features and logits of images (N, C, H, W) uint8, on the CPU."""
    device = network.head.weight.device
    parts = [network(from_uint8(batch.to(device))) for batch in images.split(1000)]
    return torch.cat([p[0] for p in parts]).cpu(), torch.cat([p[1] for p in parts]).cpu()


def write(path: Path, name: str, network: FeatureClassifier, recipe: Recipe, images: Tensor, test: Split) -> None:
    """Measure a trained classifier with the weights as they are stored, and write its file.

    Args:
        path: the file.
        name: of the data, and so of the scores.
        network: trained by the recipe; its weights are rounded where the recipe says so.
        recipe: how it was trained.
        images: the training split's, whose features are standardised.
        test: the test split.

    Raises:
        SystemExit: the accuracy is below the recipe's least; nothing is written.
    """
    stored = torch.float16 if recipe.half else torch.float32
    network.to(stored).to(torch.float32)
    features, _ = outputs(network, images)
    _, logits = outputs(network, test[0])
    accuracy, log_loss = float((logits.argmax(1) == test[1]).double().mean()), float(F.cross_entropy(logits, test[1]))
    reading = read(logits)
    print(f"{len(logits)} test images: accuracy {accuracy:.4f}, log loss {log_loss:.4f}")
    print(f"read with confidence over {CONFIDENT}: {reading.confident:.4f}, mean confidence {reading.confidence:.4f}")
    if accuracy < recipe.min_accuracy:
        raise SystemExit(f"test accuracy {accuracy:.4f} is below {recipe.min_accuracy}: nothing is written")

    about = {
        "name": name,
        "image_shape": list(images.shape[1:]),
        "network": recipe.network,
        "min_accuracy": recipe.min_accuracy,
        "test_accuracy": accuracy,
        "test_confident": reading.confident,
        "train_images": len(images),
        "test_images": len(logits),
        "recipe": asdict(recipe),
    }
    tensors = {
        key: value.to("cpu", stored if value.is_floating_point() else value.dtype).contiguous()
        for key, value in network.state_dict().items()
    }
    tensors |= {"mean": features.double().mean(0).float(), "std": features.double().std(0).float()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"classifier": json.dumps(about)})
    print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB")


def main() -> None:
    """Train, test, and write, one seed after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=sorted(RECIPES))
    parser.add_argument("--train", type=Path, help="parquet file, of all but digits")
    parser.add_argument("--test", type=Path, help="parquet file, of all but digits")
    parser.add_argument("--seed", type=int, nargs="+", default=[0], help="of weights, order and augmentation")
    parser.add_argument("--device", type=torch.device, default="cpu")
    parser.add_argument("--out", type=Path, help="folder to write to; by default that of the shipped files")
    arguments = parser.parse_args()
    name, device = arguments.data, arguments.device
    if name in COLUMNS and not (arguments.train and arguments.test):
        parser.error(f"{name} needs --train and --test")
    torch.set_num_threads(1)  # the order of sums, and so the weights, depend on it
    torch.use_deterministic_algorithms(device.type == "cpu")  # on a GPU some of the steps have no such algorithm
    torch.backends.cudnn.allow_tf32 = False  # a judge is measured in float32

    if name in COLUMNS:
        (images, y), test = (parquet(path, *COLUMNS[name]) for path in (arguments.train, arguments.test))
    else:
        (images, y), test = digits()
    for seed in arguments.seed:
        recipe, start = replace(RECIPES[name], seed=seed), time.perf_counter()
        network = train(images, y, recipe, device)
        file = weights(name, seed)
        write(arguments.out / file.name if arguments.out else file, name, network, recipe, images, test)
        print(f"trained on {len(images)} images and measured in {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
