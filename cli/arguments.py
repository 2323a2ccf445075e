"""What is read from the command line before the parser of a command is built."""

import argparse
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from cli.errors import UsageError, did_you_mean


def option_values(args: Sequence[str], *names: str) -> list[str]:
    """The values of an option, written `--name value` or `--name=value`, in order."""
    values = []
    for i, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name in names and (equals or i + 1 < len(args)):
            values.append(value if equals else args[i + 1])
    return values


def allowed_imports(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take every `--allow-import PACKAGE` out of the arguments: what is left, and the packages.

    It is no option of a config, since a config must not allow itself anything.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--allow-import", "--allow_import", action="append", default=[])
    try:
        known, rest = parser.parse_known_args(list(args))
    except argparse.ArgumentError:
        raise UsageError("--allow-import needs the name of a package") from None
    for package in known.allow_import:
        if not all(part.isidentifier() for part in package.split(".")) or package.split(".")[0] == "jsonargparse":
            raise UsageError(f"--allow-import {package}: this is not the name of a package that can be allowed")
    return rest, known.allow_import


MOST = 2**31 - 1
"""The largest number that an option takes."""
MOST_SEEDS = 10_000_000


def parse_seeds(text: str) -> list[int]:
    """Seeds as EDM takes them, a list of numbers and ranges: "0-3,7" -> [0, 1, 2, 3, 7]; each at most once."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not _is_number(first) or (dash and (not _is_number(last) or int(last) < int(first))):
            raise argparse.ArgumentTypeError(f"{_short(text)} is not a list of seeds such as 0-63 or 0,5,7-9")
        if len(seeds) + int(last or first) - int(first) >= MOST_SEEDS:
            raise argparse.ArgumentTypeError(f"{_short(text)} is more than {MOST_SEEDS:,} seeds")
        seeds.extend(range(int(first), int(last or first) + 1))
    if len(set(seeds)) < len(seeds):
        double = next(seed for seed, times in Counter(seeds).items() if times > 1)
        raise argparse.ArgumentTypeError(f"{_short(text)} has the seed {double} twice")
    return seeds


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not _is_number(text) or int(text) < 1:
        limit = f" and at most {MOST:,}" if text.isdecimal() and text.strip("0") else ""
        raise argparse.ArgumentTypeError(f"{_short(text)} is not a whole number of at least 1{limit}")
    return int(text)


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) <= len(str(MOST)) and int(text) <= MOST


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")


def file_to_write(text: str) -> Path:
    """A path where a file may be made: what stands in its way is told before anything is computed."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder, the name of a file is needed")
    _check_above(path)
    return path


def folder_to_write(text: str) -> Path:
    """A path where a folder is or may be made."""
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a file, the name of a folder is needed")
    _check_above(path)
    return path


def _check_above(path: Path) -> None:
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise argparse.ArgumentTypeError(f"{path}: nothing can be written in {above}")


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one UsageError, with the nearest option."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments: "):
            word = message.split(": ", 1)[1].split()[0].split("=")[0]
            options = [option for action in self._actions for option in action.option_strings]
            message = f"there is no option {word}{did_you_mean(word, options)}"
        raise UsageError(message)
