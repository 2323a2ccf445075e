"""Whole networks, the level embedding and cosine attention against numbers recorded from official code.

The official networks and ours were filled with one closed formula, parameters of the same shape alike, and run
in float64 on the same inputs: Mosasaur5526/BCM-iCT-torch 74ad31f BCM/cm/unet_bcf.py UNetModel, with float64
frequencies; NVlabs/edm 008a4e5 training/networks.py SongUNet and DhariwalUNet, with our sinusoids in the place of
their slightly different ones, attention's rows in our order and the group norms' eps 1e-5.
"""

import math

import pytest
import torch
from recorded.official import BCM, tensor
from torch import nn

from networks import UNet
from networks.blocks import SelfAttention
from networks.embeddings import LevelEmbedding, PositionalEmbedding

# every n-th number of the flattened output, the first twelve
BCM_OUTPUT = [2.049736707, 1.004160173, 1.052897371, 0.9742069441, 0.79494576, 0.9655603936]
BCM_OUTPUT += [-4.641370598, 0.9935708049, 0.9790739661, 1.883877841, 0.7627408229, 0.7561371177]
DDPMPP_OUTPUT = [-2.027848125, 1.18645469, 6.205486077, 0.5605687979, 3.76424505, 0.1279632961]
DDPMPP_OUTPUT += [-1.943144628, 0.9771876205, 6.032952839, 0.6117569265, 3.660072992, 0.2685742726]
ADM_OUTPUT = [1.548210351, 1.418556468, 3.21359454, 0.3477696915, -7.202879341, 0.3010617295]
ADM_OUTPUT += [2.014276952, 1.262946365, 1.913745777, 0.5128508591, -5.500741624, 0.2368965784]

BCM_SHAPE = {
    "image_shape": (2, 8, 8),
    "num_classes": 3,
    "channels": 128,
    "channel_mult": (1, 1),
    "num_blocks": 1,
    "attention_resolutions": (4,),
    "channels_per_head": 64,
    "adaptive_scale": False,
    "qk_norm": True,
    "bidirectional": True,
    "embedding_scale": 1000.0,
}
DDPMPP_SHAPE = {
    "image_shape": (3, 16, 16),
    "channels": 32,
    "channel_mult": (1, 2),
    "num_blocks": 2,
    "attention_resolutions": (8,),
    "adaptive_scale": False,
    "skip_scale": 0.5**0.5,
    "skip_projection": True,
    "attend_all_up": False,
}
ADM_SHAPE = {
    "image_shape": (3, 16, 16),
    "num_classes": 5,
    "channels": 64,
    "channel_mult": (1, 2),
    "num_blocks": 1,
    "attention_resolutions": (8,),
    "channels_per_head": 64,
}


def filled(network):
    """Vectors are 0.6 + 0.4 cos(1.3 k), the rest sin(0.7 k + 0.13 sqrt k) 2/sqrt(fan in), k in row-major order."""
    for parameter in network.double().parameters():
        k = torch.arange(parameter.numel(), dtype=torch.float64)
        vector = 0.6 + 0.4 * torch.cos(1.3 * k)
        weight = torch.sin(0.7 * k + 0.13 * k.sqrt()) * 2 / math.sqrt(parameter[0].numel())
        parameter.data = (vector if parameter.ndim == 1 else weight).reshape(parameter.shape)
    return network


def sine(*shape):
    return torch.sin(1 + 1.7 * torch.arange(math.prod(shape), dtype=torch.float64)).reshape(shape)


@pytest.mark.parametrize(
    ("shape", "conditions", "recorded"),
    [
        (BCM_SHAPE, {"sigma": [1.3, 0.07], "label": [2, 0], "target": [0.002, 15.0]}, BCM_OUTPUT),
        (DDPMPP_SHAPE, {"c_noise": [-1.3, 0.9]}, DDPMPP_OUTPUT),
        (ADM_SHAPE, {"c_noise": [-1.3, 0.9], "label": [2, 4]}, ADM_OUTPUT),
    ],
)
@torch.no_grad()
def test_whole_network(shape, conditions, recorded):
    """A swapped pair of levels moves the outputs by 2e-3 at least, so 1e-8 tells every path apart."""
    network = filled(UNet(**shape))
    inputs = {}
    if "label" in conditions:
        inputs["label"] = torch.tensor(conditions["label"])
    if "target" in conditions:
        inputs["c_target"] = tensor(conditions["target"]).log() / 4
    c_noise = tensor(conditions["c_noise"]) if "c_noise" in conditions else tensor(conditions["sigma"]).log() / 4
    out = network(sine(2, *shape["image_shape"]), c_noise, **inputs).flatten()
    torch.testing.assert_close(out[:: out.numel() // 12][:12], tensor(recorded), rtol=1e-8, atol=1e-8)


def test_time_embedding():
    """The official frequencies are float32, good to 1e-7 of angles up to 1,600."""
    record = BCM["unet"]["timestep_embedding"]
    embed = PositionalEmbedding(record["dim"], scale=1000.0)
    c_noise = tensor(record["sigma"]).log() / 4
    torch.testing.assert_close(embed(c_noise), tensor(record["output"]), rtol=0, atol=1e-4)
    torch.testing.assert_close(embed(c_noise.float()), tensor(record["output"]).float(), rtol=0, atol=3e-4)


def test_second_level_costs_as_many_parameters():
    record = BCM["unet"]
    count = [sum(p.numel() for p in LevelEmbedding(32, 128, bidirectional=two).parameters()) for two in (False, True)]
    assert count[1] - count[0] == record["extra_parameters"]
    join = LevelEmbedding(32, 128, bidirectional=True).join
    official = record["time_embed_align"]
    assert (join.in_features, join.out_features) == (official["in_features"], official["out_features"])
    assert join.bias is None and not official["bias"]


class Given(nn.Module):
    """The same output whatever the input."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x):
        return self.output


def test_cosine_attention():
    """The norm of the official code is float32, so the two agree to its precision."""
    record = BCM["attention"]
    b, width, pixels = record["shape"]
    layer = SelfAttention(width // 3, channels_per_head=width // 3 // record["heads"], qk_norm=True)
    qkv = torch.sin(0.37 * torch.arange(b * width * pixels, dtype=torch.float64)).reshape(b, width, 1, pixels)
    layer.norm, layer.qkv, layer.out = nn.Identity(), Given(qkv), nn.Identity()
    attended = layer(torch.zeros(b, width // 3, 1, pixels, dtype=torch.float64))
    torch.testing.assert_close(attended.flatten(), tensor(record["output"]), rtol=1e-6, atol=1e-6)
