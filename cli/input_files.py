"""Files of images that a command is given: which can be read, what is said of the others, and what may be written."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cli.errors import UsageError, tell

if TYPE_CHECKING:
    from torch import Tensor


class Read(NamedTuple):
    """What `read_images` found.

    Args:
        files: that were read, below the folder.
        images: of them, uint8 (N, C, H, W).
        places: the number of each among all files of images, those that cannot be read too.
        total: how many files of images there are.
        left_out: how many files could not be read, or used.
    """

    files: list[str]
    images: "Tensor"
    places: list[int]
    total: int
    left_out: int


def read_images(path: Path, shape: tuple[int, int, int], exact: bool = False) -> Read:
    """The images of a file or a folder; those of a folder that cannot be read are told, one a line, and left out.

    Args:
        path: of the file or folder.
        shape: (C, H, W), C being 1 (grey) or 3 (RGB) and H = W; of images of another size the central square is taken
            and resized, and a line says of how many.
        exact: such images cannot be used.

    Raises:
        UsageError: there is no such file or folder.
        ValueError: the only file cannot be read, none of a folder can, or a limit is passed.
    """
    import torch

    from datamodules.encoded import EncodedImages, Limits, refuse
    from datamodules.files import is_image, read_folder

    limits, (channels, side, _) = Limits(), shape
    faults: list[str] = []
    resized: list[str] = []

    def leave_out(name: str, message: str) -> None:
        faults.append(name)
        tell("left out", message)

    def other_size(name: str, size: tuple[int, int]) -> None:
        if exact:
            raise ValueError(
                f"{name}: {size[0]} x {size[1]} pixels in the place of {side} x {side}; resizing it would destroy what "
                "was measured"
            )
        resized.append(name)

    if path.is_dir():
        fault = leave_out
        found = read_folder(path, limits, fault)
    elif path.is_file():
        fault = refuse
        found = EncodedImages("--input", 1, lambda: iter([(str(path), path.read_bytes)]))
        limits.check(f"--input {path}", "file_bytes", path.stat().st_size)
    else:
        raise UsageError(f"--input {path}: there is no such file or folder")
    files, images = [], []
    for file, made in found.decoded(side, channels, limits, other_size):
        if isinstance(made, ValueError):
            fault(file, str(made))
        else:
            files.append(file)
            images.append(torch.from_numpy(made))
    if not images:
        raise ValueError(f"{found.source}: no image could be read")
    if resized:
        print(f"{len(resized)} of {len(files)} images were cut to the central square and resized to {side} x {side}")
    place = {file: i for i, file in enumerate(sorted({*files, *filter(is_image, faults)}))}
    return Read(files, torch.stack(images), [place[file] for file in files], len(place), len(faults))


def names_of(path: Path, files: Sequence[str]) -> list[str]:
    """What the results of files are called: with their folders below `path`, without suffix."""
    return [Path(file).with_suffix("").as_posix() if path.is_dir() else Path(file).stem for file in files]


def check_results(path: Path, files: Sequence[str], out: Path, names: Sequence[str]) -> None:
    """Refuse results of these names, and grid.png, that would overwrite each other or one of the files.

    Raises:
        UsageError: naming the first.
    """
    results = [*names, "grid"]
    if double := next((name for name, times in Counter(results).items() if times > 1), None):
        raise UsageError(f"--input {path}: more than one picture would be written to {double}.png")
    sources = {(path / file if path.is_dir() else path).resolve() for file in files}
    if lost := next((file for name in results if (file := out / f"{name}.png").resolve() in sources), None):
        raise UsageError(f"--out {out}: {lost}, one of the inputs, would be overwritten")
