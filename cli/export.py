"""`export`: a checkpoint's averaged weights in a form that others load."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.arguments import OneLineParser
from cli.errors import UsageError, run_command

if TYPE_CHECKING:
    import argparse

FORMS = ("safetensors", "diffusers", "onnx", "hub")


def parser() -> OneLineParser:
    """The options of `export`."""
    p = OneLineParser(
        prog="main.py export",
        allow_abbrev=False,
        description="Write the averaged weights of a checkpoint for others: model.safetensors with config.json; a "
        "ConsistencyModelPipeline of diffusers; an ONNX file (needs the extra [export]); or a folder in the Hub's "
        "layout, which --push uploads. A card, README.md, goes with each but safetensors.",
    )
    p.add_argument("--ckpt_path", required=True, help="a checkpoint of `fit` or `import`")
    p.add_argument("--to", dest="form", required=True, choices=FORMS, help="what to write")
    p.add_argument("--out", type=Path, required=True, metavar="DIR", help="a folder that is not there yet")
    p.add_argument("--push", metavar="OWNER/NAME", help="hub: upload the folder to this repository of the Hugging Face "
                   "Hub, as the account that `hf auth login` logged in")  # fmt: skip
    p.add_argument("--allow-import", action="append", default=[], help="a further package the checkpoint may name")
    return p


def export(args: Sequence[str]) -> int:
    """Run `export` and return the exit code."""
    return run_command(lambda: _export(parser().parse_args(list(args))))


def _export(options: "argparse.Namespace") -> None:
    from cli.model_card import model_card
    from cli.quiet import quiet
    from lightning_modules.checkpoint import frozen_denoiser, module_of, read_checkpoint

    quiet()
    out: Path = options.out
    if options.push is not None and options.form != "hub":
        raise UsageError(f"--push {options.push}: it goes with --to hub")
    if options.push is not None:
        account()  # before the work
    if out.exists():
        raise UsageError(f"--out {out}: it is there already")
    checkpoint = read_checkpoint(options.ckpt_path)
    module: Any = module_of(checkpoint, options.ckpt_path, options.allow_import)
    partial = out.with_name(f"{out.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        said = write(options.form, partial, frozen_denoiser(module), checkpoint, module)
        if options.form != "safetensors":
            name = (options.push or out.resolve().name).rpartition("/")[2]
            card = model_card(name, options.form, said, options.ckpt_path, checkpoint, module)
            (partial / "README.md").write_text(card, encoding="utf-8")
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(f"{out}: {said}")
    if options.push is not None:
        print(f"uploaded to {push(out, options.push)}")


def write(form: str, folder: Path, denoiser: Any, checkpoint: dict[str, Any], module: Any) -> str:
    """Write the files of a form into a folder; what they are, in words."""
    from weights.pretrained import network_of, save_pretrained

    if form == "onnx":
        from weights.onnx import save_onnx

        names = save_onnx(denoiser, folder / "model.onnx", module.image_shape, module.num_classes)
        return f"model.onnx, {', '.join(names)} -> x0"
    if form == "diffusers":
        from weights.diffusers_export import save_pipeline

        everywhere = save_pipeline(denoiser, folder, network_of(checkpoint))
        return f"a ConsistencyModelPipeline{'' if everywhere else ', the model on the levels of its grid alone'}"
    save_pretrained(denoiser, folder, network_of(checkpoint), checkpoint)
    return "model.safetensors and config.json"


def account() -> None:
    """Raise UsageError unless somebody is logged in to the Hub."""
    from huggingface_hub import get_token

    if get_token() is None:
        raise UsageError("--push: nobody is logged in to the Hugging Face Hub; `hf auth login` does it")


def push(folder: Path, repository: str) -> str:
    """Upload a folder to a repository of the Hub, which is made where it is not there; its address.

    Raises:
        UsageError: the Hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi()
    try:
        address = api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder)
    except (HfHubHTTPError, HFValidationError) as error:
        raise UsageError(f"--push {repository}: {str(error).splitlines()[0]}; {folder} is written") from None
    return str(address)
