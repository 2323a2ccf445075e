"""`--sampler NAME --sampler.ARGUMENT VALUE` and `--guidance`: how `sample` generates from a diffusion model."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.arguments import OneLineParser
from cli.errors import UsageError, did_you_mean, explain_parsing

if TYPE_CHECKING:
    from diffusion.ode_samplers import Sampler

# by name, so that the help needs no torch; a test holds them to the classes that there are
SAMPLERS = ("Euler", "Heun", "DPMSolver2", "DPMSolverFast", "DPMSolverPP2M", "DEIS", "DDIM", "DDPM")


def add_sampler_options(p: OneLineParser) -> None:
    """The options of this module, for a command that samples."""
    group = p.add_argument_group("diffusion models only")
    group.add_argument(
        "--sampler",
        metavar="NAME",
        help=f"{', '.join(SAMPLERS)}; or a YAML file of class_path and init_args (default: the model's own, Heun)",
    )
    group.add_argument("--sampler.ARGUMENT", metavar="VALUE", help="of the sampler, e.g. --sampler.s_churn 40")
    group.add_argument("--guidance", type=float, metavar="W", help="weight of classifier-free guidance; 1 is none")
    group.add_argument(
        "--guidance_interval", type=float, nargs=2, metavar=("LOW", "HIGH"), help="the noise levels that are guided"
    )


def split_sampler_options(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take every `--sampler` and `--sampler.ARGUMENT` with its value out of the arguments: what is left, and they."""
    rest: list[str] = []
    taken: list[str] = []
    remaining = iter(args)
    for arg in remaining:
        name, equals, value = arg.partition("=")
        if name != "--sampler" and not name.startswith("--sampler."):
            rest.append(arg)
            continue
        value = value if equals else next(remaining, "")
        if not value or value.startswith("--"):
            raise UsageError(f"{name} needs a value")
        taken.append(f"{name}={value}")
    return rest, taken


def read_sampler(args: Sequence[str], allow: Sequence[str] = ()) -> "Sampler":
    """The sampler that the options name.

    Args:
        args: `--sampler=NAME` and `--sampler.ARGUMENT=VALUE`, as `split_sampler_options` gives them.
        allow: packages that a class path may name beside the project's own.

    Raises:
        UsageError: there is no such sampler, or it has no such argument.
    """
    from jsonargparse import ArgumentParser

    import diffusion.sde_samplers
    import diffusion.straight_paths  # noqa: F401  so that its grid is known by its short name
    from diffusion.ode_samplers import Sampler
    from lightning_modules.allowed import restricted_imports

    name = next((arg.partition("=")[2] for arg in reversed(args) if arg.startswith("--sampler=")), None)
    if name is None:
        raise UsageError(f"{args[0].partition('=')[0]} needs --sampler NAME: one of {', '.join(SAMPLERS)}")
    if name.endswith((".yaml", ".yml")):
        args = [f"--sampler={_read_yaml(name)}" if arg == f"--sampler={name}" else arg for arg in args]
    elif "." not in name and name not in SAMPLERS:
        near = did_you_mean(name, SAMPLERS)
        raise UsageError(f"--sampler {name}: there is no such sampler{near} ({', '.join(SAMPLERS)}; or a YAML file)")
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--sampler", type=Sampler)
    with restricted_imports(allow):
        try:
            return parser.instantiate(parser.parse_args(list(args))).sampler
        except argparse.ArgumentError as error:
            raise UsageError(f"--{explain_parsing(error, ())}") from None


def _read_yaml(path: str) -> str:
    """A file's class_path and init_args as one word."""
    import yaml

    from lightning_modules.allowed import read_yaml

    try:
        content = read_yaml(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else "it cannot be read as YAML"
        raise UsageError(f"--sampler {path}: {reason}") from None
    if not isinstance(content, dict) or "class_path" not in content:
        raise UsageError(f"--sampler {path}: it must hold class_path, the sampler's name, and may hold init_args")
    return json.dumps(content)


def set_sampler(module: Any, options: argparse.Namespace, sampler_args: Sequence[str]) -> None:
    """Let a module sample as the options ask.

    Raises:
        UsageError: the options name no sampler, or the module is no diffusion model.
    """
    from diffusion.guidance import Guidance
    from diffusion.ode_samplers import Sampler

    name = type(module).__name__
    if sampler_args:
        sampler = read_sampler(sampler_args, options.allow_import)
        if not isinstance(getattr(module, "sampler", None), Sampler):
            raise UsageError(
                f"--sampler {type(sampler).__name__}: it solves the equation of a diffusion model or a rectified flow "
                f"by steps of any size; a {name} has its own way to sample, by the steps that it was trained to make"
            )
        module.sampler = sampler
    if options.guidance_interval is not None and options.guidance is None:
        raise UsageError("--guidance_interval needs --guidance W")
    if options.guidance is not None:
        if not hasattr(module, "guidance"):
            raise UsageError(f"--guidance {options.guidance:g}: a {name} cannot be guided, a DiffusionModule can")
        module.guidance = Guidance(options.guidance, *(options.guidance_interval or ()))


def sampler_text(module: Any) -> str:
    """How a module samples, as the first words of a line: "Heun, guidance 2, ", or nothing if it has no sampler."""
    words = [type(module.sampler).__name__] if hasattr(module, "sampler") else []
    if getattr(module, "guidance", None) is not None:
        words.append(f"guidance {module.guidance.weight:g}")
    return "".join(f"{word}, " for word in words)
