"""Pairs of a teacher, fresh and cached: what they are, and that a file is never taken for what it is not."""

import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
import small_runs
import torch
import yaml
from oracles import GaussianDenoise, SmallNetwork
from safetensors import safe_open
from small_runs import config, fit

from diffusion.denoisers import EDMDenoiser
from diffusion.ode_samplers import Euler, Heun
from diffusion.rng import Draws, ImageNoise, derive_seed
from evaluation.generate import draw_labels
from lightning_modules.checkpoint import read_checkpoint
from lightning_modules.pairs_file import Pairs, pairs_path, read_pairs, write_pairs
from lightning_modules.teacher import Teacher
from lightning_modules.teacher_pairs import CachedPairs, FreshPairs, StoredPairs, TeacherODE

SHAPE = (1, 2, 2)
ROOT = Path(__file__).parents[1]


def teacher_file(folder, seed=0):
    """A teacher that stands in for the content of a file."""
    path = folder / f"teacher{seed}.ckpt"
    path.write_bytes(bytes([seed]) * 100)
    teacher = Teacher(str(path))
    teacher._denoise = EDMDenoiser(SmallNetwork(SHAPE, 3, seed=seed))
    return teacher


def ode(teacher, num_classes=3):
    return TeacherODE(teacher, SHAPE, num_classes, 0.002, 80.0)


def cached(folder, **options):
    return CachedPairs(**{"sampler": Heun(), "steps": 5, "count": 20, "cache": str(folder), **options})


def stored(law):
    assert isinstance(law, StoredPairs)
    return law.pairs


@pytest.fixture
def made(tmp_path):
    """An ODE, its cached pairs, and the path of their file."""
    problem, spec = ode(teacher_file(tmp_path)), cached(tmp_path / "pairs")
    spec.open(problem)
    (path,) = (tmp_path / "pairs").iterdir()
    return problem, spec, path


def test_fresh_pairs_are_solutions_from_the_draws_noise():
    x0, label, draws = torch.zeros(4, *SHAPE), torch.tensor([0, 1, 2, 0]), Draws(0, 8)
    problem = ode(Teacher(GaussianDenoise(0.5)))
    pairs = FreshPairs(Heun(), 151).open(problem)(draws, x0, label)
    assert torch.equal(pairs.noise, draws.normal_like(x0, "noise")) and torch.equal(pairs.label, label)
    torch.testing.assert_close(pairs.x0, 0.5 * pairs.noise, rtol=1e-2, atol=0)


def test_a_cached_pair_is_a_function_of_its_seed(made):
    """Noise and class are those of generation from the same seed, and x0 the sampler's image of them."""
    problem, spec, _ = made
    pairs = stored(spec.open(problem))
    seeds = [derive_seed(0, "pair", i) for i in range(20)]
    assert torch.equal(pairs.noise, ImageNoise(seeds, SHAPE)())
    assert torch.equal(pairs.label, draw_labels(seeds, torch.ones(3)))
    images = Heun().sample(problem.teacher, ImageNoise(seeds, SHAPE), 5, pairs.label)
    assert torch.equal(pairs.x0, images)
    assert not torch.equal(stored(cached(None, cache=None, seed=1).open(problem)).noise, pairs.noise)


@pytest.mark.parametrize("batch_size", [1, 7, 20, 500])
def test_pairs_do_not_depend_on_the_size_of_a_pass(batch_size):
    """To the last bit for a teacher whose arithmetic does not; a short last batch is filled."""
    problem = ode(Teacher(GaussianDenoise(0.5)))
    pairs = [stored(cached(None, cache=None, batch_size=n).open(problem)) for n in (20, batch_size)]
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(*pairs, strict=True))


def test_fewer_pairs_are_the_first_of_more():
    problem = ode(Teacher(GaussianDenoise(0.5)))
    few, many = (stored(cached(None, cache=None, count=n).open(problem)) for n in (5, 20))
    assert all(torch.equal(mine, theirs[:5]) for mine, theirs in zip(few, many, strict=True))


def test_unconditional_pairs_have_no_label(tmp_path):
    teacher = teacher_file(tmp_path)
    teacher._denoise = EDMDenoiser(SmallNetwork(SHAPE))
    for cache in (None, str(tmp_path / "pairs")):
        assert stored(cached(None, cache=cache).open(ode(teacher, 0))).label is None


def test_the_file_is_read_not_made_again(made, monkeypatch):
    problem, spec, path = made
    before = path.read_bytes()
    monkeypatch.setattr(CachedPairs, "make", None)
    assert stored(spec.open(problem)).x0.shape == (20, *SHAPE)
    assert path.read_bytes() == before


def test_the_file_says_what_made_it(made):
    _, _, path = made
    with safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["made_by"])
    assert metadata["teacher"] == hashlib.sha256(b"\0" * 100).hexdigest()
    assert metadata["sampler"] == repr(Heun()) and metadata["steps"] == "5" and metadata["count"] == "20"


def test_what_is_made_otherwise_has_another_file(made, tmp_path):
    problem, _, path = made
    folder = path.parent
    cached(folder, batch_size=3).open(problem)
    assert len(list(folder.iterdir())) == 1
    for options in ({"steps": 7}, {"sampler": Euler()}, {"count": 21}, {"seed": 1}):
        cached(folder, **options).open(problem)
    cached(folder).open(ode(teacher_file(tmp_path, seed=1)))
    cached(folder).open(TeacherODE(problem.teacher, SHAPE, 3, 0.02, 80.0))
    assert len(list(folder.iterdir())) == 7


def test_a_file_of_another_teacher_is_refused(made, tmp_path):
    """However it came by its name."""
    _, spec, path = made
    other = ode(teacher_file(tmp_path, seed=1))
    path.rename(pairs_path(path.parent, spec.made_by(other)))
    with pytest.raises(ValueError, match=r"were made with teacher [0-9a-f]{64}, not [0-9a-f]{64}: delete it"):
        spec.open(other)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file_is_refused(made, keep):
    problem, spec, path = made
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"cannot be read \(.*: delete it, and it is made anew") as refused:
        spec.open(problem)
    assert "\n" not in str(refused.value)
    path.unlink()
    spec.open(problem)


def test_a_flipped_bit_is_refused(made):
    problem, spec, path = made
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="do not match their SHA-256"):
        spec.open(problem)


@pytest.mark.parametrize("killed_in", ["lightning_modules.pairs_file.save_file", "os.fsync"])
def test_a_write_that_is_cut_short_leaves_nothing(killed_in, tmp_path, monkeypatch):
    def cut_short(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(killed_in, cut_short)
    with pytest.raises(KeyboardInterrupt):
        write_pairs(tmp_path / "a.safetensors", Pairs(torch.zeros(2, 1), torch.zeros(2, 1), None), {})
    assert list(tmp_path.iterdir()) == []


def test_a_teacher_that_is_no_file_cannot_be_cached_on_disk(tmp_path):
    with pytest.raises(ValueError, match="cache=None"):
        cached(tmp_path).open(ode(Teacher(GaussianDenoise(0.5))))


@pytest.mark.parametrize("options", [{"count": 0}, {"batch_size": 0}])
def test_no_pairs_are_refused(options):
    with pytest.raises(ValueError, match="=0"):
        cached(None, **options)


# --- training draws of them -----------------------------------------------------------------------------------------


def test_draws_are_uniform_over_the_pairs_and_keep_them_together():
    pairs = Pairs(torch.arange(10.0).reshape(10, 1), 2 * torch.arange(10.0).reshape(10, 1), torch.arange(10))
    drawn = StoredPairs(pairs)(Draws(0, 0), torch.zeros(20_000, 1), None)
    assert torch.equal(drawn.x0, 2 * drawn.noise) and torch.equal(drawn.label, drawn.noise.flatten().long())
    counts = torch.bincount(drawn.label, minlength=10)
    assert (counts - 2000).abs().max() < 5 * 2000**0.5


def test_two_processes_draw_the_slices_of_one():
    pairs = Pairs(torch.rand(10, 1), torch.rand(10, 1), torch.arange(10))
    whole = StoredPairs(pairs)(Draws(3, 64), torch.zeros(8, 1), None)
    parts = [StoredPairs(pairs)(Draws(3, 64, rank=r, world_size=2), torch.zeros(4, 1), None) for r in range(2)]
    for mine, theirs in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(mine, torch.cat(theirs))


def _open(folder):
    cached(folder / "pairs", count=200).open(ode(teacher_file(folder)))


def test_processes_that_make_the_same_file_at_once_leave_one_whole_file(tmp_path):
    teacher_file(tmp_path)
    workers = [multiprocessing.get_context("fork").Process(target=_open, args=(tmp_path,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    spec = cached(tmp_path / "pairs", count=200)
    (path,) = (tmp_path / "pairs").iterdir()
    assert len(read_pairs(path, spec.made_by(ode(teacher_file(tmp_path)))).x0) == 200


@pytest.fixture
def run_of_kd(teacher, tmp_path, monkeypatch):
    """A config of KD with cached pairs, and a function that empties the cache."""
    sampler = {"class_path": "diffusion.ode_samplers.Heun"}
    pairs = {"sampler": sampler, "steps": 3, "count": 300, "batch_size": 64, "cache": str(tmp_path / "pairs")}
    spec = {"class_path": "lightning_modules.teacher_pairs.CachedPairs", "init_args": pairs}
    monkeypatch.setitem(small_runs.MODULES, "KDModule", {"teacher": teacher, "pairs": spec})
    return config("KDModule", images=256)


def test_a_run_starts_at_the_teacher_and_two_processes_train_as_one(run_of_kd, teacher, tmp_path):
    """The file is made by one process while the other waits, and is the same to the last bit."""
    alone = read_checkpoint(fit(tmp_path, run_of_kd) / "checkpoints" / "last.ckpt")
    (path,) = (tmp_path / "pairs").iterdir()
    made = path.read_bytes()
    path.unlink()

    (tmp_path / "two.yaml").write_text(yaml.safe_dump(run_of_kd))
    options = ["--trainer.devices=2", "--trainer.strategy=ddp", f"--trainer.default_root_dir={tmp_path}/two"]
    done = subprocess.run(
        [sys.executable, "main.py", "fit", "--config", str(tmp_path / "two.yaml"), *options],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count("making 300 pairs") == 1
    assert path.read_bytes() == made
    (last,) = (tmp_path / "two").glob("*/*/checkpoints/last.ckpt")
    for name, weights in read_checkpoint(last)["state_dict"].items():
        torch.testing.assert_close(weights, alone["state_dict"][name], rtol=0, atol=1e-4, msg=name)

    # four steps of 1e-3 away from the teacher, where a random start would be far
    for name, weights in read_checkpoint(teacher)["state_dict"].items():
        if name.startswith("ema."):
            start = name.replace("ema.models.0", "denoiser")
            assert (alone["state_dict"][start] - weights).abs().max() < 6e-3
