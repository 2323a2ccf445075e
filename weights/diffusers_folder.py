"""A folder of diffusers: a UNet2DModel by itself, or a ConsistencyModelPipeline with its scheduler."""

from pathlib import Path

from diffusion.denoisers import ConsistencyDenoiser
from weights.diffusers_unet import shape_of, table
from weights.files import read_json, read_safetensors
from weights.official import Levels, Official
from weights.table import WeightsError, to_ours

WEIGHTS = "diffusion_pytorch_model.safetensors"


def read_folder(folder: Path, resolution: int | None = None) -> Official:
    """The consistency model of a folder.

    Args:
        folder: with `config.json` and the weights, or with `unet/` and `scheduler/`.
        resolution: of the images where the configuration does not tell it.

    Raises:
        WeightsError: it is no such folder, or its network is not one that ours can be.
    """
    unet = folder / "unet" if (folder / "unet").is_dir() else folder
    if not (unet / "config.json").is_file():
        raise WeightsError(f"{folder}: no config.json here or in unet/, so it is not a folder of diffusers")
    shape = shape_of(read_json(unet / "config.json"), resolution)
    outline = shape.outline()
    state = to_ours(table(outline), read_safetensors(unet / WEIGHTS), outline)
    return Official(shape, state, ConsistencyDenoiser, _levels(folder / "scheduler" / "scheduler_config.json"))


def _levels(path: Path) -> Levels:
    """Those of the scheduler beside the network; unknown without one."""
    if not path.is_file():
        return Levels()
    told = read_json(path)
    kind = told.get("_class_name")
    if kind != "CMStochasticIterativeScheduler":
        raise WeightsError(f"{path} is of a {kind}, where a consistency model has a CMStochasticIterativeScheduler")
    numbers = {name: told.get(name) for name in ("sigma_data", "sigma_min", "sigma_max")}
    return Levels(**{name: float(x) for name, x in numbers.items() if isinstance(x, float | int)})
