"""Where the noise levels of `restore` lie, by model, task and method."""

from dataclasses import dataclass
from typing import Any

from cli.errors import UsageError
from cli.image_to_image import gives_mean, levels_down
from cli.restore_methods import DENOISE, INVERTING, SDEDIT, STROKES, method_named, paired_name

FIRST = {"blind": 0.3}
"""First noise level of the methods that do not start at 2; what inverts goes up to sigma_max."""
UP_TO_THE_TOP = ("inversion", "noise-space")
"""Methods whose first level is sigma_max."""
PAPER = (5.38, 2.24, 256)
"""Levels of stroke-guided generation for images of 256 pixels (arXiv 2303.01469, app. D)."""


@dataclass(frozen=True)
class Way:
    """How images are restored.

    Args:
        method: of `cli.restore_methods`; the model's default.
        steps: noise levels visited, one evaluation each; 4 by default, 2 for strokes, and 20 for a diffusion model and
            one that was trained for the task.
        level: the first of them; 2 by default, blind 0.3, of a diffusion model sigma_max, of strokes 5.38 times the
            side over 256. Of denoise that of the noise. Inversion and noise-space go up to sigma_max and take none.
        small: level of the noise that is amplified, of the methods that invert.
    """

    method: str | None = None
    steps: int | None = None
    level: float | None = None
    small: float = 0.1


def levels_for(way: Way, module: Any, task: str | None = None) -> tuple[float, ...]:
    """Descending levels, one evaluation each: for a diffusion model Karras' grid down to sigma_min, for a model trained
    on pairs its own.

    Raises:
        UsageError: the first is none of the model's, or is told where it has no effect; or the small noise is not below
            all of them.
    """
    low, high = module.denoiser.sigma_min, module.denoiser.sigma_max
    method, many = method_named(way.method, module, task), gives_mean(module)
    if paired_name(module) is not None:
        if way.level is not None:
            raise UsageError(f"level {way.level:g}: {type(module).__name__} starts where its training did")
        return tuple(module.levels(way.steps or 20))
    level = way.level
    if level is not None and method in UP_TO_THE_TOP:
        raise UsageError(f"level {level:g}: {method} goes up to sigma_max; what it begins with is its small noise")
    if task == "denoise":
        noise = noise_level(way, module)
        if method == DENOISE:
            return (noise,)
    if level is None or task == "denoise":
        level = min(max(first_level(method, many, module), 1.01 * low), high)
    if not low < level <= high:
        raise UsageError(f"level {level:g}: it must lie above sigma_min = {low:g}, at most at sigma_max = {high:g}")
    if many:
        from diffusion.grids import KarrasGrid

        steps = way.steps or 20
        return tuple(KarrasGrid().levels(steps, low, level)) if steps > 1 else (level,)
    if method == STROKES and way.steps is None:
        second = PAPER[1] / PAPER[0] * level
        return (level, second) if second > low and not hasattr(module, "ladder") else levels_down(module, level, 1)
    levels = levels_down(module, level, way.steps) if way.steps else default_levels(module, level)
    if method in INVERTING and not 0 < way.small < levels[-1]:
        raise UsageError(f"small noise {way.small:g}: it must lie above 0 and below the last level, {levels[-1]:.3g}")
    return levels


def first_level(method: str, many: bool, module: Any) -> float:
    """The level at which a method starts unless it is told one.

    Noise hides the shapes of a painting up to a size in pixels that grows with its level; so strokes start at the
    paper's level times the side of the images over the paper's.
    """
    if method in (STROKES, SDEDIT):
        return PAPER[0] * module.image_shape[1] / PAPER[2]
    if many or method in UP_TO_THE_TOP:
        return module.denoiser.sigma_max
    return FIRST.get(method, 2.0)


def default_levels(module: Any, level: float) -> tuple[float, ...]:
    """Four levels down, or as many as a model has that was trained at a few."""
    for steps in (4, 3, 2):
        try:
            return levels_down(module, level, steps)
        except UsageError:
            continue
    return levels_down(module, level, 1)


def noise_level(way: Way, module: Any) -> float:
    """The level of the noise in the images that the task denoise is of.

    Raises:
        UsageError: the model does not know it.
    """
    low, high, level = module.denoiser.sigma_min, module.denoiser.sigma_max, way.level
    if level is None:
        raise UsageError("task denoise needs a level, the standard deviation of the noise (of images in [-1, 1])")
    if not low <= level <= high:
        raise UsageError(f"level {level:g}: this model knows noise from {low:g} to {high:g}")
    if getattr(module, "ladder", None) is not None:
        known = module.ladder.levels(low, high)[1:].tolist()
        if module.ladder.substeps == 1 and min(abs(rung / level - 1) for rung in known) > 0.01:
            offered = ", ".join(f"{rung:.4g}" for rung in known)
            raise UsageError(f"level {level:g}: this model was trained at noise of {offered} alone")
    return level
