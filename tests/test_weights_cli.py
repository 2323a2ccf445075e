"""`import` and `export`: there and back, and what others make of it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from cli import export
from diffusion.denoisers import BidirectionalDenoiser, ConsistencyDenoiser, EDMDenoiser
from evaluation.protocol import Protocol, Source
from lightning_modules.checkpoint import CheckpointError, load_denoiser, read_checkpoint
from main import main
from networks import MLP, UNet
from weights import openai
from weights.diffusers_export import save_pipeline
from weights.grid import first_layer, grid, nearest_timesteps
from weights.pretrained import from_pretrained, save_pretrained
from weights.table import WeightsError, to_theirs

ARGUMENTS = {
    "channels": 32,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attention_resolutions": [4],
    "channels_per_head": 32,
    "embedding_scale": 1000.0,
    "norm_groups": 32,
}
IMPORT = ["--resolution", "8", "--channels_per_head", "32"]


def network(num_classes=3, **options):
    torch.manual_seed(0)
    unet = UNet((1, 8, 8), num_classes, **{**ARGUMENTS, **options})
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return unet.eval()


def imported(folder, source="openai", **options):
    """The checkpoint of a random network of OpenAI's names."""
    unet = network(**options)
    torch.save(to_theirs(openai.table(unet), unet.state_dict()), folder / "published.pt")
    levels = ["--levels", "80,1.382"] if source == "openai" else []
    assert main(["import", "--from", source, str(folder / "published.pt"), *IMPORT, *levels]) == 0
    return folder / "published.ckpt"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return imported(tmp_path_factory.mktemp("published"))


def samples(ckpt, folder, steps="2"):
    """What `sample` writes."""
    options = ["--seeds", "0-2", "--steps", steps, "--npz", "--out", str(folder)]
    assert main(["sample", "--ckpt_path", str(ckpt), *options]) == 0
    return np.load(folder / "samples.npz")["arr_0"]


def outputs(denoise):
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return denoise(80 * x, torch.tensor([80.0, 1.3, 0.01]), torch.tensor([0, 2, 1]))


def test_imported_checkpoint_is_the_network(checkpoint):
    denoiser = load_denoiser(checkpoint)
    assert (denoiser.sigma_data, denoiser.sigma_min, denoiser.sigma_max) == (0.5, 0.002, 80.0)
    assert torch.equal(outputs(denoiser), outputs(ConsistencyDenoiser(network())))


def test_levels_are_the_callers_where_they_are_given(tmp_path):
    unet = network()
    torch.save(to_theirs(openai.table(unet), unet.state_dict()), tmp_path / "a.pt")
    options = ["--sigma_data", "0.4", "--sigma_min", "0.01", "--sigma_max", "50", "--denoiser", "diffusion"]
    command = ["import", "--from", "openai", str(tmp_path / "a.pt"), *IMPORT, *options]
    assert main([*command, "--out", str(tmp_path / "b.ckpt")]) == 0
    denoiser = load_denoiser(tmp_path / "b.ckpt")
    assert type(denoiser).__name__ == "EDMDenoiser"
    assert (denoiser.sigma_data, denoiser.sigma_min, denoiser.sigma_max) == (0.4, 0.01, 50.0)


@pytest.mark.slow
def test_bidirectional_network_samples_and_inverts(tmp_path):
    ckpt = imported(tmp_path, "bcm", num_classes=0, bidirectional=True, adaptive_scale=False, qk_norm=True)
    assert type(load_denoiser(ckpt)) is BidirectionalDenoiser
    assert samples(ckpt, tmp_path / "a", steps="4").shape == (3, 8, 8, 1)
    out = ["--out", str(tmp_path / "b"), "--seeds", "0-3", "--data", "configs/data/digits.yaml"]
    assert main(["invert", "--ckpt_path", str(ckpt), *out]) == 0


def test_data_are_asked_for(checkpoint, capsys):
    assert main(["test", "--ckpt_path", str(checkpoint)]) == 2
    assert "use --data FILE" in capsys.readouterr().err


@pytest.mark.slow
def test_scored_and_restored_like_any_other(tmp_path):
    """Unconditional, as the digits of the configuration are; the data are named, since the file does not name them."""
    ckpt = imported(tmp_path, num_classes=0)
    data = ["--ckpt_path", str(ckpt), "--data", "configs/data/digits.yaml"]
    scores = ["--scores.num_images", "20", "--scores.steps", "[1,2]", "--scores.out", str(tmp_path / "s.json")]
    assert main(["test", *data, *scores]) == 0
    found = json.loads((tmp_path / "s.json").read_text())["scores"]
    assert {score["protocol"]["source"]["sampling"] for score in found if score["protocol"]["source"]["nfe"]} == {
        "80",
        "80 > 1.382",
    }
    assert main(["restore", *data, "--task", "inpaint", "--seeds", "0-3", "--out", str(tmp_path / "restored")]) == 0
    assert (tmp_path / "restored" / "scores.json").is_file()


@pytest.mark.slow
def test_diffusers_makes_the_same_images(checkpoint, tmp_path):
    """One step and two, from the same noise; its generator draws in the order in which ours are given here."""
    diffusers = pytest.importorskip("diffusers")
    out = tmp_path / "pipeline"
    assert main(["export", "--ckpt_path", str(checkpoint), "--to", "diffusers", "--out", str(out)]) == 0
    pipeline = diffusers.ConsistencyModelPipeline.from_pretrained(out)
    pipeline.set_progress_bar_config(disable=True)
    denoise, label = load_denoiser(checkpoint), torch.tensor([2, 0, 1])
    for timesteps in ([0], [22, 0]):
        generator = torch.Generator().manual_seed(5)
        options = {"num_inference_steps": None, "timesteps": timesteps} if len(timesteps) > 1 else {}
        theirs = pipeline(3, label, generator=generator, output_type="pt", **options).images
        levels, generator = pipeline.scheduler.sigmas.tolist()[:-1], torch.Generator().manual_seed(5)
        x = 80 * torch.randn(3, 1, 8, 8, generator=generator)
        for i, sigma in enumerate(levels):
            if i:
                x = x + (sigma**2 - 0.002**2) ** 0.5 * torch.randn(3, 1, 8, 8, generator=generator)
            x = denoise(x, sigma, label)
        ours = (x / 2 + 0.5).clamp(0, 1)
        assert ((ours > 0) & (ours < 1)).float().mean() > 0.3
        torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)


def test_diffusers_takes_a_network_of_our_own_embedding(tmp_path):
    """On all levels of the grid, though diffusers tells its networks 250 ln(sigma) and ours is told ln(sigma)/4."""
    diffusers = pytest.importorskip("diffusers")
    options = {**ARGUMENTS, "embedding_scale": 1.0, "adaptive_scale": False}
    denoise = ConsistencyDenoiser(network(**options)).requires_grad_(False)
    told = {"class_path": "networks.UNet", "init_args": {"image_shape": [1, 8, 8], "num_classes": 3, **options}}
    assert not save_pipeline(denoise, tmp_path / "a", told)
    unet = diffusers.UNet2DModel.from_pretrained(tmp_path / "a" / "unet")
    scheduler = diffusers.CMStochasticIterativeScheduler.from_pretrained(tmp_path / "a" / "scheduler")
    levels = scheduler.sigmas[:40].float()
    torch.testing.assert_close(levels, grid(0.002, 80.0).float())
    x, label = torch.randn(40, 1, 8, 8), torch.arange(40) % 3
    with torch.no_grad():
        theirs = unet(x, scheduler.timesteps, label).sample
    torch.testing.assert_close(theirs, denoise.network(x, levels.log() / 4, label), rtol=0, atol=1e-5)


def test_an_embedding_that_diffusers_cannot_have(tmp_path):
    """So many frequencies that the grid tells none from the next: no first layer does the same with diffusers'."""
    unet = network(embedding_scale=1e6, channels=32, channel_mult=(1, 1))
    with pytest.raises(WeightsError, match="on the grid they differ"):
        first_layer(unet, 0.002, 80.0)


def test_timesteps_of_the_published_two_steps():
    """openai/consistency_models e32b69e, scripts/launch.sh: ts 0,22,39 of 40 levels."""
    assert grid(0.002, 80.0)[22].item() == pytest.approx(1.3824, abs=1e-4)
    assert nearest_timesteps([80.0, 1.382], 0.002, 80.0) == [22, 0]


@pytest.mark.parametrize("form", [pytest.param("diffusers", marks=pytest.mark.slow), "hub"])
def test_exported_and_imported_again(checkpoint, tmp_path, form):
    """The same tensors, so the same images to the last bit."""
    assert main(["export", "--ckpt_path", str(checkpoint), "--to", form, "--out", str(tmp_path / "a")]) == 0
    source = "diffusers" if form == "diffusers" else "hub"
    levels = ["--levels", "80,1.382"] if form == "diffusers" else []
    assert main(["import", "--from", source, str(tmp_path / "a"), *levels]) == 0
    assert torch.equal(outputs(load_denoiser(tmp_path / "a.ckpt")), outputs(load_denoiser(checkpoint)))
    one, two = samples(checkpoint, tmp_path / "1"), samples(tmp_path / "a.ckpt", tmp_path / "2")
    assert np.array_equal(one, two) and one.std() > 0
    assert (tmp_path / "a" / "README.md").is_file()


def test_run_there_and_back(teacher, tmp_path):
    """A run's own checkpoint, an MLP, keeps its sampler's settings and its count of images; here without a card."""
    assert main(["export", "--ckpt_path", teacher, "--to", "safetensors", "--out", str(tmp_path / "a")]) == 0
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["config.json", "model.safetensors"]
    assert main(["import", "--from", "hub", str(tmp_path / "a")]) == 0
    assert np.array_equal(samples(teacher, tmp_path / "1", "5"), samples(tmp_path / "a.ckpt", tmp_path / "2", "5"))
    assert read_checkpoint(tmp_path / "a.ckpt")["images_seen"] == 256


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        (BidirectionalDenoiser, {"bidirectional": True}, "BidirectionalDenoiser"),
        (EDMDenoiser, {}, "EDMDenoiser"),
        (ConsistencyDenoiser, {"qk_norm": True}, "qk_norm=True"),
        (ConsistencyDenoiser, {"skip_scale": 0.5**0.5}, "skip_scale"),
        (ConsistencyDenoiser, {"patch_size": 2, "attention_resolutions": [2]}, "patch_size=2"),
        (ConsistencyDenoiser, {"attend_all_up": False}, "attend_all_up"),
        (ConsistencyDenoiser, {"label_first": True}, "label_first"),
        (ConsistencyDenoiser, {"norm_groups": None}, "groups"),
    ],
)
def test_what_diffusers_cannot_be_is_refused(tmp_path, kind, options, said):
    told = {"class_path": "networks.UNet", "init_args": {"image_shape": [1, 8, 8], "num_classes": 3,
                                                         **ARGUMENTS, **options}}  # fmt: skip
    with pytest.raises(WeightsError, match=said):
        save_pipeline(kind(network(**options)), tmp_path / "a", told)
    assert not (tmp_path / "a").exists()


def test_mlp_is_no_unet(teacher, tmp_path, capsys):
    assert main(["export", "--ckpt_path", teacher, "--to", "diffusers", "--out", str(tmp_path / "a")]) == 2
    error = capsys.readouterr().err
    assert "MLP" in error and error.count("\n") == 1 and not (tmp_path / "a").exists()


def test_card_tells_data_budget_and_scores(teacher, tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    ckpt = run / "checkpoints" / "last.ckpt"
    torch.save(read_checkpoint(teacher), ckpt)
    source = Source("DiffusionModule, 5 steps", 5, "Heun", 5.0, seeds="0-19")
    protocol = Protocol(
        20, "train", 20, "digits", "dad9" * 16, "none", "uint8 = clip(127.5 x + 128)", 20, "torch", source
    )
    scores = [{"distances": {"fd_digits": 12.345}, "alone": {"cs_digits": 1.5}, "protocol": protocol.as_dict()}]
    (run / "scores.json").write_text(json.dumps({"images_seen": 256, "scores": scores}))
    other = [{**scores[0], "distances": {"fd_digits": 99.9},
              "protocol": replace(protocol, images=7).as_dict()}]  # fmt: skip
    (run / "scores_other.json").write_text(json.dumps({"images_seen": 128, "scores": other}))
    assert main(["export", "--ckpt_path", str(ckpt), "--to", "hub", "--out", str(tmp_path / "a")]) == 0
    card = (tmp_path / "a" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: fewstep\n")
    for told in ("DigitsDataModule", "256 of 256 training images", "12.35", "seeds 0-19", "dad9dad9dad9", "5"):
        assert told in card, told
    assert "99.9" not in card  # of other weights


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--from", "openai", "{}/published.pt", "--out", "{}/x.ckpt"], "--resolution"),
        (["--from", "openai", "{}/none.pt"], "there is no file"),
        (["--from", "openai", "{}/published.ckpt", "--out", "{}/x.ckpt"], "not a state dict"),
        (["--from", "openai", "{}/published.pt", *IMPORT], "it is there already"),
        (["--from", "openai", "{}/published.pt", "--levels", "80,x"], "not a list of levels"),
        (["--from", "diffusers", "{}", "--out", "{}/x.ckpt"], "no config.json"),
        (["--from", "hub", "{}", "--out", "{}/x.ckpt"], "no file"),
        (["--from", "hub", "{}", "--out", "{}/x.ckpt", "--resolution", "8"], "--resolution"),
        (["--from", "openai", "{}/published.pt", *IMPORT, "--out", "{}/x.ckpt", "--sigma_min", "90"], "sigma_min"),
    ],
)
def test_wrong_use_is_told_in_a_line(checkpoint, capsys, options, said):
    folder = checkpoint.parent
    assert main(["import", *(option.format(folder) for option in options)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (folder / "x.ckpt").exists()


def test_export_overwrites_nothing(checkpoint, tmp_path, capsys):
    (tmp_path / "a").mkdir()
    assert main(["export", "--ckpt_path", str(checkpoint), "--to", "hub", "--out", str(tmp_path / "a")]) == 2
    assert "it is there already" in capsys.readouterr().err


class Hub:
    """In the place of huggingface_hub's HfApi."""

    calls: list[tuple] = []  # noqa: RUF012

    def create_repo(self, name, exist_ok):
        self.calls.append(("create", name))
        return f"https://huggingface.co/{name}"

    def upload_folder(self, repo_id, folder_path):
        self.calls.append(("upload", repo_id, sorted(path.name for path in folder_path.iterdir())))


def test_push(checkpoint, tmp_path, monkeypatch, capsys):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    command = ["export", "--ckpt_path", str(checkpoint), "--to", "hub", "--out", str(tmp_path / "a"), "--push", "me/it"]
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert main(command) == 2 and not (tmp_path / "a").exists() and not Hub.calls
    assert "nobody is logged in" in capsys.readouterr().err
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "a token")
    assert main(command) == 0
    assert Hub.calls == [("create", "me/it"), ("upload", "me/it", ["README.md", "config.json", "model.safetensors"])]
    assert (tmp_path / "a" / "README.md").read_text().count("# it\n") == 1
    assert main(["export", "--ckpt_path", "x", "--to", "onnx", "--out", "y", "--push", "me/it"]) == 2


def test_a_refusal_of_the_hub_is_a_line(tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    class Refusing(Hub):
        def create_repo(self, name, exist_ok):
            raise HFValidationError("no such name\nmore")

    monkeypatch.setattr(huggingface_hub, "HfApi", Refusing)
    with pytest.raises(export.UsageError, match=r"no such name; .* is written"):
        export.push(tmp_path, "me")


TOLD = {"class_path": "networks.MLP", "init_args": {"image_shape": [1, 2, 2], "num_classes": 0, "width": 8, "depth": 1}}


def test_pretrained_in_python(tmp_path):
    denoiser = BidirectionalDenoiser(MLP((1, 2, 2), 0, width=8, depth=1, bidirectional=True), 0.4, 0.01, 50.0)
    told = {**TOLD, "init_args": {**TOLD["init_args"], "bidirectional": True}}
    save_pretrained(denoiser, tmp_path, told)
    read = from_pretrained(tmp_path)
    assert type(read) is BidirectionalDenoiser and not read.training
    assert (read.sigma_data, read.sigma_min, read.sigma_max) == (0.4, 0.01, 50.0)
    x = torch.randn(3, 1, 2, 2)
    assert torch.equal(read(x, 3.0, target=20.0), denoiser(x, 3.0, target=20.0))
    assert not any(parameter.requires_grad for parameter in read.parameters())


def test_pretrained_must_be_what_it_tells(tmp_path):
    denoiser = ConsistencyDenoiser(MLP((1, 2, 2), 0, width=16, depth=1))
    with pytest.raises(WeightsError, match="does not fit"):
        save_pretrained(denoiser, tmp_path / "a", TOLD)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("class_path", ["os.system", "torch.hub.load", "subprocess.Popen"])
def test_pretrained_runs_no_other_class(tmp_path, class_path):
    save_pretrained(ConsistencyDenoiser(MLP((1, 2, 2), 0, width=8, depth=1)), tmp_path, TOLD)
    config = json.loads((tmp_path / "config.json").read_text())
    config["denoiser"]["init_args"]["network"] = {"class_path": class_path, "init_args": {"command": "exit"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=class_path):
        from_pretrained(tmp_path)


def test_damaged_weights_are_refused(tmp_path):
    save_pretrained(ConsistencyDenoiser(MLP((1, 2, 2), 0, width=8, depth=1)), tmp_path, TOLD)
    (tmp_path / "model.safetensors").write_bytes(b"12345678")
    with pytest.raises(WeightsError, match="damaged"):
        from_pretrained(tmp_path)
