"""`data check` and `data pack`: what lies in a data set, and data sets as one file."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cli.arguments import OneLineParser, file_to_write, positive
from cli.errors import Failure, UsageError, did_you_mean, fail, one_line, run_command

if TYPE_CHECKING:
    import argparse

    from datamodules.survey import Survey

SUFFIXES = {"edm": ".zip", "parquet": ".parquet"}
"""What a packed file is called."""
SHOWN = 10
"""Sizes, duplicates and bad files that the text shows; --json has all."""
WHERE = "a folder, a folder of class folders, a zip archive, parquet, or owner/name on the Hugging Face Hub"
HELP = f"""usage: main.py data check PATH [--json]
       main.py data pack PATH --to edm|parquet --out FILE [--resolution R] [--split train|test]

PATH is {WHERE}.
  data check --help, data pack --help    more"""


def data(args: Sequence[str]) -> int:
    """Run `data check` or `data pack` and return the exit code."""
    commands = {"check": _check, "pack": _pack}
    if not args or args[0] in ("-h", "--help"):
        print(HELP)
        return 0 if args else 2
    if args[0] not in commands:
        return fail(f"there is no command data {args[0]}{did_you_mean(args[0], commands)} (data check, data pack)")
    parser = {"check": check_parser, "pack": pack_parser}[args[0]]()
    return run_command(lambda: commands[args[0]](parser.parse_args(args[1:])))


def check_parser() -> OneLineParser:
    """The options of `data check`."""
    p = OneLineParser(
        prog="main.py data check",
        allow_abbrev=False,
        description="Decode every image once and tell number, formats, modes, sizes, classes, exact duplicates, files "
        "that cannot be used (then the exit code is 1) and a hash of pixels and classes, which stays the same when the "
        "images are packed.",
    )
    p.add_argument("path", metavar="PATH", help=WHERE)
    p.add_argument("--json", action="store_true", help="print JSON")
    return p


def pack_parser() -> OneLineParser:
    """The options of `data pack`."""
    p = OneLineParser(
        prog="main.py data pack",
        allow_abbrev=False,
        description="Write a split as one file: as EDM's dataset_tool.py does, or as Hugging Face `datasets` reads it. "
        "The file is written whole or not at all.",
    )
    p.add_argument("path", metavar="PATH", help=WHERE)
    p.add_argument("--to", choices=tuple(SUFFIXES), required=True, help="edm: a zip of square images of one size, grey "
                   "if all are, otherwise RGB; parquet: columns image and label")  # fmt: skip
    p.add_argument("--out", type=file_to_write, required=True, help="the file to write, a .zip or .parquet")
    p.add_argument("--resolution", type=positive, help="cut out the central square and resize it (default: keep the "
                   "size that all have; parquet keeps each file byte for byte)")  # fmt: skip
    p.add_argument("--split", choices=("train", "test"), default="train", help="default: train")
    return p


def _check(options: "argparse.Namespace") -> None:
    import json

    from datamodules.survey import leaks

    asked = {split: _survey(options.path, split) for split in ("train", "test")}
    surveys = {split: found for split, found in asked.items() if found is not None}
    if len(surveys) == 2:  # what is wrong with a file of both is told once
        told = surveys["train"].faults
        surveys["test"].faults = [fault for fault in surveys["test"].faults if fault not in told]
    leaked = leaks(surveys)
    if options.json:
        splits = {split: found.as_dict() for split, found in surveys.items()}
        print(json.dumps({"path": options.path, "splits": splits, "test_images_in_train": leaked}, indent=2))
    else:
        for split, found in surveys.items():
            print(f"{split}:")
            for key, text in _rows(found):
                print(f"  {key:<11} {one_line(text)}")
        if leaked:
            print(f"{leaked:,} images of the test split are in the training split too")
    if bad := sum(len(found.faults) for found in surveys.values()):
        raise Failure(f"{options.path}: {bad:,} {'file' if bad == 1 else 'files'} cannot be used")
    if not any(found.images for found in surveys.values()):
        raise Failure(f"{options.path}: no images")


def _survey(path: str, split: str) -> "Survey | None":
    """What is found in a split by going on after every fault; None if there is no such split."""
    from datamodules.encoded import Limits
    from datamodules.images import open_images
    from datamodules.survey import survey

    faults: list[tuple[str, str]] = []
    images = open_images(path, split, Limits(), lambda name, reason: faults.append((name, reason)))
    if images is None:
        return None
    found = survey(images, Limits())
    sources = (f"{images.source}: ", f"{path}: ")
    told = [(name, reason.removeprefix(sources[0]).removeprefix(sources[1])) for name, reason in faults]
    found.faults = [*told, *found.faults]
    return found


def _rows(found: "Survey") -> Iterator[tuple[str, str]]:
    """What a table says of a split."""
    from datamodules.survey import size_text

    yield "source", found.source + (f" ({found.ignored:,} other files ignored)" if found.ignored else "")
    yield "images", f"{len(found.images):,}"
    yield "formats", _counts(found.count("format"))
    yield "modes", _counts(found.count("mode"))
    yield "sizes", _counts({size_text(size): n for size, n in found.count("size").items()})
    yield "classes", _classes(found.classes())
    yield "duplicates", _listed([" = ".join(names[:SHOWN]) for names in found.duplicates()])
    yield "unusable", f"{len(found.faults):,}"
    yield from (("", f"{name}: {reason}") for name, reason in found.faults[:SHOWN])
    if len(found.faults) > SHOWN:
        yield "", f"and {len(found.faults) - SHOWN:,} more: --json lists all"
    yield "sha256", found.sha256


def _counts(counts: Mapping[Any, int]) -> str:
    shown = [f"{name}: {n:,}" for name, n in list(counts.items())[:SHOWN]]
    return ", ".join(shown) + (f" and {len(counts) - SHOWN:,} more" if len(counts) > SHOWN else "")


def _classes(counts: Mapping[str, int] | None) -> str:
    if counts is None:
        return "no labels"
    if len(counts) > 2 * SHOWN:
        return f"{len(counts):,} of {min(counts.values()):,} to {max(counts.values()):,} images"
    return ", ".join(f"{name}: {n:,}" for name, n in counts.items())


def _listed(items: Sequence[str]) -> str:
    if not items:
        return "none"
    more = f"; and {len(items) - SHOWN:,} more" if len(items) > SHOWN else ""
    return f"{len(items):,}: {'; '.join(items[:SHOWN])}{more}"


def _pack(options: "argparse.Namespace") -> None:
    out, to, resolution = options.out, options.to, options.resolution
    if out.suffix != SUFFIXES[to]:
        raise UsageError(f"--out {out}: the name of a {SUFFIXES[to]} file is needed")
    if out.exists() or out.is_symlink():
        raise UsageError(f"--out {out}: it is there already")
    from datamodules.encoded import Limits
    from datamodules.images import open_images
    from datamodules.packing import common_size, write_edm, write_parquet
    from datamodules.survey import survey
    from evaluation.files import replacing

    limits = Limits()
    if resolution is not None:
        limits.check(f"--resolution {resolution}", "pixels", resolution**2)
    images = open_images(options.path, options.split, limits)
    if images is None:
        raise UsageError(f"--split {options.split}: {options.path} has no such split")
    found = survey(images, limits)
    if found.faults:
        (name, why), more = found.faults[0], len(found.faults) - 1
        also = f", and {more:,} more" if more else ""
        raise UsageError(f"{images.source}: {name}: {why}{also} (data check lists all)")
    if not found.images:
        raise UsageError(f"{images.source}: no images{f' among {images.ignored} files' if images.ignored else ''}")
    channels = 1 if found.grey else 3
    if to == "edm" and resolution is None:
        resolution = common_size(images.source, list(found.count("size")))
    with replacing(out) as file:
        if to == "edm":
            write_edm(file, images, resolution, channels, limits)
        else:
            write_parquet(file, images, resolution, channels, limits)
    labels = "no labels" if images.labels is None else f"{len(set(images.labels)):,} classes"
    size = f"{channels} x {resolution} x {resolution}" if resolution else "each file byte for byte"
    print(f"{len(found.images):,} images, {size}, {labels}, in {out}")
    if to == "edm" and resolution & (resolution - 1):
        print(f"note: {resolution} is no power of two: EDM's training reads it, its dataset_tool.py does not")
