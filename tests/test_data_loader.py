"""The loader as a function of (seed, images seen, rank, world size)."""

from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from datamodules.loader import EvaluationBatches, TrainingBatches, to_float, to_uint8

few = settings(max_examples=40, deadline=None)


def numbered(n: int) -> tuple[Tensor, Tensor]:
    """n float images of 1 x 1 x 2 that hold (i, -i - 1), so that neither order nor a flip can hide, and labels i."""
    i = torch.arange(n)
    return torch.stack([i, -i - 1], dim=1).float()[:, None, None], i


def stream(count: int, batches: TrainingBatches) -> tuple[Tensor, Tensor]:
    """The first `count` images of a stream and their labels."""
    taken = list(islice(batches, -(-count // batches.batch_size)))
    labels = [label for _, label in taken if label is not None]
    return torch.cat([x0 for x0, _ in taken])[:count], torch.cat(labels)[:count]


@few
@given(n=st.integers(1, 20), share=st.integers(1, 9), world=st.integers(1, 4), start=st.integers(0, 70))
def test_slices_of_the_ranks_make_up_the_global_batch(n: int, share: int, world: int, start: int) -> None:
    def batches(**place: int) -> list[tuple[Tensor, Tensor | None]]:
        return list(islice(TrainingBatches(*numbered(n), share * world, 3, start, flip=True, **place), 4))

    parts = [batches(rank=rank, world_size=world) for rank in range(world)]
    for step, (x0, label) in enumerate(batches()):
        assert torch.equal(x0, torch.cat([part[step][0] for part in parts]))
        assert torch.equal(label, torch.cat([part[step][1] for part in parts]))


@few
@given(n=st.integers(1, 20), batch=st.integers(1, 50), other=st.integers(1, 50), start=st.integers(0, 90))
def test_a_resumed_stream_is_the_rest_of_the_stream(n: int, batch: int, other: int, start: int) -> None:
    whole = stream(start + 60, TrainingBatches(*numbered(n), batch, seed=5, flip=True))
    rest = stream(60, TrainingBatches(*numbered(n), other, seed=5, start=start, flip=True))
    assert all(torch.equal(a[start:], b) for a, b in zip(whole, rest, strict=True))


@few
@given(n=st.integers(1, 20), batch=st.integers(1, 50), seed=st.integers(0, 10))
def test_every_epoch_holds_every_image_once(n: int, batch: int, seed: int) -> None:
    _, labels = stream(3 * n, TrainingBatches(*numbered(n), batch, seed))
    for epoch in labels.split(n):
        assert sorted(epoch.tolist()) == list(range(n))


def test_the_order_differs_between_seeds_and_epochs() -> None:
    n = 50
    first, second = stream(2 * n, TrainingBatches(*numbered(n), 10, seed=0))[1].split(n)
    other = stream(n, TrainingBatches(*numbered(n), 10, seed=1))[1]
    assert not torch.equal(first, second) and not torch.equal(first, other)


def test_flips_mirror_half_of_the_images_and_nothing_else() -> None:
    images, labels = numbered(1000)
    x0, label = stream(4000, TrainingBatches(images, labels, 500, flip=True))
    mirrored = x0[:, 0, 0, 0] < 0
    assert torch.equal(torch.where(mirrored[:, None, None, None], x0.flip(3), x0), images[label])
    assert abs(mirrored.float().mean() - 0.5) < 0.03  # 4 standard errors
    assert torch.equal(images, numbered(1000)[0])
    unflipped = stream(4000, TrainingBatches(images, labels, 500))
    assert torch.equal(unflipped[1], label) and torch.equal(unflipped[0], images[label])


@few
@given(n=st.integers(1, 30), world=st.integers(1, 4), batch=st.integers(1, 12))
def test_evaluation_shows_each_image_once_to_one_process(n: int, world: int, batch: int) -> None:
    images, labels = numbered(n)
    seen: list[int] = []
    for rank in range(world):
        batches = EvaluationBatches(images, labels, batch, rank, world)
        mine = [label for _, label in batches]
        assert len(mine) == len(batches)
        assert all(torch.equal(x0, images[label]) for x0, label in batches)
        here = torch.cat(mine).tolist() if mine else []
        assert here == list(range(rank, n, world))
        seen += here
    assert sorted(seen) == list(range(n))


def test_what_evaluation_hands_out_is_a_copy() -> None:
    images, labels = numbered(4)
    for x0, _ in EvaluationBatches(images, labels, 2):
        x0.zero_()
    assert torch.equal(images, numbered(4)[0])


@pytest.mark.parametrize(("batch", "world"), [(10, 4), (0, 1), (-2, 2)])
def test_a_batch_that_processes_cannot_share_is_refused(batch: int, world: int) -> None:
    with pytest.raises(ValueError, match=f"batch_size={batch}.*{world}"):
        TrainingBatches(*numbered(5), batch, world_size=world)


def test_no_images_are_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        TrainingBatches(torch.empty(0, 1, 2, 2, dtype=torch.uint8), None, 4)


def test_uint8_comes_back_from_float() -> None:
    values = torch.arange(256, dtype=torch.uint8)
    images = to_float(values)
    assert torch.equal(to_uint8(images), values)
    assert (images[0], images[255]) == (-1, 1) and images.dtype == torch.float32
    # EDM's rule, on what no image has: rounded down, cut at the ends
    assert to_uint8(torch.tensor([-2.0, -1 / 255, 0.0, 2.0])).tolist() == [0, 127, 128, 255]


def test_uint8_batches_are_floats_without_labels() -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(64, 1, 2, 2)
    x0, label = next(iter(TrainingBatches(images, None, 64)))
    assert label is None
    assert torch.equal(to_uint8(x0).flatten().sort().values, images.flatten())
    assert images[0, 0, 0, 0] == 0 and x0.min() == -1 and x0.max() == 1


@pytest.mark.gpu
def test_a_step_never_waits_for_the_host() -> None:
    images, labels = (part.to("cuda") for part in numbered(1000))
    batches = iter(TrainingBatches(images, labels, 256, flip=True))
    next(batches)  # pinned memory is allocated
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(8):
            x0, label = next(batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert x0.device.type == "cuda" and torch.equal(x0.abs().amax(dim=(1, 2, 3)), (label + 1).float())
