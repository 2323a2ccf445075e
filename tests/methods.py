"""The methods with a small random network, for the tests of what they share."""

import torch
from oracles import GaussianDenoise, SmallNetwork

from diffusion.adversarial import GradientPenalty
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
from lightning_modules.ddgan import DDGANModule
from lightning_modules.diffusion import DiffusionModule
from lightning_modules.i2sb import I2SBModule
from lightning_modules.kd import KDModule
from lightning_modules.palette import PaletteModule
from lightning_modules.pd import PDModule
from lightning_modules.rectified_flow import RectifiedFlowModule
from lightning_modules.siddm import SIDDMModule
from lightning_modules.teacher_pairs import FreshPairs
from lightning_modules.ufogen import UFOGenModule
from tasks.operators import AveragePool

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


class SmallGenerator(SmallNetwork):
    """With a latent of three numbers."""

    latent_size = 3

    def __init__(self, image_shape, num_classes=0, dropout=None):
        super().__init__(image_shape, num_classes, dropout)
        self.third = torch.nn.Linear(3, 32, bias=False)
        torch.nn.init.normal_(self.third.weight, std=0.4, generator=torch.Generator().manual_seed(3))

    def before(self, x, c_noise, label, c_target, latent=None):
        return super().before(x, c_noise, label, c_target) + self.third(latent)


class SmallDiscriminator(SmallNetwork):
    """A logit for every pixel, and as many decoded channels as are asked for."""

    def __init__(self, image_shape, num_classes=0, dropout=None, decoded=0):
        super().__init__(image_shape, num_classes, dropout, seed=1)
        self.maps, self.decoded_channels = (1 + decoded, *image_shape[1:]), decoded
        self.second = torch.nn.Linear(32, torch.Size(self.maps).numel(), bias=False)
        torch.nn.init.normal_(self.second.weight, std=0.4, generator=torch.Generator().manual_seed(2))

    def decode(self, x, c_noise, label=None):
        hidden = torch.tanh(self.before(x, c_noise, label, None))
        maps = self.second(self.dropout(hidden)).unflatten(1, self.maps)
        return maps[:, 0], maps[:, 1:]

    def forward(self, x, c_noise, label=None):
        return self.decode(x, c_noise, label)[0]


def adversarial(method, dropout=None, decoded=0, latent=False, **options):
    def discriminator(image_shape, num_classes):
        return SmallDiscriminator(image_shape, num_classes, dropout, decoded)

    def generator(image_shape, num_classes):
        return (SmallGenerator if latent else SmallNetwork)(image_shape, num_classes, dropout)

    options = {"total_images": 1000, "penalty": GradientPenalty(0.1), **options}
    return method(generator, SHAPE, discriminator, **options)


def ufogen(dropout=None, **options):
    return adversarial(UFOGenModule, dropout, **options)


def siddm(dropout=None, **options):
    return adversarial(SIDDMModule, dropout, decoded=2, **options)


def ddgan(dropout=None, **options):
    return adversarial(DDGANModule, dropout, **{"latent": True, **options})


def paired(method, *args, dropout=None, **options):
    def network(image_shape, num_classes, out_channels):
        return SmallNetwork(image_shape, num_classes, dropout, out_channels=out_channels)

    options = {"total_images": 1000, "operator": AveragePool(2), **options}
    return method(network, SHAPE, *args, **options)


def i2sb(dropout=None, **options):
    return paired(I2SBModule, dropout=dropout, **{"condition": True, "fill": 0.5, **options})


def palette(dropout=None, **options):
    return paired(PaletteModule, dropout=dropout, levels=LogNormal(-1.2, 1.2), **options)


PAIRED = [i2sb, palette]
"""They restore and have no samples of their own."""
ONE_NETWORK = [bcm, ct, edm, cd, ctm, pd, kd, rf, reflow, *PAIRED]
ADVERSARIAL = [ufogen, siddm, ddgan]
METHODS = [*ONE_NETWORK, *ADVERSARIAL]


def made(module, noise, steps, label=None):
    """Samples, or of a model that restores what it makes of one measurement."""
    if not hasattr(module, "restore"):
        return module.sample(noise, steps, label)
    return module.restore(torch.full((len(noise), 1, 1, 1), 0.3), noise, steps, label)


def images(n=6):
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def gradients(loss, model):
    return torch.cat(
        [g.flatten() for g in torch.autograd.grad(loss.sum(), list(model.parameters()), retain_graph=True)]
    )
