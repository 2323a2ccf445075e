"""How fast sampling is beside diffusers' pipeline with the same weights, and scoring beside torch-fidelity.

    python -m benchmarks.libraries --size small
    OMP_NUM_THREADS=1 python -m benchmarks.libraries --threads 1 --clock cpu --json out.json    where others compute too

diffusers (`pip install diffusers`): a consistency model that its UNet2DModel can be too is exported, loaded by its
ConsistencyModelPipeline and sampled with one and two evaluations. torch-fidelity: FID, IS and KID of two sets of
random images by Inception, with random weights unless a file is given; the features of both are computed anew. The
cases take turns in one process; speed-ups are medians of the rounds' own ratios.
"""

import argparse
import copy
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.record import record
from benchmarks.shapes import CPU, SHAPES, Shape
from benchmarks.timing import Times, interleave, speedup
from diffusion.denoisers import ConsistencyDenoiser
from diffusion.rng import ImageNoise
from diffusion.samplers import multistep
from evaluation.distances import frechet_distance, inception_score, kernel_inception_distance
from evaluation.features import extract
from evaluation.inception import InceptionFeatures
from networks import UNet
from weights.diffusers_export import save_pipeline

SECOND = 22
"""Place of the second level on the pipeline's grid of 40, as in diffusers' own example."""

LIBRARIES = ("diffusers", "torch-fidelity")

Calls = Mapping[tuple[str, str], Callable[[], Any]]
"""What is timed, by what it does and whose code does it ("ours", "ours compiled" or one of `LIBRARIES`)."""


def sampling(shape: Shape, batch_size: int, folder: Path, device: torch.device = CPU) -> Calls:
    """One and two evaluations of one model in float32, as `sample` runs it and as the pipeline does.

    On a GPU also by the GPU's own means: ours under bfloat16 autocast, as it is and compiled, theirs in float16.
    """
    from diffusers import ConsistencyModelPipeline

    arguments: dict[str, Any] = {
        "channels": shape.channels,
        "channel_mult": shape.channel_mult,
        "num_blocks": shape.num_blocks,
        "attention_resolutions": shape.attention_resolutions,
        "channels_per_head": shape.channels_per_head,
        "embedding_scale": 1000.0,
        "norm_groups": 32,
    }
    f = ConsistencyDenoiser(UNet(shape.image_shape, **arguments)).eval().requires_grad_(False)
    for parameter in f.parameters():
        parameter.normal_(std=0.1)  # a new network's output is zero
    told = {"class_path": "networks.UNet", "init_args": {"image_shape": shape.image_shape, **arguments}}
    save_pipeline(f, folder, told)
    f.to(device, memory_format=torch.channels_last)
    calls: dict[tuple[str, str], Callable[[], Any]] = {}
    for precision, dtype in {"": torch.float32, " half": torch.float16}.items():
        if precision and device.type == "cpu":
            continue
        pipeline = ConsistencyModelPipeline.from_pretrained(folder, torch_dtype=dtype).to(device)
        pipeline.set_progress_bar_config(disable=True)
        pipeline.scheduler.set_timesteps(timesteps=[SECOND, 0])
        mine = {"ours": f}
        if precision:
            mine["ours compiled"] = copy.deepcopy(f)
            mine["ours compiled"].network.compile(fullgraph=True, dynamic=False)
        levels = (f.sigma_max, float(pipeline.scheduler.sigmas[1]))
        told_steps = ({"num_inference_steps": 1}, {"num_inference_steps": None, "timesteps": [SECOND, 0]})
        for n, steps in enumerate(told_steps, 1):
            for name, g in mine.items():
                call = partial(ours, g, shape, batch_size, levels[:n], device, bool(precision))
                calls[f"sample_{n}{precision}", name] = call
            calls[f"sample_{n}{precision}", "diffusers"] = partial(theirs, pipeline, batch_size, **steps)
    return calls


@torch.no_grad()
def ours(
    f: ConsistencyDenoiser,
    shape: Shape,
    batch_size: int,
    sigmas: tuple[float, ...],
    device: torch.device,
    bfloat16: bool = False,
) -> Tensor:
    """Samples (B, C, H, W) by our sampler, a generator for each image."""
    noise = ImageNoise(range(batch_size), shape.image_shape, device)
    with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        return multistep(f, f.sigma_max * noise(), sigmas, noise)


def theirs(pipeline: Any, batch_size: int, **steps: Any) -> Tensor:
    """Samples (B, C, H, W) by diffusers' pipeline."""
    return pipeline(batch_size=batch_size, generator=torch.manual_seed(0), output_type="pt", **steps).images


def random_inception() -> torch.nn.Module:
    """torch-fidelity's Inception with random weights: its scores mean nothing, and take as long as real ones."""
    from torch_fidelity import feature_extractor_inceptionv3 as module

    network = module.FeatureExtractorInceptionV3
    with (
        patch.object(module, "load_state_dict_from_url", lambda *args, **options: {}),
        patch.object(network, "load_state_dict", lambda self, state: None),
    ):
        return network("inception-v3-compat", ["2048", "logits_unbiased"])


def random_weights(folder: Path) -> Path:
    """A file of the weights of `random_inception`."""
    torch.save(random_inception().state_dict(), folder / "random.pth")
    return folder / "random.pth"


class Images(torch.utils.data.Dataset):
    """Images (N, 3, H, W) uint8 as torch-fidelity wants them: one by one."""

    def __init__(self, images: Tensor):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Tensor:
        return self.images[i]


def scoring(n: int, weights: Path) -> Calls:
    """FID, IS and KID of n images against n others (32x32 RGB)."""
    from torch_fidelity import calculate_metrics

    generator = torch.Generator().manual_seed(0)
    a, b = torch.randint(0, 256, (2, n, 3, 32, 32), dtype=torch.uint8, generator=generator)
    judge = InceptionFeatures(weights)

    def score() -> dict[str, float]:
        judged, real = extract(judge, a, batch_size=64), extract(judge, b, batch_size=64)
        return {
            "frechet_inception_distance": frechet_distance(judged.moments, real.moments),
            "inception_score_mean": inception_score(judged.logits),
            "kernel_inception_distance_mean": kernel_inception_distance(judged.features, real.features, subset_size=n),
        }

    library = partial(
        calculate_metrics,
        input1=Images(a),
        input2=Images(b),
        fid=True,
        isc=True,
        kid=True,
        kid_subset_size=n,
        cuda=False,
        batch_size=64,
        cache=False,
        verbose=False,
        feature_extractor_weights_path=str(weights),
    )
    return {("scoring", "ours"): score, ("scoring", "torch-fidelity"): library}


def table(timed: Mapping[tuple[str, str], Times], clock: str) -> list[dict[str, Any]]:
    """A row for each case: seconds, and of ours how many times faster than the library."""
    rows = []
    for (what, code), times in timed.items():
        row = {"what": what, "code": code, "seconds": times.summary(clock)}
        if code.startswith("ours"):
            other = next(found for (measure, by), found in timed.items() if measure == what and by in LIBRARIES)
            row["speedup"] = speedup(other, times, clock)
        rows.append(row)
    return rows


def main(argv: list[str] | None = None) -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SHAPES), default="small", help="network that is sampled")
    parser.add_argument("--batch-size", type=int, help="samples at once; by default 16 (small) and 2 (cifar)")
    parser.add_argument("--images", type=int, default=32, help="of each set that is scored, >= 10; 0: none")
    parser.add_argument("--inception-weights", type=Path, help="file of Inception's weights (default: random ones)")
    parser.add_argument("--repeats", type=int, default=10, help="rounds of sampling; a fifth of them of scoring")
    parser.add_argument("--threads", type=int, help="of torch; by default as many as it takes")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: this process's CPU time")
    parser.add_argument("--device", type=torch.device, default=CPU, help="of the samples; scores: CPU")
    parser.add_argument("--json", type=Path, help="write the results here as well")
    options = parser.parse_args(argv)
    if 0 < options.images < 10:
        parser.error(f"--images {options.images}: an Inception score has 10 splits")
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    shape = SHAPES[options.size]
    with tempfile.TemporaryDirectory() as folder:
        calls = sampling(shape, options.batch_size or shape.batch_size, Path(folder) / "pipeline", options.device)
        rows = table(interleave(calls, options.repeats, device=options.device), options.clock)
        if options.images:
            weights = options.inception_weights or random_weights(Path(folder))
            scored = interleave(scoring(options.images, weights), -(-options.repeats // 5))
            rows += table(scored, options.clock)
    for row in rows:
        said = f"{row['what']:<13} {row['code']:<15} {row['seconds']['median']:.4g} s"
        if ratio := row.get("speedup"):
            said += f", {ratio['median']:.2f} times as fast [{ratio['q1']:.2f}, {ratio['q3']:.2f}]"
        print(said)
    if options.json:
        result = {"clock": options.clock, "size": options.size, "images": options.images, "rows": rows}
        record(options.json, "libraries", argv, result, options.device, private=(options.inception_weights,))


if __name__ == "__main__":
    main()
