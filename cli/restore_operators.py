"""What was done to the images that `restore` is given: the operator that the options name, or a model's own."""

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from cli.errors import UsageError

if TYPE_CHECKING:
    import argparse

TASKS = {
    "inpaint": "the dark pixels of --mask are made anew (default: the central box)",
    "colourise": "colour from grey",
    "upscale": "from means of --factor x --factor pixels",
    "unblur": "from a Gaussian blur of --blur pixels",
    "jpeg": "from a JPEG of --quality",
    "denoise": "from Gaussian noise of standard deviation --level, of images in [-1, 1]",
    "strokes": "an image of the colours and coarse shapes of a painting",
}
DEFAULTS: dict[str, Any] = {"mask": None, "factor": 2, "blur": 1.0, "quality": 10}
"""Of the options that say what was done; a model that was trained for one operator has its own."""


def operator_for(options: "argparse.Namespace", shape: tuple[int, int, int]) -> Any:
    """The operator of `--task` for images of a shape (C, H, W).

    Raises:
        UsageError: the mask or a number does not fit.
    """
    import torch

    from tasks.jpeg import JPEG
    from tasks.masks import box_mask, mask_from_image
    from tasks.operators import AveragePool, Grey, Inpainting
    from tasks.separable import gaussian_blur
    from tasks.strokes import Strokes

    channels, height, width = shape
    given = {name: getattr(options, name) for name in DEFAULTS}
    asked = {name: DEFAULTS[name] if value is None else value for name, value in given.items()}
    mask, factor = asked["mask"], asked["factor"]
    try:
        match options.task:
            case "inpaint":
                return Inpainting(box_mask(height, width) if mask is None else mask_from_image(mask, height, width))
            case "colourise":
                if channels != 3:
                    raise ValueError("--task colourise: this model's images are grey themselves")
                return Grey()
            case "upscale":
                if height % factor or width % factor:
                    raise ValueError(f"--factor {factor} does not divide images of {height} x {width} pixels")
                return AveragePool(factor)
            case "unblur":
                return gaussian_blur(height, width, asked["blur"], threshold=0.05)
            case "denoise":
                return Inpainting(torch.ones(height, width, dtype=torch.bool), sigma_y=options.level or 0.0)
            case "strokes":
                return Strokes()
            case _:
                return JPEG(asked["quality"])
    except ValueError as error:
        raise UsageError(str(error)) from None


def operator_of(options: "argparse.Namespace", module: Any) -> Any:
    """The operator of `--task`; of a model that was trained for one, that one.

    Raises:
        UsageError: as `operator_for`; or the model was trained for another.
    """
    own = getattr(module, "operator", None)
    if own is None:
        return operator_for(options, module.image_shape)
    told = options.task == "denoise" or any(getattr(options, name) is not None for name in DEFAULTS)
    if told and same(own, operator_for(options, module.image_shape)):
        return own
    if not told and task_of(own) == options.task:
        return own
    task = task_of(own)
    hint = f" (--task {task}, without more)" if task is not None else ""
    raise UsageError(f"--task {options.task}: this {type(module).__name__} was trained for {described(own)}{hint}")


def task_of(operator: Any) -> str | None:
    """The task whose operator this is, whatever its numbers; None where there is no such task."""
    from tasks.jpeg import JPEG
    from tasks.operators import AveragePool, Grey, Inpainting
    from tasks.separable import Separable

    match operator:
        case Inpainting():
            return "denoise" if operator.mask.all() else "inpaint"
        case Grey():
            return "colourise"
        case AveragePool():
            return "upscale"
        case Separable() if operator.rows.shape[0] == operator.rows.shape[1]:
            return "unblur"
        case JPEG():
            return "jpeg"
    return None


def same(first: Any, second: Any) -> bool:
    """Whether two operators are of one kind and have the same numbers."""
    import torch

    def equal(a: Any, b: Any) -> bool:
        return torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else bool(a == b)

    alike = type(first) is type(second)
    return alike and all(equal(getattr(first, f.name), getattr(second, f.name)) for f in fields(first))


def described(operator: Any) -> str:
    """An operator in a few words: its kind and its numbers, of a tensor the shape."""
    numbers = ((f.name, getattr(operator, f.name)) for f in fields(operator))
    words = [f"{name}={' x '.join(map(str, v.shape)) if hasattr(v, 'shape') else v}" for name, v in numbers]
    return f"{type(operator).__name__}({', '.join(words)})"
