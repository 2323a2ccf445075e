"""Where the noise levels of `restore` lie, by model, task and method."""

from typing import TYPE_CHECKING, Any

from cli.errors import UsageError
from cli.image_to_image import levels_down
from cli.restore_methods import DENOISE, INVERTING, SDEDIT, STROKES, is_diffusion, method_name, paired_name

if TYPE_CHECKING:
    import argparse

FIRST = {"blind": 0.3}
"""First noise level of the methods that do not start at 2; what inverts goes up to sigma_max."""
PAPER = (5.38, 2.24, 256)
"""Levels of stroke-guided generation for images of 256 pixels (arXiv 2303.01469, app. D)."""


def levels_for(options: "argparse.Namespace", module: Any) -> tuple[float, ...]:
    """Descending levels, one evaluation each: for a diffusion model Karras' grid down to sigma_min, for a model trained
    on pairs its own.

    Raises:
        UsageError: the first is none of the model's, or --small is not below all of them.
    """
    low, high = module.denoiser.sigma_min, module.denoiser.sigma_max
    method, many = method_name(options.method, module, options.task), is_diffusion(module)
    if paired_name(module) is not None:
        if options.level is not None:
            raise UsageError(f"--level {options.level:g}: {type(module).__name__} starts where its training did")
        return tuple(module.levels(options.steps or 20))
    level = noise_level(options, module) if options.task == "denoise" else options.level
    if method == DENOISE:
        return (level,)
    if level is None or options.task == "denoise":
        level = min(max(first_level(method, many, module), 1.01 * low), high)
    if not low < level <= high:
        raise UsageError(f"--level {level:g}: it must lie above sigma_min = {low:g}, at most at sigma_max = {high:g}")
    if many:
        from diffusion.grids import KarrasGrid

        steps = options.steps or 20
        return tuple(KarrasGrid().levels(steps, low, level)) if steps > 1 else (level,)
    if method == STROKES and options.steps is None:
        second = PAPER[1] / PAPER[0] * level
        return (level, second) if second > low and not hasattr(module, "ladder") else levels_down(module, level, 1)
    levels = levels_down(module, level, options.steps) if options.steps else default_levels(module, level)
    if method in INVERTING and not 0 < options.small < levels[-1]:
        raise UsageError(f"--small {options.small:g}: it must lie above 0 and below the last level, {levels[-1]:.3g}")
    return levels


def first_level(method: str, many: bool, module: Any) -> float:
    """The level at which a method starts unless it is told one.

    Noise hides the shapes of a painting up to a size in pixels that grows with its level; so strokes start at the
    paper's level times the side of the images over the paper's.
    """
    if method in (STROKES, SDEDIT):
        return PAPER[0] * module.image_shape[1] / PAPER[2]
    if many or method in ("inversion", "noise-space"):
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


def noise_level(options: "argparse.Namespace", module: Any) -> float:
    """The level of the noise in the images that `--task denoise` is of.

    Raises:
        UsageError: the model does not know it.
    """
    low, high, level = module.denoiser.sigma_min, module.denoiser.sigma_max, options.level
    if level is None:
        raise UsageError("--task denoise needs --level, the standard deviation of the noise (of images in [-1, 1])")
    if not low <= level <= high:
        raise UsageError(f"--level {level:g}: this model knows noise from {low:g} to {high:g}")
    if getattr(module, "ladder", None) is not None:
        known = module.ladder.levels(low, high)[1:].tolist()
        if module.ladder.substeps == 1 and min(abs(rung / level - 1) for rung in known) > 0.01:
            offered = ", ".join(f"{rung:.4g}" for rung in known)
            raise UsageError(f"--level {level:g}: this model was trained at noise of {offered} alone")
    return level
