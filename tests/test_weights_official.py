"""Networks of official code, read into ours: the same outputs."""

import pytest
import torch
from recorded.weights import IMAGES, LABELS, RECORDS, SIGMAS, TARGETS, recorded, spaced

from diffusion.denoisers import BidirectionalDenoiser, ConsistencyDenoiser, EDMDenoiser
from networks import UNet
from weights import edm, openai
from weights.official import Levels, Shape
from weights.table import WeightsError, to_theirs


def official(name):
    """The recorded network, read as `import` reads it."""
    state, _ = recorded(name)
    if name.startswith("edm"):
        return edm.read(state, Levels())
    return openai.read(
        state, openai.shape_of(state, resolution=16, channels_per_head=32, qk_norm=name in ("bcm", "ict"))
    )


def built(of):
    """A network of ours with the weights."""
    network = UNet(of.shape.image_shape, of.shape.num_classes, **of.shape.arguments)
    network.load_state_dict(of.state)
    return network.eval()


@pytest.mark.parametrize("name", sorted(RECORDS))
@torch.no_grad()
def test_same_outputs(name):
    """To 1e-6 of theirs in float64, where our weights are float32; EDM's own numbers are float32."""
    of = official(name)
    single = name.startswith("edm")
    denoise = of.denoiser(built(of), **of.levels.known())
    denoise, images = (denoise, IMAGES.float()) if single else (denoise.double(), IMAGES)
    label = torch.tensor(LABELS) if of.shape.num_classes else None
    target = {"target": torch.tensor(TARGETS)} if of.denoiser is BidirectionalDenoiser else {}
    out = denoise(images, torch.tensor(SIGMAS, dtype=images.dtype), label, **target)
    scale = float(out.abs().amax())
    torch.testing.assert_close(spaced(out) / scale, recorded(name)[1] / scale, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "kind", "classes"),
    [
        ("openai_conditional", ConsistencyDenoiser, 5),
        ("ict", ConsistencyDenoiser, 5),
        ("bcm", BidirectionalDenoiser, 5),
        ("edm_ddpmpp", EDMDenoiser, 0),
    ],
)
def test_what_the_shapes_tell(name, kind, classes):
    of = official(name)
    assert of.denoiser is kind and of.shape.image_shape == (3, 16, 16) and of.shape.num_classes == classes


@pytest.mark.parametrize("name", ["openai_conditional", "bcm"])
def test_table_reads_both_ways(name):
    state, _ = recorded(name)
    of = official(name)
    back = to_theirs(openai.table(built(of)), of.state)
    assert set(back) == set(state)
    for key, value in state.items():
        assert torch.equal(back[key], value.float()), key


@pytest.mark.parametrize("mult", [(1, 2, 3, 4), (1, 1, 2, 2, 4, 4)])
def test_published_resolutions_are_known(mult):
    """ImageNet at 64 and LSUN at 256, as the official scripts build them, here with 32 channels."""
    blocks, side = (3, 64) if len(mult) == 4 else (2, 256)
    shape = Shape(
        (3, side, side),
        0,
        {"channels": 32, "channel_mult": mult, "num_blocks": blocks, "attention_resolutions": (32, 16, 8),
         "channels_per_head": 32, "norm_groups": 32},
    )  # fmt: skip
    with torch.device("meta"):
        unet = UNet(shape.image_shape, 0, **shape.arguments)
    told = openai.shape_of(to_theirs(openai.table(unet), unet.state_dict()), channels_per_head=32)
    assert told.image_shape == (3, side, side)
    assert told.arguments["num_blocks"] == blocks and tuple(told.arguments["channel_mult"]) == mult
    assert sorted(told.arguments["attention_resolutions"]) == [8, 16, 32]


def changed(name, change):
    state, _ = recorded(name)
    change(state)
    return state


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("openai_conditional", lambda s: s.pop("out.0.weight"), "lack out.0.weight"),
        ("openai_conditional", lambda s: s.update(more=torch.ones(1)), "have more beside"),
        ("openai_conditional", lambda s: s.pop("time_embed.0.weight"), "no time_embed.0.weight"),
        ("openai_conditional", lambda s: s.update({"out.0.weight": torch.ones(3)}), "out.0.weight is"),
        ("openai_conditional", lambda s: s.update({"input_blocks.2.0.op.weight": torch.ones(1)}), "strided"),
        ("edm_ddpmpp", lambda s: s.update({"model.map_noise.freqs": torch.ones(3)}), "NCSN"),
        ("edm_adm", lambda s: s.pop("model.map_layer0.weight"), "not a network of NVlabs/edm"),
    ],
)
def test_what_is_no_such_network_is_refused_in_a_line(name, change, said):
    state = changed(name, change)
    with pytest.raises(WeightsError, match=said):
        if name.startswith("edm"):
            edm.read(state, Levels())
        else:
            openai.read(state, openai.shape_of(state, resolution=16, channels_per_head=32))


def test_resolution_must_be_given_where_nothing_tells_it():
    state, _ = recorded("openai_conditional")
    with pytest.raises(WeightsError, match="--resolution"):
        openai.shape_of(state, channels_per_head=32)
