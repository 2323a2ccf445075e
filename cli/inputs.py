"""Images that a command changes: where they come from, their classes and noise, and how results are written."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cli.errors import UsageError
from cli.input_files import check_results, names_of, read_images
from cli.invert import chosen_test_images

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from torch import Tensor


class Inputs(NamedTuple):
    """What is to be changed.

    Args:
        names: of the results.
        images: uint8 (N, C, H, W).
        seeds: of each one's noise.
        labels: their own classes (N,), or None.
        places: the number of each among all that were given, those that could not be read too.
        total: how many were given.
        files: that were read, below `--input`; none of test images.
        left_out: how many files could not be read.
    """

    names: list[str]
    images: "Tensor"
    seeds: list[int]
    labels: "Tensor | None"
    places: list[int]
    total: int
    files: Sequence[str] = ()
    left_out: int = 0


def chosen_images(
    options: "argparse.Namespace", module: Any, shape: tuple[int, int, int] | None = None, exact: bool = False
) -> Inputs:
    """The images of `--input`, or test images of the run's data.

    Args:
        options: of the command.
        module: the model's.
        shape: (C, H, W) that images in files are made; the model's by default.
        exact: files of another size cannot be used.

    Raises:
        UsageError: there are none, or the seeds or names do not fit.
        ValueError: none can be read.
    """
    if options.input is None:
        return test_images(options, module)
    return given_images(options, shape or module.image_shape, exact)


def test_images(options: "argparse.Namespace", module: Any) -> Inputs:
    """Test images of the run's data, each with the seed of its own number."""
    options.seeds = options.seeds or list(range(16))
    images, labels = chosen_test_images(options, module)
    names, count = [f"{seed:06d}" for seed in options.seeds], len(images)
    return Inputs(names, images, options.seeds, labels, list(range(count)), count)


def given_images(options: "argparse.Namespace", shape: tuple[int, int, int], exact: bool = False) -> Inputs:
    """The images of a file or a folder that can be read, as `read_images` gives them.

    A seed belongs to a file, whichever of the others can be read; one file may be taken with several.

    Raises:
        UsageError: there is no such file; the seeds are not as many; or a result would overwrite an image or another.
        ValueError: none can be read.
    """
    path = options.input
    read = read_images(path, shape, exact)
    names, images, places = names_of(path, read.files), read.images, read.places
    seeds = options.seeds or list(range(read.total))
    if read.total == 1 and len(seeds) > 1:
        names, images = [f"{names[0]}_{seed:06d}" for seed in seeds], images.expand(len(seeds), -1, -1, -1)
        places = list(range(len(seeds)))
    elif len(seeds) != read.total:
        raise UsageError(f"--seeds: {len(seeds)} of them for {read.total} images; one for each is needed")
    check_results(path, read.files, options.out, names)
    own = [seeds[place] for place in places]
    return Inputs(names, images, own, None, places, len(seeds), read.files, read.left_out)


def check_all_done(inputs: Inputs) -> None:
    """Raise UsageError if files were left out, so that the exit code says so once the others are done."""
    if inputs.left_out:
        count = f"{inputs.left_out} file{'s' * (inputs.left_out > 1)}"
        raise UsageError(f"{count} could not be used, as is said above; the others are done")


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
