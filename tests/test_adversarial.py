"""What a diffusion-GAN's discriminator is told, and arguments that make no sense."""

import pytest
import torch
from gan_points import S, T, alpha_bar, images
from torch import nn

from diffusion.adversarial import (
    ApproximatePenalty,
    Critic,
    DecodingCritic,
    GradientPenalty,
    NonSaturating,
    squared_gradient,
)
from diffusion.denoisers import EDMDenoiser
from diffusion.noise import forward_step, perturb
from diffusion.weightings import ClampedSNR


class Recorder(nn.Module):
    """Keeps what it is told; its logits are bfloat16."""

    def forward(self, *told):
        self.told = told
        return told[0].flatten(1).sum(1).bfloat16()


@pytest.mark.parametrize("sigma_data", [1.0, 0.5, 2.0])
def test_the_discriminator_sees_the_variance_preserving_point(sigma_data):
    """Of the data divided by sigma_data, at the level sigma/sigma_data."""
    x0, noise = images(0, 4, 2, 3, 3), images(1, 4, 2, 3, 3)
    seen = Critic(nn.Identity(), sigma_data).rescaled(perturb(x0, noise, T), T)
    alpha = alpha_bar(T / sigma_data).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(seen, alpha.sqrt() * x0 / sigma_data + (1 - alpha).sqrt() * noise)


def test_slopes_in_the_variance_preserving_point_are_larger():
    """By 1 + sigma^2, squared: D judges x/sqrt(1 + sigma^2)."""
    critic, x = Critic(nn.Identity(), sigma_data=1.0), images(0, 4, 1, 3, 3)

    def judge(seen):
        return seen.tanh().flatten(1).sum(1)

    ours = squared_gradient(judge, critic.rescaled(x, T))
    torch.testing.assert_close(ours, (1 + T**2) * squared_gradient(lambda x: judge(critic.rescaled(x, T)), x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_what_a_critic_is_told(dtype):
    seen, label, sigma = images(0, 4, 2, 3, 3).to(dtype), torch.arange(4), T
    critic = Critic(Recorder())
    logits = critic(seen, sigma, label, source=2 * T)
    at_least = torch.promote_types(dtype, torch.float32)
    assert logits.dtype == at_least and len(critic.network.told) == 3
    torch.testing.assert_close(critic.network.told[1], (sigma.log() / 4).to(at_least))
    assert critic.network.told[0] is seen and critic.network.told[2] is label and not critic.told_source
    critic.network.source_level = True
    critic(seen, sigma, label, source=2 * T)
    torch.testing.assert_close(critic.network.told[3], ((2 * T).log() / 4).to(at_least))
    assert critic(seen, sigma).shape == (4,) and len(critic.network.told) == 3


class Decoder(nn.Module):
    """Decodes what it sees and the noise given to it."""

    decoded_channels = 4

    def __init__(self, noise):
        super().__init__()
        self.noise = noise

    def decode(self, x, c_noise, label):
        return x.flatten(1).sum(1), torch.cat([x, self.noise], 1)


def test_a_decoder_denoises_and_goes_on_to_the_upper_level():
    x_s, noise = images(0, 4, 2, 3, 3), images(1, 4, 2, 3, 3)
    critic = DecodingCritic(Decoder(noise), channels=2, sigma_data=0.7)
    logits, denoised, regressed = critic.decode(x_s, S, T)
    torch.testing.assert_close(logits, critic.rescaled(x_s, S).flatten(1).sum(1))
    torch.testing.assert_close(denoised, EDMDenoiser(Identity(), sigma_data=0.7)(x_s, S))
    assert torch.equal(regressed, forward_step(x_s, noise, S, T))
    assert torch.equal(DecodingCritic(Decoder(0 * noise), 2).decode(x_s, S, T)[2], x_s)


class Identity(nn.Module):
    def forward(self, x, c_noise, label=None):
        return x


class Source(nn.Module):
    decoded_channels = 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NonSaturating(limit=0), "limit=0"),
        (lambda: NonSaturating(limit=-0.5), "limit=-0.5"),
        (lambda: GradientPenalty(gamma=-1), "gamma=-1"),
        (lambda: GradientPenalty(interval=0), "interval=0"),
        (lambda: ApproximatePenalty(weight=-1), "weight=-1"),
        (lambda: ApproximatePenalty(sigma=0), "sigma=0"),
        (lambda: ApproximatePenalty(interval=0), "interval=0"),
        (lambda: Critic(nn.Identity(), sigma_data=0), "sigma_data=0"),
        (lambda: DecodingCritic(nn.Identity(), 1), "Identity with decoded_channels=0"),
        (lambda: DecodingCritic(Source(), 2), "a decoder of 4 channels"),
        (lambda: ClampedSNR(limit=0), "limit=0"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
