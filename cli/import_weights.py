"""`import`: a checkpoint of ours from weights that another project published."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.arguments import OneLineParser, positive
from cli.errors import UsageError, run_command

if TYPE_CHECKING:
    import argparse

    from weights.official import Official

SOURCES = ("openai", "bcm", "edm", "diffusers", "hub")
KINDS = ("consistency", "diffusion")


def parser() -> OneLineParser:
    """The options of `import`."""
    p = OneLineParser(
        prog="main.py import",
        allow_abbrev=False,
        description="Write a checkpoint of weights that another project published: a .pt of openai/consistency_models "
        "or of Mosasaur5526/BCM-iCT-torch, a .pkl of NVlabs/edm (no code in it is run), a folder of diffusers (a "
        "UNet2DModel or a ConsistencyModelPipeline), or a folder of `export --to hub`. sample, test, restore and the "
        "others take it like any checkpoint; test needs --data FILE beside it.",
    )
    p.add_argument("path", type=Path, metavar="PATH", help="the file or folder")
    p.add_argument("--from", dest="source", required=True, choices=SOURCES, help="who wrote it")
    p.add_argument("--out", type=Path, help="the checkpoint (default: PATH with .ckpt in the place of its suffix)")
    p.add_argument("--denoiser", choices=KINDS, help="its scalings, if not those that its authors' "
                   "models have: openai, bcm and diffusers consistency, edm diffusion")  # fmt: skip
    p.add_argument("--resolution", type=positive, help="of its images, where nothing tells it")
    p.add_argument("--channels_per_head", type=int, default=64, help="of the attention of an openai or bcm file "
                   "(default: 64, as of all that are published; 0 for one head)")  # fmt: skip
    p.add_argument("--levels", type=levels, action="append", default=[], help="levels that a consistency model visits "
                   "by more than one evaluation, as 80,1.382; may be given again")  # fmt: skip
    for name, text in (
        ("sigma_data", "standard deviation of its data"),
        ("sigma_min", "its smallest level"),
        ("sigma_max", "its largest level"),
    ):
        p.add_argument(f"--{name}", type=float, help=f"{text}, where the file does not tell or tells wrong")
    return p


def levels(text: str) -> list[float]:
    """Numbers separated by commas."""
    from argparse import ArgumentTypeError

    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a list of levels such as 80,1.382") from None


def import_weights(args: Sequence[str]) -> int:
    """Run `import` and return the exit code."""
    return run_command(lambda: _import(parser().parse_args(list(args))))


def _import(options: "argparse.Namespace") -> None:
    from cli.checkpoints import VerifiedCheckpointIO
    from cli.quiet import quiet
    from lightning_modules.checkpoint import module_of
    from weights.checkpoint import checkpoint_of

    quiet()
    path: Path = options.path
    out = options.out or path.parent / f"{path.resolve().stem if path.is_file() else path.resolve().name}.ckpt"
    if not path.exists():
        raise UsageError(f"there is no file {path}")
    if out.exists():
        raise UsageError(f"--out {out}: it is there already")
    if options.source == "hub":
        checkpoint = _of_ours(options)
    else:
        official = read(options)
        checkpoint = checkpoint_of(
            official,
            _denoiser(options.denoiser),
            options.levels,
            sigma_data=options.sigma_data,
            sigma_min=options.sigma_min,
            sigma_max=options.sigma_max,
        )
    checkpoint["imported"] = {"from": options.source, "path": str(path), "sha256": content_sha256(path)}
    module: Any = module_of(checkpoint, out)  # refused before it is written
    VerifiedCheckpointIO().save_checkpoint(checkpoint, out)
    network, (c, h, w) = module.ema_denoiser.network, module.image_shape
    count = sum(parameter.numel() for parameter in network.parameters())
    classes = f"{module.num_classes} classes" if module.num_classes else "no classes"
    size = f"{type(network).__name__} of {count / 1e6:.4g} million parameters"
    print(f"{out}: {type(module).__name__}, {size}, images of {c}x{h}x{w}, {classes}")


def read(options: "argparse.Namespace") -> "Official":
    """The network of a file of another project's.

    Raises:
        UsageError: the options do not go with it.
        WeightsError: it is no such file.
    """
    if options.source == "diffusers":
        from weights.diffusers_folder import read_folder

        return read_folder(options.path, options.resolution)
    if options.source == "edm":
        from weights.edm import read_file

        return read_file(options.path)
    from weights.openai import read as read_state
    from weights.openai import read_state_dict, shape_of

    state = read_state_dict(options.path)
    per_head = options.channels_per_head or None
    cosine = options.source == "bcm"
    shape = shape_of(state, resolution=options.resolution, channels_per_head=per_head, qk_norm=cosine)
    return read_state(state, shape)


def _denoiser(kind: str | None) -> Any:
    """The class of a denoiser by its short name; None for that of the file."""
    from diffusion.denoisers import ConsistencyDenoiser, EDMDenoiser

    return {None: None, "consistency": ConsistencyDenoiser, "diffusion": EDMDenoiser}[kind]


def _of_ours(options: "argparse.Namespace") -> dict[str, Any]:
    from weights.pretrained import checkpoint_in

    given = [f"--{name}" for name in ("resolution", "sigma_data", "sigma_min", "sigma_max", "denoiser", "levels")
             if getattr(options, name)]  # fmt: skip
    if given:
        raise UsageError(f"{given[0]}: a folder of `export --to hub` tells this itself")
    return checkpoint_in(options.path)


def content_sha256(path: Path) -> str:
    """SHA-256 of a file, or of the largest file of a folder, which holds the weights."""
    from lightning_modules.checkpoint import file_sha256

    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return file_sha256(max(files, key=lambda file: file.stat().st_size))
