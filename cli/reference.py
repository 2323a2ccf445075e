"""`reference`: mean and covariance of real images' features, as a file to score against."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cli.arguments import OneLineParser, file_to_write, positive
from cli.errors import UsageError, run_command
from cli.sample import find_device

if TYPE_CHECKING:
    import argparse


def parser() -> "OneLineParser":
    """The options of `reference`."""
    p = OneLineParser(
        prog="main.py reference",
        allow_abbrev=False,
        description="Write the mean and covariance of real images' features as EDM's `fid.py ref` does: an npz file of "
        "mu and sigma, for test --scores.reference FILE and for any other reader of EDM's fid-refs.",
    )
    p.add_argument("--data", required=True, help="a file such as configs/data/digits.yaml")
    p.add_argument("--split", choices=("train", "test"), default="train", help="default: train")
    p.add_argument("--out", type=file_to_write, required=True, help="the file to write, e.g. fid-refs/digits.npz")
    p.add_argument(
        "--inception_weights", help="file of Inception's weights, for images that are neither 8x8 nor 28x28 grey"
    )
    p.add_argument("--batch_size", type=positive, default=500, help="images per forward pass (default: 500)")
    p.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps ... (default: cuda if there is one)")
    p.add_argument("--allow-import", action="append", default=[], help="a further package that --data may name")
    return p


def reference(args: Sequence[str]) -> int:
    """Run `reference` and return the exit code."""
    return run_command(lambda: _reference(parser().parse_args(args)))


def _reference(options: "argparse.Namespace") -> None:
    if options.out.suffix != ".npz":
        raise UsageError(f"--out {options.out}: the name of an .npz file is needed")
    from cli.data import load_data
    from cli.quiet import quiet
    from evaluation.features import extract, feature_network_for
    from evaluation.reference import write_reference

    quiet()
    device = find_device(options.device)
    data = load_data("{}", options.data, options.allow_import)
    images, labels = data.uint8_images(options.split)
    judge = feature_network_for(data.image_shape, options.inception_weights)
    features = extract(judge, images, options.batch_size, device)
    judge.check(features, labels)
    write_reference(options.out, features, judge)
    about = f"{judge.size} features of {judge.name} (sha256 {judge.sha256[:12]})"
    print(f"mean and covariance of {len(images):,} images ({options.split}), {about}, in {options.out}")
    print(f"  python main.py test --ckpt_path FILE --scores.reference {options.out}")
