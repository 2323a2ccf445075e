"""`demo`: a page on this machine where models are tried by drawing, side by side from the same seed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cli.arguments import OneLineParser, positive
from cli.errors import UsageError, run_command
from cli.invert import check_shape
from cli.sample import find_device

if TYPE_CHECKING:
    import argparse

    from torch import Tensor

    from cli.demo_models import Model

INSTALL = 'pip install -e ".[demo]"'
PORT = 7860
OFFERED = 24
"""Test images to choose from."""


def parser() -> OneLineParser:
    """The options of `demo`."""
    p = OneLineParser(
        prog="main.py demo",
        allow_abbrev=False,
        description="Serve a page on this machine and to it alone (127.0.0.1; nothing is fetched from elsewhere): "
        "choose or upload an image, draw on it, and see what each model makes of it from the same seed: inpainting, "
        "colourisation, upscaling, deblurring, JPEG repair, strokes, edits and interpolation, as far as the model can; "
        "with the noise that a bidirectional model inverts the image to, and the time. Ctrl-C ends it.",
    )
    p.add_argument("--ckpt_path", nargs="+", required=True, help="checkpoints of `fit`, all of images of one size")
    p.add_argument("--port", type=positive, default=PORT, help=f"of 127.0.0.1 (default: {PORT})")
    p.add_argument("--data", help="a file such as configs/data/digits.yaml whose test images are offered (default: "
                   "the data of the first checkpoint's run)")  # fmt: skip
    p.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps ... (default: cuda if there is one)")
    p.add_argument("--allow-import", action="append", default=[], help="a further package a checkpoint may name")
    return p


def demo(args: Sequence[str]) -> int:
    """Run `demo` and return the exit code."""
    return run_command(lambda: _demo(parser().parse_args(args)))


def _demo(options: "argparse.Namespace") -> None:
    from cli.quiet import quiet

    quiet()
    check_gradio()
    device = find_device(options.device)
    from cli.demo_models import Model

    models = [Model(path, device, tuple(options.allow_import)) for path in options.ckpt_path]
    check_models(models)
    images, labels = offered_images(options, models)
    for model in models:
        model.warm_up()
    from cli.demo_page import page, serve

    serve(page(models, images, labels), options.port)


def check_gradio() -> None:
    """Gradio, which is an extra of this project, is there.

    Raises:
        UsageError: it is not; the message names the command that installs it.
    """
    from importlib.util import find_spec

    if find_spec("gradio") is None:
        raise UsageError(f"the demo needs Gradio: {INSTALL}")


def check_models(models: "Sequence[Model]") -> None:
    """All models are of images of one shape, and can do something.

    Raises:
        UsageError: naming the first that is not, or cannot.
    """
    from evaluation.dashboard_grids import is_planar

    first = models[0]
    for model in models:
        if is_planar(model.module):
            raise UsageError(f"{model.path} is of points in the plane: the demo is for models of images")
        ours, theirs = (" x ".join(map(str, m.module.image_shape)) for m in (first, model))
        if ours != theirs:
            raise UsageError(f"{first.path} is of images of {ours}, {model.path} of {theirs}: one size is needed")
        if not model.tasks:
            raise UsageError(f"{model.path} holds a {model.kind}, which can do none of the demo's tasks")


def offered_images(options: "argparse.Namespace", models: "Sequence[Model]") -> "tuple[Tensor, Tensor | None]":
    """Test images (N, C, H, W) uint8 to choose from, and their classes (N,) or None.

    Raises:
        UsageError: they are of another shape than the models'.
    """
    from cli.data import load_data
    from cli.run_files import read_text, run_config
    from evaluation.scorer import random_part

    config = read_text(run_config(options.ckpt_path[0]))
    data: Any = load_data(config, options.data, tuple(options.allow_import))
    images, labels = data.uint8_images("test")
    images, labels = random_part(images, labels, OFFERED)
    check_shape(images, models[0].module)
    return images.cpu(), None if labels is None else labels.cpu()
