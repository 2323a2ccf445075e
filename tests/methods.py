"""The methods with a small random network, for the tests of what they share."""

import torch
from oracles import GaussianDenoise, SmallNetwork

from diffusion.curricula import ConstantSteps
from diffusion.distances import PseudoHuber, SquaredL2
from diffusion.levels import LogNormal
from diffusion.ode_samplers import Euler, Heun
from diffusion.pairs import GridPairs
from diffusion.paths import GridPaths
from diffusion.weightings import InverseGap, TruncatedSNR
from lightning_modules.bcm import BCMModule
from lightning_modules.cd import CDModule
from lightning_modules.ct import CTModule
from lightning_modules.ctm import CTMModule
from lightning_modules.diffusion import DiffusionModule
from lightning_modules.kd import KDModule
from lightning_modules.pd import PDModule
from lightning_modules.rectified_flow import RectifiedFlowModule
from lightning_modules.teacher_pairs import FreshPairs

SHAPE = (1, 2, 2)


def network(dropout):
    return lambda image_shape, num_classes: SmallNetwork(image_shape, num_classes, dropout)


def bcm(dropout=None, **options):
    options = {"pairs": GridPairs(ConstantSteps(18)), "distance": PseudoHuber(), "total_images": 1000, **options}
    return BCMModule(network(dropout), SHAPE, weight=InverseGap(), target_weight=InverseGap(), **options)


def ct(dropout=None, **options):
    options = {"pairs": GridPairs(ConstantSteps(18)), "distance": PseudoHuber(), "total_images": 1000, **options}
    return CTModule(network(dropout), SHAPE, weight=InverseGap(), **options)


def edm(dropout=None, **options):
    return DiffusionModule(network(dropout), SHAPE, LogNormal(-1.2, 1.2), **{"total_images": 1000, **options})


def of(method, *args, dropout=None, **options):
    """A method that distils the exact denoiser of Gaussian data."""
    options = {"total_images": 1000, "teacher": GaussianDenoise(0.5), **options}
    return method(network(dropout), SHAPE, *args, **options)


def cd(dropout=None, **options):
    options = {"paths": GridPaths(ConstantSteps(18)), "distance": PseudoHuber(), "weight": InverseGap(), **options}
    return of(CDModule, dropout=dropout, **options)


def ctm(dropout=None, **options):
    options = {"paths": GridPaths(ConstantSteps(18), max_jump=3), "levels": LogNormal(-1.2, 1.2), **options}
    return of(
        CTMModule, dropout=dropout, **{"distance": PseudoHuber(), "target_rate": 0.0, "adaptive": False, **options}
    )


def pd(dropout=None, **options):
    return of(PDModule, dropout=dropout, distance=SquaredL2(), weight=TruncatedSNR(), **options)


def kd(dropout=None, **options):
    return of(KDModule, dropout=dropout, pairs=FreshPairs(Heun(), 5), **options)


def rf(dropout=None, **options):
    return of(RectifiedFlowModule, dropout=dropout, **{"teacher": None, **options})


def reflow(dropout=None, **options):
    return of(RectifiedFlowModule, dropout=dropout, pairs=FreshPairs(Euler(), 3), **options)


METHODS = [bcm, ct, edm, cd, ctm, pd, kd, rf, reflow]


def images(n=6):
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def gradients(loss, model):
    return torch.cat(
        [g.flatten() for g in torch.autograd.grad(loss.sum(), list(model.parameters()), retain_graph=True)]
    )
