"""`edit`: images of one class made into another by inversion."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cli.errors import UsageError, run_command
from cli.image_to_image import SHOWN
from cli.inputs import at, check_all_done, chosen_images, in_batches, one_class, save_images, wanted_labels
from cli.inversion_options import facts, inversion_parser, loaded, meter_of
from cli.inversion_ways import inverts, ways_of
from cli.invert import stacked

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from torch import Tensor


def edit(args: Sequence[str]) -> int:
    """Run `edit` and return the exit code."""
    p = inversion_parser(
        "edit",
        "Invert images as of their class and generate from their noise as of another. Writes each result, grid.png "
        "(inputs, regenerated as of their own class, results) and scores.json: PSNR to the inputs of the results, of "
        "the images regenerated and, of a bidirectional model, of the control, the inputs denoised from the small "
        "noise and never inverted.",
        "edited",
    )
    p.add_argument("--from", dest="label", type=int, help="the class of the images (default: their own)")
    p.add_argument("--to", type=int, required=True, help="the class to make of them")
    return run_command(lambda: _edit(p.parse_args(args)))


def _edit(options: "argparse.Namespace") -> None:
    from diffusion.pixels import from_uint8
    from evaluation.grids import save_png
    from evaluation.report import write_json
    from evaluation.restoration import psnr

    module, device = loaded(options)
    if not inverts(module):
        raise UsageError(
            f"{options.ckpt_path} holds a {type(module).__name__}, whose model goes from noise to data only: inversion "
            "needs a BCMModule or a DiffusionModule"
        )
    one_class("--to", options.to, module, 1)  # before any file is read
    ways = ways_of(module, options.steps, options.small, options.schedule)
    inputs = chosen_images(options, module)
    source = wanted_labels(options, module, inputs, "--from")
    target = one_class("--to", options.to, module, len(inputs.images))

    def images(make: "Callable[[Tensor, Any, Tensor], Tensor]", meter: Any) -> "Tensor":
        """What is made of (x0, noise, rows)."""

        def of_batch(noise: Any, rows: "Tensor") -> "Tensor":
            return make(from_uint8(inputs.images[rows]).to(device), noise, rows)

        return in_batches(of_batch, inputs.seeds, module, options.batch_size, device, meter)

    def own(rows: "Tensor") -> "Tensor | None":
        return at(source, rows, device)

    meter, again = meter_of(module), meter_of(module)
    shown = {
        "edited": images(lambda x0, n, rows: ways.down(ways.up(x0, n, own(rows)), at(target, rows, device)), meter),
        "regenerated": images(lambda x0, n, rows: ways.down(ways.up(x0, n, own(rows)), own(rows)), again),
    }
    if (control := ways.control) is not None:
        shown["control"] = images(lambda x0, n, rows: control(x0, n, own(rows)), again)
    made = shown["edited"]
    save_images(made, inputs.names, options.out)
    save_png(stacked(inputs.images[:SHOWN], shown["regenerated"][:SHOWN], made[:SHOWN]), options.out / "grid.png")
    distances, read = {name: psnr(x, inputs.images) for name, x in shown.items()}, _read_as(made, target)
    write_json(
        options.out / "scores.json",
        {
            **facts("edit", options, meter, ways),
            "from": None if source is None else source.tolist(),
            "to": options.to,
            "seeds": inputs.seeds,
            "images": inputs.names,
            "scores": {name: {"psnr": values.tolist()} for name, values in distances.items()},
            "read_as_target": read,
        },
    )
    kept = {name: f"{float(values.mean()):.4g} dB" for name, values in distances.items()}
    print(
        f"{len(made)} images in {options.out}, made into class {options.to}: {meter.nfe:g} network evaluations each "
        f"(counted), {1000 * meter.seconds_per_image:.3g} ms an image on {device}"
    )
    print(
        f"PSNR to the inputs: {kept['edited']}; regenerated as of their own class, the inversion alone: "
        f"{kept['regenerated']}"
        + (f"; the control, {ways.small:g} noise taken away without inversion: {kept['control']}" if control else "")
    )
    if read is not None:
        print(f"read as class {options.to} by the data's classifier: {read:.1%}")
    check_all_done(inputs)


def _read_as(images: "Tensor", label: "Tensor") -> float | None:
    """The share that the data's own classifier reads as `label`; None where there is no such classifier."""
    from evaluation.classifier import ClassifierFeatures
    from evaluation.features import extract, feature_network_for

    if tuple(images.shape[1:]) not in ((1, 8, 8), (1, 28, 28)):
        return None
    judge = feature_network_for(tuple(images.shape[1:]))  # type: ignore[arg-type]
    assert isinstance(judge, ClassifierFeatures)
    return float((extract(judge, images).logits.argmax(1) == label).double().mean())
