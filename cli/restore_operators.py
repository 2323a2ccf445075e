"""What was done to the images that `restore` is given: what the user says, or what a model was trained for."""

from dataclasses import fields
from typing import Any

from cli.errors import UsageError
from cli.restore_tasks import Damage


def operator_of(damage: Damage, module: Any) -> Any:
    """The operator of a damage for a model's images; of a model that was trained for one, that one.

    Raises:
        UsageError: as `Damage.operator`; or the model was trained for another.
    """
    own = getattr(module, "operator", None)
    if own is None:
        return damage.operator(module.image_shape)
    if damage.told and same(own, damage.operator(module.image_shape)):
        return own
    if not damage.told and task_of(own) == damage.task:
        return own
    task = task_of(own)
    hint = f" (task {task}, without more)" if task is not None else ""
    raise UsageError(f"task {damage.task}: this {type(module).__name__} was trained for {described(own)}{hint}")


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
        case Separable() if operator.rows.shape[0] == operator.rows.shape[1]:
            return "unblur"
        case AveragePool() | Separable():
            return "upscale"
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
