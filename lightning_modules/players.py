"""Two networks that train against each other: who plays when, and one step of the game.

A method with a discriminator (`ufogen.py`, `siddm.py`, `ddgan.py`) says what its two sides minimise; the order of a
step is here, once. It has

| member | meaning |
|---|---|
| `denoiser`, `critic` | the generator and the discriminator |
| `generator_player`, `discriminator_player` | a `Player` each |
| `penalty` | a `diffusion.adversarial.Penalty` of the discriminator, or None |
| `init_from`, `discriminator_init_from` | checkpoints that they start from, or None |
| `batches_seen`, `generator_steps` | counts, kept in the checkpoint by `Game` |
| `term_names`, `judged_names` | what the curves show of the two sides |
| `draw(x0)` | the random numbers of a batch, with the levels `t` and `s` |
| `generate(x0, label, draws) -> x0_hat` | the generator's pass |
| `generator_terms(x0, x0_hat, label, draws)` | its losses by name, (B,) each |
| `discriminator_terms(x0, x0_hat, label, draws, penalise)` | a `Verdict` |

Lightning optimises two networks by hand. Gradients go to the player's own weights alone (`inputs=`), so nothing is
switched off or left over, and are averaged over the processes here: DDP's own reduction would wait for the gradients of
the network that does not play.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from diffusion.adversarial import Penalty, per_image
from lightning_modules.checkpoint import start_critic_from, start_from
from lightning_modules.run import StepOutput

GENERATOR, DISCRIMINATOR = 0, 1
"""Places in the list of optimizers."""


@dataclass(frozen=True)
class Player:
    """How one of the two networks is trained.

    Args:
        optimizer: factory of the optimizer.
        lr_factor: factor of the learning rate as a function of the run's progress; None keeps it constant.
        clip_norm: largest norm of the gradient, > 0; None for no limit.
        every: plays in every n-th batch, the first included.
        accumulate: batches that it plays whose gradients make one step.
    """

    optimizer: OptimizerCallable = torch.optim.Adam
    lr_factor: Callable[[float], float] | None = None
    clip_norm: float | None = None
    every: int = 1
    accumulate: int = 1

    def __post_init__(self) -> None:
        if self.every < 1 or self.accumulate < 1:
            raise ValueError(f"every={self.every}, accumulate={self.accumulate}: both must be at least 1")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm={self.clip_norm}: a norm must be > 0")

    def plays(self, batch: int) -> bool:
        """Whether it plays in the batch 0, 1, ..."""
        return batch % self.every == 0

    def steps(self, batch: int) -> bool:
        """Whether a step is taken in a batch that it plays: the last of those that are accumulated."""
        return batch // self.every % self.accumulate == self.accumulate - 1

    def step_index(self, batch: int) -> int:
        """Steps taken before the one that this batch belongs to."""
        return batch // self.every // self.accumulate

    def holds(self, batches: int) -> bool:
        """Whether after so many batches gradients wait for a step."""
        return -(-batches // self.every) % self.accumulate != 0


class Verdict(NamedTuple):
    """What the discriminator makes of a batch: its losses by name (B,), and the logits of data and samples."""

    terms: dict[str, Tensor]
    real: Tensor
    fake: Tensor


def game_step(module: Any, x0: Tensor, label: Tensor | None) -> StepOutput:
    """One batch: the generator's pass, the discriminator's turn, then the generator's against the new discriminator.

    Both turns share one pass of the generator. A turn that is not played leaves NaN in its terms, and no curve counts
    it.
    """
    batch, generator, discriminator = module.batches_seen, module.generator_player, module.discriminator_player
    draws, plays = module.draw(x0), generator.plays(batch)
    nothing = torch.full((len(x0),), torch.nan, device=x0.device)
    with torch.set_grad_enabled(plays):
        x0_hat = module.generate(x0, label, draws)
    judged = dict.fromkeys(module.judged_names, nothing)
    if discriminator.plays(batch):
        due = module.penalty is not None and discriminator.step_index(batch) % module.penalty.interval == 0
        verdict = module.discriminator_terms(x0, x0_hat.detach(), label, draws, due)
        descend(module, DISCRIMINATOR, torch.stack(list(verdict.terms.values())).sum(0))
        judged |= {name: term.detach() for name, term in verdict.terms.items()} | readings(verdict)
    terms, loss = dict.fromkeys(module.term_names, nothing), nothing
    if plays:
        losses = module.generator_terms(x0, x0_hat, label, draws)
        loss = torch.stack(list(losses.values())).sum(0).detach()
        # by way of the gradient at the generator's output, whose norm for each image costs nothing more
        signals = {name: torch.autograd.grad(term.sum(), x0_hat, retain_graph=True)[0] for name, term in losses.items()}
        descend(module, GENERATOR, (x0_hat * torch.stack(list(signals.values())).sum(0)).flatten(1).sum(1))
        terms |= {name: term.detach() for name, term in losses.items()}
        terms |= {f"{name}_gradient": signal.flatten(1).norm(dim=1) for name, signal in signals.items()}
    module.batches_seen += 1
    return {"loss": loss.mean(), "sigma": draws.t, "terms": terms, "judged": draws.s, "judged_terms": judged}


def generator_loss(module: Any, x0: Tensor, label: Tensor | None, position: int | None) -> Tensor:
    """The generator's loss of each image (B,) at the draws of a step, for `loss`."""
    draws, label = module.draw(x0, position), label if module.num_classes else None
    terms = module.generator_terms(x0, module.generate(x0, label, draws), label, draws)
    return torch.stack(list(terms.values())).sum(0)


def penalty_in_float32(
    penalty: Penalty, judge: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, noise: Tensor
) -> Tensor:
    """A penalty (B,) outside autocast: a difference of slopes drowns in half precision."""
    with torch.autocast(real.device.type, enabled=False):
        return penalty(judge, real, fake, noise)


READINGS = ("logit_real", "logit_fake", "sign_accuracy")


def readings(verdict: Verdict) -> dict[str, Tensor]:
    """Mean logits of each image's data and sample (B,), and whether the sign of their difference tells them apart."""
    real, fake = per_image(verdict.real.detach()), per_image(verdict.fake.detach())
    return dict(zip(READINGS, (real, fake, (real > fake).float()), strict=True))


def descend(module: Any, place: int, loss: Tensor) -> None:
    """Add the gradient of the mean of `loss` (B,) to a player's weights, and take the step that completes.

    Autocast keeps rounded weights for later passes; after a step, or a pass without gradients, they are old.
    """
    player = (module.generator_player, module.discriminator_player)[place]
    optimizer = module.optimizers()[place]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    (loss.mean() / player.accumulate).backward(inputs=parameters)
    torch.clear_autocast_cache()
    if not player.steps(module.batches_seen):
        return
    average_gradients(parameters)
    if player.lr_factor is not None:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * player.lr_factor(module.progress)
    optimizer.step()  # by way of the callbacks: SkipNonFinite, then Game
    optimizer.zero_grad()
    if place == GENERATOR:
        module.generator_steps += 1


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """The mean of every gradient over all processes, in place."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    together = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(together)
    together /= dist.get_world_size()
    for p, mean in zip(parameters, together.split([g.numel() for g in gradients]), strict=True):
        p.grad = mean.view_as(p)


def optimizers(module: Any) -> list[torch.optim.Optimizer]:
    """The generator's optimizer and the discriminator's, for `configure_optimizers`."""
    built = [
        module.generator_player.optimizer(module.denoiser.parameters()),
        module.discriminator_player.optimizer(module.critic.parameters()),
    ]
    for group in (group for optimizer in built for group in optimizer.param_groups):
        group.setdefault("initial_lr", group["lr"])
    return built


class Game(Callback):
    """What a run of two players does beside `run_callbacks`, after which it must stand.

    Starts the networks from the checkpoints that the module names, limits the gradients (their norm is measured
    before), and keeps the counts in the checkpoint.
    """

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        if stage == "fit" and trainer.precision == "16-mixed":
            raise ValueError(
                "precision=16-mixed: two networks that train against each other need the range of bf16-mixed or 32-true"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.ckpt_path is not None:  # not known before: `setup` is too early
            return
        if pl_module.init_from is not None:
            start_from(pl_module.init_from, pl_module.denoiser, pl_module.ema)
        if pl_module.discriminator_init_from is not None:
            start_critic_from(pl_module.discriminator_init_from, pl_module.critic)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
        players = pl_module.generator_player, pl_module.discriminator_player
        player = players[next(i for i, known in enumerate(trainer.optimizers) if known is optimizer)]
        if player.clip_norm is not None:
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], player.clip_norm)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint |= {"batches_seen": pl_module.batches_seen, "generator_steps": pl_module.generator_steps}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        pl_module.batches_seen, pl_module.generator_steps = checkpoint["batches_seen"], checkpoint["generator_steps"]


def holds_gradients(module: Any) -> bool:
    """Whether gradients of a player wait for a step, so that a checkpoint would lose them; False without players."""
    players = [getattr(module, name, None) for name in ("generator_player", "discriminator_player")]
    return any(player is not None and player.holds(module.batches_seen) for player in players)
