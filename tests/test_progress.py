"""What a run says of its progress where there is no terminal."""

from small_runs import config, fit

from cli.progress import ImagesBar


def test_of_training_and_of_the_held_out_images(tmp_path, monkeypatch, capsys):
    """These take long where a model is slow, at the end of the run too."""
    monkeypatch.setattr(ImagesBar.__init__, "__defaults__", (0.0, 0.0))
    fit(tmp_path, config(images=128))
    said = capsys.readouterr().out
    first, second = (line for line in said.splitlines() if "128 images (" in line)
    assert first.startswith("0 of 128 images (0%)") and "left" not in first
    assert second.startswith("64 of 128 images (50%)") and second.endswith("s left")
    assert "held-out images: batch 1 of 6\n" in said and "held-out images: batch 6 of 6\n" in said


def test_nothing_before_its_time(tmp_path, capsys):
    fit(tmp_path, config(images=128))
    assert "images (50%)" not in (said := capsys.readouterr().out) and "held-out images" not in said
