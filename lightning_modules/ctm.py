"""CTM: a student that jumps from any level to any lower one, distilled from a diffusion model.

Kim et al. 2024 (arXiv 2310.02279). Levels t > u >= s >= eps, G(x, t, s) of `TrajectoryDenoiser`, theta the weights in
training, theta' the target network's (an average of theta, or theta itself), sg = no gradient to the weights:

    x_t = x0 + t z,  x_u = Solve_phi(x_t, t -> u)             k steps of the teacher phi
    estimate = G_sg theta'( G_theta(x_t, t, s), s, eps)       the gradient passes through the outer G into the inner
    target   = G_sg theta'( G_sg theta(x_u, u, s), s, eps)    no gradient
    L_CTM = d(estimate, target)
    L_DSM = w(tau) ||g_theta(x0 + tau z', tau, tau) - x0||^2  w EDM's weight, g the diffusion model inside G
    L = L_CTM + dsm_weight a L_DSM,   a = |dL_CTM/dW| / (|dL_DSM/dW| + 1e-4) with W the last layer's weight

With one step (u the neighbour of t) and s = eps the outer G is the identity and L_CTM is consistency distillation's
objective (`cd.py`) between G(., ., eps). Without a teacher x_u is the student's own jump G_sg theta'(x_t, t, u).

Left out: the third term of the paper, a discriminator against the data (a projected GAN), with which its headline
numbers were reached.
"""

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from diffusion.denoisers import Denoise, TrajectoryDenoiser
from diffusion.distances import SquaredL2
from diffusion.ema import EMA, average_in
from diffusion.levels import Levels
from diffusion.noise import perturb
from diffusion.paths import TrajectoryLaw
from diffusion.rng import ImageNoise, shared_dropout
from diffusion.samplers import gamma_sampling, levels_for
from diffusion.sharding import frozen_pass
from diffusion.solvers import Step, heun_step, solve
from diffusion.weightings import EDMWeight
from lightning_modules.balance import gradient_ratio, last_weight
from lightning_modules.checkpoint import start_from
from lightning_modules.radam import RAdam
from lightning_modules.run import StepOutput, check_budget, log_loss, optimizer_and_schedule, run_callbacks, step_draws
from lightning_modules.teacher import Teacher


class CTMDraws(NamedTuple):
    """What is random in a step: noise like x0, the path of levels from t to u (k + 1, B), the level s (B,) of both
    jumps, noise and levels tau (B,) of the denoising term, the dropout mask's seed."""

    noise: Tensor
    path: Tensor
    s: Tensor
    dsm_noise: Tensor
    tau: Tensor
    dropout_seed: int


class CTMModule(LightningModule):
    """Consistency trajectory model.

    Args:
        network: factory `(image_shape, num_classes) -> nn.Module` of a network with two noise levels.
        image_shape: (C, H, W), from the datamodule.
        paths: law of the levels from t to u, and of s.
        distance: d, images (B, ...), (B, ...) -> (B,).
        levels: law of tau, the denoising term's levels.
        total_images: length of the run in training images.
        teacher: checkpoint of the diffusion model, which the student and its target start from; in Python also any
            denoiser. None: the target network's own jump takes the place of the solver.
        solver: one step of the teacher's ODE.
        num_classes: 0 for an unconditional model, from the datamodule.
        optimizer: factory of the optimizer.
        lr_factor: factor of the learning rate as a function of the run's progress; None keeps it constant.
        target_rate: EMA rate mu of the target network per step; 0 for the current weights.
        dsm_weight: factor of the denoising term beside the adaptive one; 0 leaves the term out.
        adaptive: let the denoising term's gradient at the last layer be as large as the consistency term's. Without
            gradients (validation) there is no such factor.
        sigma_data, sigma_min, sigma_max: as in `TrajectoryDenoiser`.
        ema_rates: averaging rates per step, the first is evaluated.
        ema_batch: images of the step that the rates are of, see `EMA`; None for this run's step, whatever its size.
        schedules: levels visited when sampling, one sequence per number of evaluations.
        gamma: share of new noise when sampling, see `gamma_sampling`.
        init_from: checkpoint that training starts from in the place of the teacher.
        seed: of all random draws.

    Note: there is no `compile`. The adaptive factor goes backward through the graph before the optimizer's pass does,
    and a graph that torch.compile made frees its buffers in the first.
    """

    def __init__(
        self,
        network: Callable[[tuple[int, int, int], int], nn.Module],
        image_shape: tuple[int, int, int],
        paths: TrajectoryLaw,
        distance: Callable[[Tensor, Tensor], Tensor],
        levels: Levels,
        total_images: int,
        teacher: str | Denoise | None = None,
        solver: Step = heun_step,
        num_classes: int = 0,
        optimizer: OptimizerCallable = RAdam,
        lr_factor: Callable[[float], float] | None = None,
        target_rate: float = 0.999,
        dsm_weight: float = 1.0,
        adaptive: bool = True,
        sigma_data: float = 0.5,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        ema_rates: Sequence[float] = (0.999,),
        ema_batch: int | None = None,
        schedules: Sequence[Sequence[float]] = ((80.0,), (80.0, 2.515), (80.0, 17.53, 2.515, 0.1698)),
        gamma: float = 0.0,
        init_from: str | None = None,
        seed: int = 0,
    ):
        super().__init__()
        check_budget(total_images)
        if not 0 <= target_rate < 1:
            raise ValueError(f"target_rate={target_rate}: an averaging rate lies in [0, 1)")
        if dsm_weight < 0:
            raise ValueError(f"dsm_weight={dsm_weight}: it must be >= 0")
        if not 0 <= gamma <= 1:
            raise ValueError(f"gamma={gamma}: a share lies in [0, 1]")
        self.save_hyperparameters(ignore=() if teacher is None or isinstance(teacher, str) else "teacher")
        self.denoiser = TrajectoryDenoiser(network(image_shape, num_classes), sigma_data, sigma_min, sigma_max)
        self.ema = EMA(self.denoiser, ema_rates, batch=ema_batch)
        # in training mode like the student, or it would not see the student's dropout mask
        self.target = copy.deepcopy(self.denoiser).requires_grad_(False) if target_rate > 0 else None
        self.image_shape, self.num_classes, self.total_images = tuple(image_shape), num_classes, total_images
        self.teacher, self.paths, self.solver = None if teacher is None else Teacher(teacher), paths, solver
        self.distance, self.levels, self.target_rate = distance, levels, target_rate
        self.dsm_weight, self.adaptive = dsm_weight, adaptive
        self.denoising_weight, self.denoising_distance = EDMWeight(sigma_data), SquaredL2()
        self.make_optimizer, self.lr_factor = optimizer, lr_factor
        self.schedules, self.gamma, self.seed = schedules, gamma, seed
        self.init_from = init_from or (self.teacher.path if self.teacher is not None else None)
        self.images_seen = 0

    @property
    def ema_denoiser(self) -> TrajectoryDenoiser:
        """The averaged denoiser that is evaluated."""
        return self.ema.evaluated

    @property
    def progress(self) -> float:
        """Position in the run, from 0 to 1."""
        return self.images_seen / self.total_images

    def draw(self, x0: Tensor, position: int | None = None) -> CTMDraws:
        """The random numbers of a step, a function of the seed and of `position`, by default the images seen."""
        draws, sigma_range = step_draws(self, x0, position), (self.denoiser.sigma_min, self.denoiser.sigma_max)
        path = self.paths.path(draws.uniform(len(x0), "levels"), draws.shared("jump"), self.progress, *sigma_range)
        s = self.paths.ends(draws.uniform(len(x0), "ends"), path[-1], self.progress, *sigma_range)
        tau = self.levels.continuous(draws.uniform(len(x0), "denoising levels"), *sigma_range)
        noise, dsm_noise = draws.normal_like(x0, "noise"), draws.normal_like(x0, "denoising noise")
        return CTMDraws(noise, path.float(), s.float(), dsm_noise, tau.float(), draws.stream_seed("dropout"))

    def frozen(self, x: Tensor, sigma: Tensor, label: Tensor | None, target: Tensor | None = None) -> Tensor:
        """G of the target network: its weights get no gradient, while its input x does; to sigma_min by default."""
        if self.target is not None:
            return self.target(x, sigma, label, target)
        return frozen_pass(self.denoiser, x, sigma, label, target)

    @torch.no_grad()
    def follow(self, x_t: Tensor, path: Tensor, label: Tensor | None, dropout_seed: int) -> Tensor:
        """x_u: from x_t at the levels path[0] to path[-1] by the teacher's solver, or by the student's own jump."""
        if self.teacher is not None:
            return solve(self.solver, self.teacher, x_t, path, label)
        with shared_dropout(dropout_seed, self.denoiser):
            return self.frozen(x_t, path[0], label, path[-1])

    def consistency(self, x_t: Tensor, x_u: Tensor, draws: CTMDraws, label: Tensor | None) -> Tensor:
        """L_CTM of each image (B,) at two points x_t, x_u of the same trajectories."""
        t, u, s, seed = draws.path[0], draws.path[-1], draws.s, draws.dropout_seed
        # the pass with gradient first: autocast keeps its casts of the weights for the passes without
        with shared_dropout(seed, self.denoiser):
            at_s = self.denoiser(x_t, t, label, s)
        with shared_dropout(seed, self.denoiser):
            estimate = self.frozen(at_s, s, label)
        with torch.no_grad():
            with shared_dropout(seed, self.denoiser):
                at_s = self.denoiser(x_u, u, label, s)
            with shared_dropout(seed, self.denoiser):
                target = self.frozen(at_s, s, label)
        return self.distance(estimate, target)

    def denoising(self, x0: Tensor, draws: CTMDraws, label: Tensor | None) -> Tensor:
        """L_DSM of each image (B,)."""
        with shared_dropout(draws.dropout_seed, self.denoiser):
            x0_hat = self.denoiser.posterior_mean(perturb(x0, draws.dsm_noise, draws.tau), draws.tau, label)
        return self.denoising_weight(draws.tau) * self.denoising_distance(x0_hat, x0)

    def loss_terms(self, x0: Tensor, label: Tensor | None, draws: CTMDraws) -> tuple[Tensor, Tensor]:
        """L_CTM and the weighted L_DSM of each image, (B,) each."""
        x_t = perturb(x0, draws.noise, draws.path[0])
        x_u = self.follow(x_t, draws.path, label, draws.dropout_seed)
        consistency = self.consistency(x_t, x_u, draws, label)
        if self.dsm_weight == 0:
            return consistency, torch.zeros_like(consistency)
        denoising = self.denoising(x0, draws, label)
        if self.adaptive and denoising.requires_grad:
            weight = last_weight(self.denoiser.network)
            denoising = gradient_ratio(consistency.mean(), denoising.mean(), weight) * denoising
        return consistency, self.dsm_weight * denoising

    def loss(self, x0: Tensor, label: Tensor | None = None, position: int | None = None) -> Tensor:
        """The loss of each image (B,) at the draws of a step; x0 (B, C, H, W) in [-1, 1], label (B,) or None."""
        consistency, denoising = self.loss_terms(x0, label if self.num_classes else None, self.draw(x0, position))
        return consistency + denoising

    def training_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> StepOutput:
        x0, label = batch
        draws = self.draw(x0)
        consistency, denoising = self.loss_terms(x0, label if self.num_classes else None, draws)
        terms = {"consistency": consistency.detach(), "denoising": denoising.detach()}
        return {"loss": (consistency + denoising).mean(), "sigma": draws.path[0], "terms": terms}

    def sample(self, noise: ImageNoise, steps: int = 1, label: Tensor | None = None) -> Tensor:
        """Generate (B, C, H, W) from the EMA weights by the schedule with `steps` evaluations."""
        sigmas, eps = levels_for(self.schedules, steps), self.denoiser.sigma_min
        return gamma_sampling(self.ema_denoiser, sigmas[0] * noise(), sigmas, noise, self.gamma, label, eps)

    def validation_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> None:
        log_loss(self, "val/loss", batch, batch_idx)

    def test_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> None:
        """Nothing: the loss needs the teacher, the scores do not."""

    def setup(self, stage: str) -> None:
        if stage != "test" and self.teacher is not None:
            _ = self.teacher.denoise  # a missing one is told before the first step

    def on_fit_start(self) -> None:
        if self.init_from is not None and self.trainer.ckpt_path is None:  # not known before: `setup` is too early
            start_from(self.init_from, self.denoiser, self.ema, self.target)

    def update_averages(self, k: int, images: int | None = None) -> None:
        """Called after the k-th optimizer step, which took `images` images."""
        self.ema.update(self.denoiser, k, images)
        if self.target is not None:
            average_in(self.target, self.denoiser, self.target_rate)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return optimizer_and_schedule(self, self.denoiser.parameters(), self.make_optimizer, self.lr_factor)

    def configure_callbacks(self) -> list:
        return run_callbacks()
