"""Errors as one line for the person who typed the command, exit code 2. What is not their doing keeps its traceback."""

import difflib
import errno
import inspect
import linecache
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import Any

PROJECT = (
    "cli",
    "datamodules",
    "diffusion",
    "evaluation",
    "lightning_modules",
    "main",
    "networks",
    "tasks",
    "weights",
)
"""Top-level packages whose ValueErrors are written for the user."""
# torch refuses a learning rate of -1, and Lightning an accelerator it does not know, in words that are good enough
TRUSTED = tuple(f"{name}." for name in (*PROJECT, "lightning", "torch.nn.modules", "torch.optim"))


LONGEST = 600
"""Characters of an error's line; what is longer repeats a file."""
MISTAKEN = (errno.ENAMETOOLONG, errno.ELOOP, errno.EROFS)
"""Numbers of the system's errors about a path that was typed, beside those that Python has classes for."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Those of a machine where no more can be written."""
BROKEN = (errno.EIO, errno.EMFILE)
"""Those of one that cannot read or write at all."""


tracebacks = ContextVar("tracebacks", default=False)
"""Whether an error's line follows its traceback."""


class UsageError(ValueError):
    """Wrong use; the message is one line."""


class Failure(Exception):
    """What was asked rightly, and failed: exit code 1; the message is one line."""


@contextmanager
def with_tracebacks() -> Iterator[None]:
    """Within it, `fail` prints the traceback of the error that it is told of, for `--debug`."""
    token = tracebacks.set(True)
    try:
        yield
    finally:
        tracebacks.reset(token)


def fail(message: str, code: int = 2) -> int:
    """Print an error as one line and return the exit code."""
    if tracebacks.get() and sys.exc_info()[0] is not None:
        traceback.print_exc()
    tell("error", message)
    return code


def tell(kind: str, message: str) -> None:
    """Print a message as one line where errors are printed, after a word that says what it is."""
    line = one_line(message)
    print(f"{kind}: {line if len(line) <= LONGEST else f'{line[:LONGEST]} ...'}", file=sys.stderr)


def one_line(text: str) -> str:
    """A text as one line; what a terminal would not show but obey is written as Python escapes it."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ "; did you mean X?" with the nearest known word, or nothing if none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def run_command(run: Callable[[], None]) -> int:
    """Run a command and return its exit code; an error that the user can mend becomes one line."""
    try:
        run()
    except (FloatingPointError, Failure) as error:
        return fail(str(error), 1)
    except KeyboardInterrupt:
        return 130
    except SystemExit as error:  # --help and --print_config; Lightning makes one of KeyboardInterrupt
        if isinstance(error.__context__, KeyboardInterrupt):
            return 130
        return error.code if isinstance(error.code, int) else 0
    except Exception as error:
        line = explain(error)
        if line is None:
            raise
        return fail(line, 1 if fault_of_machine(error) else 2)
    finally:
        sys.stdout.flush()
    return 0


def cause_chain(error: BaseException) -> list[BaseException]:
    """The error and what caused it, innermost last."""
    chain: list[BaseException] = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    return chain


def explain(error: BaseException) -> str | None:
    """One line for an error that the user can mend, None for any other.

    That is: an unusable checkpoint, a missing file, a place that cannot be written to, a setting that Lightning
    refuses, a ValueError raised by this project's own code or by an optimizer, weights that do not fit the model, and
    a checkpoint without the state that a run goes on from.
    """
    if fault := fault_of_machine(error):
        done = "written" if fault.errno in FULL else "read or written"
        return f"{fault.filename or 'a file'} cannot be {done}: {str(fault.strerror).lower()}"
    for cause in reversed(cause_chain(error)):
        text = str(cause)
        if isinstance(cause, UsageError) or type(cause).__name__ == "MisconfigurationException":
            return text
        if isinstance(cause, OSError) and cause.filename is not None:
            if isinstance(cause, FileNotFoundError):
                return f"there is no file {cause.filename}"
            mistaken = isinstance(cause, FileExistsError | NotADirectoryError | IsADirectoryError | PermissionError)
            if mistaken or cause.errno in MISTAKEN:
                return f"{cause.filename}: {str(cause.strerror).lower()}"
        if isinstance(cause, ValueError) and text == "embedded null byte":
            return "a path holds a null byte, which no name of a file can"
        if isinstance(cause, ValueError | TypeError | FileNotFoundError) and _was_meant(cause.__traceback__):
            return text
        if isinstance(cause, RuntimeError) and text.startswith("Error(s) in loading state_dict"):
            lines = [line.strip() for line in text.splitlines()[1:] if line.strip()]
            more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
            return f"the checkpoint's weights do not fit the model: {lines[0] if lines else text}{more}"
    if isinstance(error, UnicodeDecodeError):
        return f"a file that should be text is not UTF-8: {error}"
    if while_resuming(error.__traceback__):
        reason = f"{type(error).__name__}: {error}"[:200]
        return f"the checkpoint does not hold the state of a run that can go on ({reason})"
    return None


def fault_of_machine(error: BaseException | None) -> OSError | None:
    """What the system said where a disk is full or broken, also behind an error that came of it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (*FULL, *BROKEN):
            return error
        error = error.__cause__ or error.__context__
    return None


def while_resuming(traceback: TracebackType | None) -> bool:
    """Whether an error came about when Lightning took the state of a run from a checkpoint."""
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_globals.get("__name__") == "lightning.pytorch.trainer.connectors.checkpoint_connector":
            return "restore" in frame.f_code.co_name or "resume" in frame.f_code.co_name
        traceback = traceback.tb_next
    return False


def _was_meant(traceback: TracebackType | None) -> bool:
    """Whether a trusted package raised an error by a `raise` of its own, and did not stumble over something."""
    if traceback is None:
        return False
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    frame = traceback.tb_frame
    line = linecache.getline(frame.f_code.co_filename, traceback.tb_lineno).strip()
    return f"{frame.f_globals.get('__name__')}.".startswith(TRUSTED) and line.startswith("raise")


def explain_parsing(error: BaseException, options: Iterable[str]) -> str:
    """One line for an error of jsonargparse: which key, what is wrong with it, and the nearest valid name.

    Args:
        error: as raised by a parser with exit_on_error=False; its causes name the keys from the outside in.
        options: all keys of the parser, e.g. "trainer.max_epochs".
    """
    chain = cause_chain(error)
    reason = str(chain[-1]).strip() or str(chain[-2]).strip()
    key = ".init_args.".join(_keys(chain))
    owner = _owner(chain)
    at = f"{key}: " if key else ""

    if match := re.search(r"does not accept option '([^']+)'|unrecognized arguments: (\S+)", reason):
        option = (match[1] or match[2]).lstrip("-").split("=")[0]
        return f"there is no option {option}{did_you_mean(option, options)}"
    if match := re.search(r"Option '([^']+)' is not accepted", reason):
        option = match[1].split(".")[0]
        if not (key or owner):
            return f"there is no option {option}{did_you_mean(option, options)}"
        return f"{at}{owner or 'this class'} has no argument {option}{did_you_mean(option, _parameters(owner))}"
    if match := re.search(r"arguments are required: (.*)", reason):
        names = match[1].replace("init_args.", "")
        if not key:
            names = re.sub(r"\b(fit|validate|test)[.]", "", names).replace(",", " and")
            if names == "data":  # of a checkpoint made by import
                return "data must be given: use --data FILE, e.g. configs/data/digits.yaml"
            return f"{names} must be given: use --config FILE, e.g. configs/bcm.yaml, or --ckpt_path FILE"
        return f"{at}{owner} needs {names}"
    if match := re.search(r"Importing '([^']+)' is not allowed, denied by the '([^']+)'", reason):
        if match[2] != "*":
            return f"{at}{match[1]} may not stand in a config: it runs code from elsewhere"
        near = did_you_mean(match[1], known_classes().values())
        allow = f" (--allow-import {match[1].split('.')[0]} allows it)"
        return f"{at}{match[1]} is outside the allowed packages{near or allow}"
    if match := re.search(r"File does not exist: '([^']+)'", reason):
        path = Path(match[1])
        near = did_you_mean(path.name, (p.name for p in path.parent.glob("*.yaml")))
        return f"there is no file {path}{near}"
    if match := re.search(r"(?:Unexpected import path format|Expected a dot import path string): (\S+)", reason):
        if "/" in match[1] or match[1].endswith((".yaml", ".yml", ".json")):
            return f"{at}there is no file {match[1]} (relative to the config that names it)"
        return f"{at}there is no class {match[1]}{_nearest_class(match[1])}"
    if isinstance(chain[-1], AttributeError | ModuleNotFoundError) and owner:
        return f"{at}there is no class {owner}{_nearest_class(owner)}"
    if match := re.search(r"Expected a (?:<class|typing)[^.]*(?:\. Got value: (.*))?", reason, re.S):
        return f"{at}{_expected(chain)} expected{f', not {match[1]}' if match[1] else ''}"
    return f"{at}{_plain(re.sub(r'[.] Got value: .*', '', reason, flags=re.S))}"


def _keys(chain: list[BaseException]) -> Iterator[str]:
    """The keys that the causes name, from the outside in."""
    last = None
    for cause in chain:
        match = re.match(r'Parser key "([^"]+)"', str(cause))
        if match and match[1] not in (last, "config"):
            last = match[1]
            yield match[1].replace("fit.", "")


def _owner(chain: list[BaseException]) -> str | None:
    """The innermost class that a cause names."""
    for cause in reversed(chain):
        text = str(cause)
        if match := re.match(r"Problem with given class_path '([^']+)'", text):
            return match[1]
        if "expects a function or a callable class" in text and (got := text.partition("Got value: Namespace(")[2]):
            while (flat := re.sub(r"Namespace\([^()]*\)", "", got)) != got:  # nested objects have classes of their own
                got = flat
            if match := re.search(r"class_path='([^']+)'", got):
                return match[1]
    return None


def _expected(chain: list[BaseException]) -> str:
    """The type that a value should have had, in words."""
    for cause in chain[-2:]:
        if match := re.search(r"Subtypes: \[(.*)\]", str(cause)):
            return _plain(re.sub(r", (?![^\[]*\])", " or ", match[1]))
    match = re.search(r"Expected a (<class '[^']+'>)", str(chain[-1]))
    return _plain(match[1]) if match else "another value"


def _plain(text: str) -> str:
    """Types as a user writes them: int for <class 'int'>."""
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text)
    return text.replace("NoneType", "null").replace("typing.", "").replace("Literal", "one of ")


def _parameters(class_path: str | None) -> list[str]:
    """Names of a class's arguments; the class was imported by the parser already."""
    module, _, name = (class_path or "").rpartition(".")
    target: Callable[..., Any] | None = getattr(sys.modules.get(module), name, None)
    with suppress(TypeError, ValueError):
        return list(inspect.signature(target).parameters) if target else []
    return []


def known_classes() -> dict[str, str]:
    """Short name -> class path of every public class of this project that a config may name."""
    import importlib
    import pkgutil

    classes: dict[str, str] = {}
    for package in ("lightning_modules", "datamodules", "networks", "diffusion", "evaluation", "tasks"):
        root = importlib.import_module(package)
        submodules = [f"{package}.{m.name}" for m in pkgutil.iter_modules(root.__path__)]
        for name in [*submodules, package]:  # the package last: its own name for a class is the shortest
            with suppress(ImportError):
                for attribute, value in vars(importlib.import_module(name)).items():
                    if inspect.isclass(value) and value.__module__.startswith(package) and attribute[0] != "_":
                        classes[attribute] = f"{name}.{attribute}"
    return classes


def _nearest_class(name: str) -> str:
    known = known_classes()
    near = difflib.get_close_matches(name.rpartition(".")[2], list(known), n=1, cutoff=0.6)
    return f"; did you mean {known[near[0]]}?" if near else ""
