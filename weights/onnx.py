"""A denoiser as an ONNX file."""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion.denoisers import Denoiser, FlowMapDenoiser
from weights.table import WeightsError


class Positional(nn.Module):
    """A denoiser whose inputs come one after the other, as ONNX names them.

    Args:
        denoiser: any.
        names: of the inputs after the images and their levels.
    """

    def __init__(self, denoiser: Denoiser, names: tuple[str, ...]):
        super().__init__()
        self.denoiser, self.names = denoiser, names

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """Images (B, C, H, W), levels (B,) and what `names` says -> x0 (B, C, H, W)."""
        x, sigma, *rest = inputs
        return self.denoiser(x, sigma, **dict(zip(self.names, rest, strict=True)))


def example_inputs(denoiser: Denoiser, image_shape: tuple[int, int, int], num_classes: int) -> dict[str, Tensor]:
    """Inputs of a batch of two by name: x, sigma, and label, target or latent where the denoiser takes them."""
    inputs = {"x": torch.randn(2, *image_shape), "sigma": torch.full((2,), denoiser.sigma_max)}
    if num_classes:
        inputs["label"] = torch.zeros(2, dtype=torch.int64)
    if isinstance(denoiser, FlowMapDenoiser):
        inputs["target"] = torch.full((2,), denoiser.sigma_min)
    if latent_size := getattr(denoiser.network, "latent_size", 0):
        inputs["latent"] = torch.randn(2, latent_size)
    return inputs


def save_onnx(denoiser: Denoiser, path: Path, image_shape: tuple[int, int, int], num_classes: int) -> list[str]:
    """Write a denoiser as an ONNX file whose batch size is free, in float32; the names of its inputs.

    The output is x0.

    Raises:
        WeightsError: the packages that it needs are not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise WeightsError(f"ONNX needs {error.name}: pip install -e '.[export]'") from None
    inputs = example_inputs(denoiser, image_shape, num_classes)
    names = list(inputs)
    batch: Any = torch.export.Dim("batch")
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="# The axis name")  # all inputs share one
        torch.onnx.export(
            Positional(denoiser, tuple(names[2:])).eval(),
            (list(inputs.values()),),
            str(path),
            input_names=names,
            output_names=["x0"],
            dynamic_shapes=([{0: batch} for _ in names],),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    return names
