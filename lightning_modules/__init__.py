"""The methods: one LightningModule each, no common base class."""

from lightning_modules.bcm import BCMModule
from lightning_modules.cd import CDModule
from lightning_modules.checkpoint import load_denoiser, load_module
from lightning_modules.ct import CTModule
from lightning_modules.ctm import CTMModule
from lightning_modules.ddgan import DDGANModule
from lightning_modules.diffusion import DiffusionModule
from lightning_modules.i2sb import I2SBModule
from lightning_modules.kd import KDModule
from lightning_modules.palette import PaletteModule
from lightning_modules.pd import PDModule
from lightning_modules.radam import RAdam
from lightning_modules.rectified_flow import RectifiedFlowModule
from lightning_modules.sharding import FullySharded
from lightning_modules.siddm import SIDDMModule
from lightning_modules.ufogen import UFOGenModule

__all__ = [
    "BCMModule",
    "CDModule",
    "CTMModule",
    "CTModule",
    "DDGANModule",
    "DiffusionModule",
    "FullySharded",
    "I2SBModule",
    "KDModule",
    "PDModule",
    "PaletteModule",
    "RAdam",
    "RectifiedFlowModule",
    "SIDDMModule",
    "UFOGenModule",
    "load_denoiser",
    "load_module",
]
