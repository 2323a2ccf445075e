"""Seeded generation: independence of batch size, rounding, labels, counting of evaluations."""

import pytest
import torch
from torch import nn

from diffusion.pixels import to_uint8
from evaluation.generate import Meter, draw_labels, generate
from evaluation.protocol import seed_ranges

SHAPE = (1, 4, 4)


class Model(nn.Module):
    """A convolution that is evaluated `steps` times, with fresh noise between."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Conv2d(1, 1, 3, padding=1)
        self.batches = []

    def sample(self, noise, steps, label=None):
        self.batches.append(len(noise))
        x = noise()
        for _ in range(steps):
            x = self.network(x) + 0.1 * noise()
        return x if label is None else x + label.reshape(-1, 1, 1, 1)


def test_an_image_depends_on_its_seed_alone():
    model = Model()
    whole = generate(model.sample, range(20), SHAPE, steps=2)
    assert whole.dtype == torch.uint8 and whole.shape == (20, *SHAPE)
    assert len(whole.flatten(1).unique(dim=0)) == 20
    for batch_size in (1, 3, 7, 50):
        assert torch.equal(generate(model.sample, range(20), SHAPE, steps=2, batch_size=batch_size), whole)
    assert torch.equal(generate(model.sample, [7, 3], SHAPE, steps=2), whole[[7, 3]])


def test_every_batch_has_the_same_size():
    model = Model()
    generate(model.sample, range(10), SHAPE, batch_size=4)
    assert model.batches == [4, 4, 4]
    model.batches.clear()
    generate(model.sample, range(3), SHAPE, batch_size=500)
    assert model.batches == [3]


def test_labels_follow_their_images():
    model = Model()
    label = torch.tensor([0, 1, 0, 1, 1])
    plain = generate(model.sample, range(5), SHAPE, batch_size=2)
    shifted = generate(model.sample, range(5), SHAPE, batch_size=2, label=label)
    assert torch.equal((shifted != plain).flatten(1).any(1), label.bool())


@pytest.mark.parametrize("steps", [1, 3])
def test_meter_counts_the_networks_evaluations(steps):
    model = Model()
    meter = Meter(model.network)
    generate(model.sample, range(10), SHAPE, steps=steps, batch_size=4, meter=meter)
    assert meter.nfe == steps
    assert len(meter.seconds) == 3 and meter.seconds_per_image > 0
    model.network(torch.zeros(2, *SHAPE))  # outside, not counted
    assert meter.nfe == steps


def test_meter_sees_evaluations_that_steps_do_not_tell():
    model = Model()

    def guided(noise, steps, label=None):
        x = noise()
        return model.network(torch.cat([x, x])).chunk(2)[0]  # guidance: two evaluations per image in one call

    meter = Meter(model.network)
    generate(guided, range(5), SHAPE, meter=meter)
    assert meter.nfe == 2


def test_rounding_is_edms_and_exact_on_the_levels():
    levels = torch.arange(256)
    assert torch.equal(to_uint8((levels.double() / 127.5 - 1).float()).long(), levels)
    x = torch.tensor([-5.0, -1.0, -0.0001, 0.0, 0.5, 1.0, 5.0])
    assert to_uint8(x).tolist() == [0, 0, 127, 128, 191, 255, 255]


def test_values_that_are_not_finite_are_refused():
    x = torch.zeros(4, 1, 2, 2)
    x[1, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="1 of 4 images are not finite"):
        to_uint8(x)


def test_labels_are_drawn_as_the_data_have_them_and_by_seed_alone():
    counts = torch.tensor([10, 0, 30])
    labels = draw_labels(range(4000), counts)
    assert torch.equal(draw_labels([17, 3999], counts), labels[[17, 3999]])
    shares = torch.bincount(labels, minlength=3) / 4000
    assert shares[1] == 0
    assert shares[2].item() == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"seeds": []}, "0 seeds"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"label": torch.zeros(2, dtype=torch.int64)}, "2 labels for 3 seeds"),
    ],
)
def test_bad_input_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        generate(Model().sample, image_shape=SHAPE, **{"seeds": range(3), **kwargs})


def test_seed_ranges():
    assert seed_ranges(range(2000)) == "0-1999"
    assert seed_ranges([0, 1, 2, 7, 9, 10]) == "0-2,7,9-10"
    assert seed_ranges([]) == ""
