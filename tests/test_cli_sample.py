"""What `sample` writes for scorers from outside: EDM's folders, ADM's npz, and what it refuses."""

import numpy as np
import pytest
from PIL import Image
from small_runs import config, fit

from cli.arguments import parse_seeds
from cli.sample import save_npz
from main import main


@pytest.fixture(scope="module")
def last(tmp_path_factory):
    """The last checkpoint of a class-conditional run."""
    content = config("CTModule", 64)
    content["data"]["init_args"]["conditional"] = True
    return str(fit(tmp_path_factory.mktemp("ct"), content) / "checkpoints" / "last.ckpt")


def sample(last, out, *options):
    assert main(["sample", "--ckpt_path", last, "--out", str(out), *options]) == 0
    return out


def test_folders_of_1000_seeds_as_edm_names_them(last, tmp_path):
    """NVlabs/edm generate.py at 008a4e5: f'{seed-seed%1000:06d}/{seed:06d}.png'."""
    out = sample(last, tmp_path, "--seeds", "0,998-1001,49999,1234567", "--subdirs")
    names = ["000000/000000", "000000/000998", "000000/000999", "001000/001000", "001000/001001", "049000/049999"]
    files = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    assert files == [f"{name}.png" for name in [*names, "1234000/1234567"]]  # and no grid, which would be counted
    flat = sample(last, tmp_path / "flat", "--seeds", "49999,1001", "--no-grid")  # among other seeds
    for name in ("049000/049999.png", "001000/001001.png"):
        image = Image.open(flat / name.split("/")[1])
        assert image.mode == "L" and image.size == (8, 8)
        assert abs(np.asarray(image, int) - np.asarray(Image.open(out / name), int)).max() <= 1


def test_a_grid_is_written_where_it_is_asked_for(last, tmp_path):
    assert (sample(last, tmp_path / "a", "--seeds", "0-3") / "grid.png").is_file()
    assert (sample(last, tmp_path / "b", "--seeds", "0-3", "--subdirs", "--grid") / "grid.png").is_file()


def test_the_npz_file_has_images_classes_and_seeds(last, tmp_path):
    sample(last, tmp_path, "--seeds", "3,7-9", "--npz")
    sample(last, tmp_path, "--seeds", "3,7-9", "--no-grid")
    with np.load(tmp_path / "samples.npz", allow_pickle=False) as held:
        arrays = dict(held)
    assert set(arrays) == {"arr_0", "arr_1", "labels", "seeds"}
    assert arrays["arr_0"].dtype == np.uint8 and arrays["arr_0"].shape == (4, 8, 8, 1)
    assert np.array_equal(arrays["arr_1"], arrays["labels"]) and arrays["labels"].dtype == np.int64
    assert len(set(arrays["labels"].tolist())) > 1 and arrays["seeds"].tolist() == [3, 7, 8, 9]
    for seed, image in zip(arrays["seeds"], arrays["arr_0"], strict=True):
        assert np.array_equal(np.asarray(Image.open(tmp_path / f"{seed:06d}.png")), image[..., 0])


def test_without_classes_there_are_no_labels(tmp_path):
    import torch

    save_npz(tmp_path / "x.npz", torch.zeros(2, 4, 4, 3, dtype=torch.uint8), None, [0, 1])
    with np.load(tmp_path / "x.npz") as held:
        assert set(held) == {"arr_0", "seeds"}


def test_seeds_as_edm_takes_them():
    assert parse_seeds("0-49999") == list(range(50_000))
    assert parse_seeds("1,2,5-10") == [1, 2, 5, 6, 7, 8, 9, 10]
    assert parse_seeds("7") == [7] and parse_seeds("5, 2-2") == [5, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds", "0-5,3"], "'0-5,3' has the seed 3 twice"),
        (["--seeds", "5-3"], "not a list of seeds"),
        (["--seeds", "-3"], "--seeds"),
        (["--seeds", ""], "not a list of seeds"),
        (["--seeds", "0-"], "not a list of seeds"),
        (["--seeds", "1.5"], "not a list of seeds"),
        (["--npz", "--subdirs"], "--subdirs is for PNG files"),
    ],
)
def test_bad_use_is_one_line(options, message, last, tmp_path, capsys):
    assert main(["sample", "--ckpt_path", last, "--out", str(tmp_path / "out"), *options]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and message in err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_a_file_is_one_line(last, tmp_path, capsys):
    (tmp_path / "out").write_text("")
    for out in (tmp_path / "out", tmp_path / "out" / "deeper"):
        assert main(["sample", "--ckpt_path", last, "--seeds", "0", "--out", str(out)]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and str(tmp_path / "out") in err
