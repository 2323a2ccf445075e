"""Does a GPU compute what the CPU computes? Losses, gradients and samples of every method, at the same draws.

    python -m benchmarks.gpu_checks --json benchmarks/results/gpu_checks.json
    python -m benchmarks.gpu_checks --device cpu --methods ct --variants bfloat16            what runs without one

The reference is float32 on the CPU, on one set of weights and random numbers. An error is ||y - y_ref||/||y_ref||; the
gradient is that of the mean loss with respect to all weights. It exits with 1 where an error is above its limit.
"""

import argparse
import contextlib
import copy
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.ours import EVALUATIONS, METHODS, UNCOMPILED, Variant
from benchmarks.record import record
from benchmarks.shapes import SHAPES, Shape
from diffusion.rng import ImageNoise

VARIANTS = {
    "float32": (Variant(), 1e-3),
    "channels_last": (Variant(channels_last=True), 1e-3),
    "compile": (Variant(compiled=True), 1e-3),
    "bfloat16": (Variant(bfloat16=True), 0.1),
    "bfloat16_compile": (Variant(bfloat16=True, compiled=True, channels_last=True), 0.1),
}
"""How a GPU runs, and the error that is allowed: of a sum of rounded products, and of eight bits of a mantissa."""


@dataclass(frozen=True)
class Check:
    """The errors of one method run in one way, beside the CPU in float32."""

    method: str
    variant: str
    loss: float
    gradient: float
    samples: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether no error is above the limit; NaN is."""
        return all(error <= self.limit for error in (self.loss, self.gradient, self.samples))


def moved(draws: Any, device: torch.device) -> Any:
    """The random numbers of a step, a named tuple, on a device."""
    return draws._replace(**{k: v.to(device) for k, v in draws._asdict().items() if isinstance(v, Tensor)})


def randomise(module: torch.nn.Module, seed: int) -> None:
    """Weights of which none is zero: layers that start at zero hide those before them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                fan = parameter[0].numel()
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan**0.5)


def results(
    method: str, shape: Shape, variant: Variant, device: torch.device, state: Any, x0: Tensor, draws: Any
) -> tuple[Tensor, ...]:
    """Losses (B,), the gradient (P,), and samples (B, C, H, W), on the CPU in float64."""
    module = METHODS[method](shape, variant.compiled)
    module.load_state_dict(state["module"])
    if (teacher := getattr(module, "teacher", None)) is not None:
        teacher.denoise.load_state_dict(state["teacher"])
    module.to(device)
    if variant.channels_last:
        module.to(memory_format=torch.channels_last)
    module.draw = lambda *_, **__: moved(draws, device)
    with torch.autocast(device.type, torch.bfloat16) if variant.bfloat16 else contextlib.nullcontext():
        loss = module.loss(x0.to(device))
    loss.mean().backward()
    gradient = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
    noise = ImageNoise(range(len(x0)), shape.image_shape, device)
    steps = EVALUATIONS.get(method, (1,))[0]
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=variant.bfloat16):
        samples = module.sample(noise, steps)
    return tuple(y.detach().double().cpu() for y in (loss, gradient, samples))


def check(
    method: str, shape: Shape, names: Sequence[str], device: torch.device, batch_size: int, seed: int = 0
) -> list[Check]:
    """One method run in several ways on `device`."""
    torch.manual_seed(seed)
    module = METHODS[method](shape, False)
    randomise(module, seed)
    module.ema.reset(module.denoiser)
    teacher = getattr(module, "teacher", None)
    if teacher is not None:
        randomise(teacher.denoise, seed + 1)
    state = {"module": copy.deepcopy(module.state_dict()), "teacher": teacher and teacher.denoise.state_dict()}
    x0 = 2 * torch.rand(batch_size, *shape.image_shape) - 1
    draws = module.draw(x0)
    exact = results(method, shape, Variant(), torch.device("cpu"), state, x0, draws)
    checks = []
    for name in names:
        variant, limit = VARIANTS[name]
        if variant.compiled and method in UNCOMPILED:
            continue
        found = results(method, shape, variant, device, state, x0, draws)
        errors = [float((y - ref).norm() / ref.norm()) for y, ref in zip(found, exact, strict=True)]
        checks.append(Check(method, name, *errors, limit))
    return checks


def main(argv: Sequence[str] | None = None) -> int:
    """Check, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--size", choices=list(SHAPES), default="small", help="network")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="V")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--json", type=Path, help="write the results here as well")
    options = parser.parse_args(argv)
    if options.device.type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here; --device cpu checks the variants alone")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # float32 means float32
    checks = []
    for method in options.methods:
        for done in check(method, SHAPES[options.size], options.variants, options.device, options.batch_size):
            checks.append(done)
            errors = f"loss {done.loss:.1e}, gradient {done.gradient:.1e}, samples {done.samples:.1e}"
            print(f"{method}, {done.variant}: {errors}{'' if done.passed else f'  ABOVE {done.limit:g}'}", flush=True)
    if options.json:
        rows = [asdict(done) | {"passed": done.passed} for done in checks]
        record(options.json, "gpu_checks", argv, {"size": options.size, "checks": rows}, device=options.device)
    return int(not all(done.passed for done in checks))


if __name__ == "__main__":
    sys.exit(main())
