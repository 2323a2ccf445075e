"""Images that a command changes: where they come from, their classes and noise, and how results are written."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cli.errors import UsageError
from cli.invert import chosen_test_images

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from torch import Tensor

    from datamodules.encoded import Fault


class Inputs(NamedTuple):
    """What is to be changed: names of the results, images uint8 (N, C, H, W), the seed of each one's noise, and
    their own classes (N,) or None."""

    names: list[str]
    images: "Tensor"
    seeds: list[int]
    labels: "Tensor | None"


def test_images(options: "argparse.Namespace", module: Any) -> Inputs:
    """Test images of the run's data, each with the seed of its own number."""
    options.seeds = options.seeds or list(range(16))
    images, labels = chosen_test_images(options, module)
    return Inputs([f"{seed:06d}" for seed in options.seeds], images, options.seeds, labels)


def read_images(path: Path, resolution: int, channels: int, fault: "Fault | None" = None) -> "tuple[list[str], Tensor]":
    """The images of a file or a folder: their names, and uint8 (N, channels, resolution, resolution).

    Args:
        path: of the file or folder.
        resolution: side in pixels; of an image the central square is taken.
        channels: 1 (grey) or 3 (RGB).
        fault: called with the name and a message for each that cannot be read, in the place of the error.

    Raises:
        UsageError: there is no such file or folder.
        ValueError: one cannot be read, a limit is passed, or none is left.
    """
    import torch

    from datamodules.encoded import EncodedImages, Limits, refuse
    from datamodules.files import read_folder

    limits, fault = Limits(), fault or refuse
    if path.is_dir():
        found = read_folder(path, limits, fault)
    elif path.is_file():
        found = EncodedImages("--input", 1, lambda: iter([(str(path), path.read_bytes)]))
        limits.check(f"--input {path}", "file_bytes", path.stat().st_size)
    else:
        raise UsageError(f"--input {path}: there is no such file or folder")
    files, images = [], []
    for file, made in found.decoded(resolution, channels, limits):
        if isinstance(made, ValueError):
            fault(file, str(made))
        else:
            files.append(file)
            images.append(torch.from_numpy(made))
    if not images:
        raise ValueError(f"{found.source}: no image could be read")
    return files, torch.stack(images)


def given_images(options: "argparse.Namespace", module: Any) -> Inputs:
    """The images of a file or a folder as the model's data are: central square, its size, grey or RGB.

    Raises:
        UsageError: there is no such file; the seeds are not as many; or a result would overwrite an image or another.
    """
    path, (channels, resolution, _) = options.input, module.image_shape
    files, images = read_images(path, resolution, channels)
    names = names_of(path, files)
    seeds = options.seeds or list(range(len(names)))
    if len(names) == 1 and len(seeds) > 1:
        names, images = [f"{names[0]}_{seed:06d}" for seed in seeds], images.expand(len(seeds), -1, -1, -1)
    if len(seeds) != len(names):
        raise UsageError(f"--seeds: {len(seeds)} of them for {len(names)} images; one for each is needed")
    check_results(path, files, options.out, names)
    return Inputs(names, images, seeds, None)


def names_of(path: Path, files: Sequence[str]) -> list[str]:
    """What the results of files are called: with their folders below `path`, without suffix."""
    return [Path(file).with_suffix("").as_posix() if path.is_dir() else Path(file).stem for file in files]


def check_results(path: Path, files: Sequence[str], out: Path, names: Sequence[str]) -> None:
    """Refuse results of these names, and grid.png, that would overwrite each other or one of the files.

    Raises:
        UsageError: naming the first.
    """
    results = [*names, "grid"]
    if double := next((name for name in results if results.count(name) > 1), None):
        raise UsageError(f"--input {path}: more than one picture would be written to {double}.png")
    sources = {(path / file if path.is_dir() else path).resolve() for file in files}
    if lost := next((file for name in results if (file := out / f"{name}.png").resolve() in sources), None):
        raise UsageError(f"--out {out}: {lost}, one of the inputs, would be overwritten")


def wanted_labels(
    options: "argparse.Namespace", module: Any, inputs: Inputs, option: str = "--class"
) -> "Tensor | None":
    """The class of each image (N,), which an option names for all or which they have; None for an unconditional model.

    Raises:
        UsageError: the model has no such class, or it needs one and none is known.
    """
    if options.label is None:
        if module.num_classes and inputs.labels is None:
            raise UsageError(f"this model has the classes 0 to {module.num_classes - 1}: give one by {option}")
        return inputs.labels
    return one_class(option, options.label, module, len(inputs.images))


def one_class(option: str, label: int, module: Any, n: int) -> "Tensor":
    """The class that an option names, for n images (n,).

    Raises:
        UsageError: the model has no such class.
    """
    import torch

    if not 0 <= label < module.num_classes:
        kind = f"has the classes 0 to {module.num_classes - 1}" if module.num_classes else "is unconditional"
        raise UsageError(f"{option} {label}: this model {kind}")
    return torch.full((n,), label)


def make_folders(names: Sequence[str], out: Path) -> None:
    """The folders that images of these names are written to."""
    for name in names:
        (out / f"{name}.png").parent.mkdir(parents=True, exist_ok=True)


def save_images(images: "Tensor", names: Sequence[str], out: Path) -> None:
    """Write images (N, C, H, W) uint8 as out/NAME.png, with their folders."""
    from evaluation.grids import save_png

    make_folders(names, out)
    for name, image in zip(names, images.movedim(1, -1).numpy(), strict=True):
        save_png(image.squeeze(-1) if image.shape[-1] == 1 else image, out / f"{name}.png")


def in_batches(
    make: "Callable[[Any, Tensor], Tensor]", seeds: Sequence[int], module: Any, batch_size: int, device: Any, meter: Any
) -> "Tensor":
    """Results (N, C, H, W) uint8 of `make(noise, rows)`, rows being a batch's places; each has its own seed's noise."""
    import torch

    from diffusion.pixels import to_uint8
    from diffusion.rng import ImageNoise

    parts = []
    for rows in torch.arange(len(seeds)).split(batch_size):
        noise = ImageNoise([seeds[i] for i in rows.tolist()], module.image_shape, device)
        with meter.batch(len(rows), device), torch.no_grad():
            parts.append(to_uint8(make(noise, rows)).cpu())
    return torch.cat(parts)


def at(label: "Tensor | None", rows: "Tensor", device: Any) -> "Tensor | None":
    """The classes of some images, on a device; None where there are none."""
    return None if label is None else label[rows].to(device)
