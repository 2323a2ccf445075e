"""The card of an exported model: README.md with its data, its training and the scores found beside the checkpoint."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from cli.run_files import run_directory
from evaluation.protocol import Protocol
from weights.grid import grid, nearest_timesteps

KINDS = {
    "safetensors": "Load it by `weights.pretrained.from_pretrained`, or make a checkpoint of it by\n"
    "`python main.py import --from hub FOLDER`.",
    "hub": "Load it by `weights.pretrained.from_pretrained`, or make a checkpoint of it by\n"
    "`python main.py import --from hub FOLDER`.",
    "diffusers": "Load it by `diffusers.ConsistencyModelPipeline.from_pretrained(FOLDER)`.",
    "onnx": "`model.onnx` is the denoiser: images and their noise levels in, x0 out; the batch size is free.",
}


def model_card(name: str, kind: str, what: str, ckpt_path: str, checkpoint: Mapping[str, Any], module: Any) -> str:
    """The text of a card.

    Args:
        name: of the model.
        kind: what it was exported to.
        what: that is, in words.
        ckpt_path: the checkpoint; its run's scores are looked for beside it.
        checkpoint: its content.
        module: built of it.
    """
    library = "diffusers" if kind == "diffusers" else "fewstep"
    tags = ["few-step-generation", method(module)]
    head = {"library_name": library, "pipeline_tag": "unconditional-image-generation", "tags": tags}
    return "\n".join(
        [
            "---",
            yaml.safe_dump(head, sort_keys=False).strip(),
            "---",
            "",
            f"# {name}",
            "",
            KINDS[kind],
            "",
            "## Model",
            "",
            *(f"- {line}" for line in model_lines(module)),
            f"- here: {what}",
            *(f"- {line}" for line in (timestep_lines(module) if kind == "diffusers" else ())),
            "",
            "## Data and training",
            "",
            *(f"- {line}" for line in training_lines(checkpoint, module)),
            "",
            "## Scores",
            "",
            *score_lines(ckpt_path, module),
            "",
        ]
    )


def method(module: Any) -> str:
    """The name of a module's class without its last word."""
    return type(module).__name__.removesuffix("Module").lower()


def model_lines(module: Any) -> Iterator[str]:
    """What it is."""
    denoiser = module.ema_denoiser
    count = sum(parameter.numel() for parameter in denoiser.network.parameters())
    yield f"a {type(denoiser).__name__} around a {type(denoiser.network).__name__} of {count:,} parameters, in float32"
    c, h, w = module.image_shape
    classes = f"with the classes 0 to {module.num_classes - 1}" if module.num_classes else "without classes"
    yield f"images of {c}x{h}x{w} in [-1, 1], {classes}"
    yield (f"noise levels from sigma_min = {denoiser.sigma_min:g} to sigma_max = {denoiser.sigma_max:g}; "
           f"sigma_data = {denoiser.sigma_data:g}")  # fmt: skip
    yield f"averaged weights (rate {module.ema.rates[0]:g} a step)"


def timestep_lines(module: Any) -> Iterator[str]:
    """What to give the pipeline of diffusers for the module's own schedules."""
    denoiser = module.ema_denoiser
    low, high = denoiser.sigma_min, denoiser.sigma_max
    for levels in module.schedules:
        steps = nearest_timesteps(levels, low, high)
        there = ", ".join(f"{sigma:.4g}" for sigma in grid(low, high)[steps].flip(0).tolist())
        ours = ", ".join(f"{sigma:g}" for sigma in levels)
        yield f"for the levels {ours}: `timesteps={steps}`, which are the levels {there}"


def training_lines(checkpoint: Mapping[str, Any], module: Any) -> Iterator[str]:
    """Where the weights are from."""
    if imported := checkpoint.get("imported"):
        yield (f"imported from {imported['from']}: `{Path(imported['path']).name}`, SHA-256 {imported['sha256']}; "
               f"its data and training are its authors' to tell")  # fmt: skip
        return
    data = yaml.safe_load(checkpoint.get("config", "") or "{}").get("data") or {}
    if "class_path" in data:
        given = {key: value for key, value in (data.get("init_args") or {}).items() if value is not None}
        told = ", ".join(f"{key}={value}" for key, value in given.items())
        yield f"data: {data['class_path'].rpartition('.')[2]}" + (f" ({told})" if told else "")
    else:
        yield "data: the checkpoint does not tell"
    yield f"method: {type(module).__name__}, {module.images_seen:,} of {module.total_images:,} training images seen"
    if module.training_seconds:
        yield f"{module.training_seconds / 3600:.3g} hours of training"


def score_lines(ckpt_path: str, module: Any) -> Iterator[str]:
    """Tables of the scores in the run's directory that are of these weights, with their protocol."""
    found = False
    for path in sorted(run_directory(ckpt_path).glob("scores*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("images_seen") != module.images_seen or not content.get("scores"):
            continue
        found = True
        yield from _table(content["scores"])
        yield ""
    if not found:
        yield "None were found beside the checkpoint: `python main.py test` makes them."


def _table(scores: list[dict[str, Any]]) -> Iterator[str]:
    names = [*scores[0]["distances"], *(name for name in scores[0]["alone"] if "/" not in name)]
    yield f"| images | against | N | NFE | {' | '.join(names)} |"
    yield f"|---|---|{'---|' * (2 + len(names))}"
    for score in scores:
        protocol, values = Protocol.from_dict(score["protocol"]), {**score["distances"], **score["alone"]}
        cells = [f"{values[name]:.4g}" if values.get(name) is not None else "" for name in names]
        nfe = "" if protocol.source.nfe is None else f"{protocol.source.nfe:g}"
        yield f"| {protocol.source.name} | {protocol.reference} | {protocol.images} | {nfe} | {' | '.join(cells)} |"
    yield ""
    first = Protocol.from_dict(scores[0]["protocol"])
    seeds = f"seeds {first.source.seeds}, levels {first.source.sampling}; " if first.source.seeds else ""
    yield f"Protocol: {seeds}{first.describe()}."
