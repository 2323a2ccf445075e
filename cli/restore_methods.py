"""How `restore` works: the methods by the names that the command line gives them, and which model has which."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from cli.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Case:
    """A batch to restore.

    Args:
        denoise: of the model, with its latents drawn.
        operator: what was done to the images.
        y: what is left of them.
        noise: of this batch's seeds.
        label: (B,) or None.
        levels: descending, one evaluation each; of the methods that invert, the large levels.
        small: level of the small noise, of the methods that amplify it.
        low, high: the model's sigma_min and sigma_max.
        sigma_data: of the data.
    """

    denoise: Any
    operator: Any
    y: "Tensor"
    noise: Any
    label: "Tensor | None"
    levels: tuple[float, ...]
    small: float
    low: float
    high: float
    sigma_data: float


def zero_shot(case: Case) -> "Tensor":
    from tasks.few_step import zero_shot as run

    return run(case.denoise, case.operator, case.y, case.levels, case.noise, case.label, sigma_min=case.low)


def corrected(case: Case) -> "Tensor":
    from tasks.few_step import zero_shot_corrected as run

    levels, s = case.levels, case.sigma_data
    return run(
        case.denoise, case.operator, case.y, levels, case.noise, case.label, sigma_data=s, sigma_min=case.low
    )  # fmt: skip


def blind(case: Case) -> "Tensor":
    """Noise and denoise, without a look at what was done."""
    from diffusion.samplers import image_to_image

    start = case.operator.shown(case.y)
    return image_to_image(case.denoise, start, case.levels, case.noise, case.label, case.low)


def control(case: Case) -> "Tensor":
    """One evaluation at the level of the small noise: what a perfect model would make of an inversion."""
    from diffusion.samplers import image_to_image

    start = case.operator.shown(case.y)
    return image_to_image(case.denoise, start, (max(case.small, case.low),), case.noise, case.label, case.low)


def inversion(case: Case) -> "Tensor":
    from tasks.bidirectional import restore_by_inversion as run

    start, path = case.operator.shown(case.y), (case.small, case.high)
    return run(case.denoise, start, path, case.noise, case.label, way_back=case.levels[1:], sigma_min=case.low)


def zigzag(case: Case) -> "Tensor":
    from tasks.bidirectional import zigzag_edit as run

    rounds = [(case.small, level) for level in case.levels]
    return run(case.denoise, case.operator, case.y, rounds, case.noise, case.label, sigma_min=case.low)


def noise_space(case: Case) -> "Tensor":
    from tasks.bidirectional import noise_space_inpainting as run

    path = (case.small, case.high)
    return run(
        case.denoise, case.operator, case.y, path, case.noise, case.label, way_back=case.levels[1:], sigma_min=case.low
    )  # fmt: skip


def ddrm(case: Case) -> "Tensor":
    from tasks.null_space import ddrm as run

    return run(case.denoise, case.operator, case.y, case.levels, case.noise, case.label)


def ddnm(case: Case) -> "Tensor":
    from tasks.null_space import ddnm as run

    return run(case.denoise, case.operator, case.y, case.levels, case.noise, case.label)


def repaint(case: Case) -> "Tensor":
    from tasks.null_space import repaint as run

    return run(case.denoise, case.operator, case.y, case.levels, case.noise, case.label)


def pigdm(case: Case, adaptive: bool = False) -> "Tensor":
    from tasks.gradient_guidance import pigdm as run

    s = case.sigma_data
    return run(
        case.denoise, case.operator, case.y, case.levels, case.noise, case.label, sigma_data=s, adaptive=adaptive
    )


def dps(case: Case) -> "Tensor":
    from tasks.gradient_guidance import dps as run

    return run(case.denoise, case.operator, case.y, case.levels, case.noise, case.label)


def strokes(case: Case) -> "Tensor":
    from tasks.few_step import stroke_guided as run

    return run(case.denoise, case.y, case.noise, case.label, sigmas=case.levels, sigma_min=case.low)


def sdedit(case: Case) -> "Tensor":
    from tasks.sde_edit import sdedit as run

    return run(case.denoise, case.y, case.levels, case.noise, case.label)


def denoise_once(case: Case) -> "Tensor":
    from tasks.few_step import denoise_at as run

    return run(case.denoise, case.y, case.levels[0], case.label, sigma_min=case.low)


FEW_STEP: dict[str, Callable[[Case], "Tensor"]] = {"zero-shot": zero_shot, "corrected": corrected, "blind": blind}
"""Of consistency models and generators; the first is the default."""
INVERTING: dict[str, Callable[[Case], "Tensor"]] = {
    "inversion": inversion,
    "zigzag": zigzag,
    "noise-space": noise_space,
}
"""Of bidirectional models alone."""
MANY_STEP: dict[str, Callable[[Case], "Tensor"]] = {
    "ddnm": ddnm,
    "ddrm": ddrm,
    "pigdm": pigdm,
    "pigdm-adaptive": partial(pigdm, adaptive=True),
    "dps": dps,
    "repaint": repaint,
}
"""Of diffusion models, whose denoiser is a posterior mean."""


PAIRED = {"i2sb": "I2SBModule", "palette": "PaletteModule"}
"""Models trained on pairs, each for its own task alone."""
STROKES, SDEDIT, DENOISE = "strokes", "sdedit", "denoise"
"""Methods of one task: from strokes with a few-step model and with a diffusion model, and from noise."""


def paired_name(module: Any) -> str | None:
    """The method that a model trained on pairs is; None for any other model."""
    import lightning_modules

    kinds = ((name, getattr(lightning_modules, kind)) for name, kind in PAIRED.items())
    return next((name for name, kind in kinds if isinstance(module, kind)), None)


def methods_of(module: Any, task: str | None = None) -> dict[str, Callable[[Case], "Tensor"]]:
    """A model's methods for a task by name, the default first; without a task those of the linear operators and JPEG.

    Raises:
        UsageError: it has none.
    """
    from cli.image_to_image import gives_mean, refusal
    from diffusion.denoisers import BidirectionalDenoiser

    if (own := paired_name(module)) is not None:
        return {own: lambda case: module.restore(case.y, case.noise, len(case.levels), case.label)}
    many = gives_mean(module)
    if not many and (reason := refusal(module)) is not None:
        raise UsageError(f"a {type(module).__name__} cannot restore: {reason.partition(':')[0].removeprefix('and ')}")
    if task == "strokes":
        return {SDEDIT: sdedit} if many else {STROKES: strokes}
    if task == "denoise":
        linear = {name: MANY_STEP[name] for name in ("ddnm", "ddrm", "pigdm", "pigdm-adaptive")}
        return {DENOISE: denoise_once, **(linear if many else {})}
    if many:
        return MANY_STEP
    return FEW_STEP | (INVERTING if isinstance(module.ema_denoiser, BidirectionalDenoiser) else {})


def method_named(name: str | None, module: Any, task: str | None = None) -> str:
    """The name of a method, the model's default for None.

    Raises:
        UsageError: it is none of this model's for this task.
    """
    offered = methods_of(module, task)
    if name is not None and name not in offered:
        of = f" for task {task}" if task in ("strokes", "denoise") else ""
        raise UsageError(f"method {name}: a {type(module).__name__} has {', '.join(offered)}{of}")
    return next(iter(offered)) if name is None else name
