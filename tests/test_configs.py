"""Every shipped config parses, builds, trains a batch, and its resolved form parses again."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from main import main

CONFIGS = Path(__file__).parents[1] / "configs"
RUNS = sorted(p.name for p in CONFIGS.glob("*.yaml") if not p.name.startswith("compare"))
SMALL = [
    "--trainer.accelerator=cpu",
    "--trainer.precision=32-true",
    "--trainer.fast_dev_run=true",
    "--data.init_args.batch_size=2",
]


def shrunk(name, images):
    """The papers' networks are too large for a test; their own numbers are tested without memory below. LPIPS's are not
    in the repository."""
    options = []
    if "cifar10" in name or "imagenet64" in name:
        options += [f"--model.init_args.network.init_args.{o}" for o in ("channels=32", "num_blocks=1")]
        judge = yaml.safe_load((CONFIGS / name).read_text())["model"]["init_args"].get("discriminator")
        if judge is not None:
            options += ["--model.init_args.discriminator.init_args.channels=32"]
            if "num_blocks" in judge["init_args"]:
                options += ["--model.init_args.discriminator.init_args.num_blocks=1"]
    if "imagenet64" in name:
        options += ["--model.init_args.network.init_args.channels_per_head=32"]
    if "CachedPairs" in (CONFIGS / name).read_text():
        options += [f"--model.init_args.pairs.init_args.{o}" for o in ("count=4", "steps=3")]
        options += [f"--model.init_args.pairs.init_args.cache={images.parent / 'pairs'}"]
    if "LPIPS" in (CONFIGS / name).read_text():
        options += ["--model.init_args.distance=diffusion.distances.SquaredL2"]
    return options


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Four colour images in two class folders."""
    root = tmp_path_factory.mktemp("images")
    for i in range(4):
        (root / f"class{i % 2}").mkdir(exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(root / f"class{i % 2}" / f"{i}.png")
    return root


def data_options(name, images):
    """Where the images of a config are, for those that have them by path."""
    content = yaml.safe_load((CONFIGS / name).read_text())
    data = yaml.safe_load((CONFIGS / content["data"]).read_text())
    return [f"--data.init_args.path={images}"] if "path" in data["init_args"] else []


@pytest.fixture(scope="module")
def teacher_of(images, tmp_path_factory):
    """The options of a config that name a model: the one that the config in its path makes, after a step."""
    root, made = tmp_path_factory.mktemp("teachers"), {}

    def options(name):
        settings = yaml.safe_load((CONFIGS / name).read_text())["model"]["init_args"]
        keys = [key for key in ("teacher", "init_from", "discriminator_init_from") if key in settings]
        if not keys:
            return []
        path = settings[keys[0]]
        maker = f"{Path(path).parts[1]}.yaml"
        if maker not in made:
            quick = ["--data.init_args.batch_size=2", "--model.init_args.total_images=2"]
            small = [*SMALL[:2], *quick, "--grids.seeds=1", "--grids.steps=[1]"]
            given = [*small, *shrunk(maker, images), *data_options(maker, images), *options(maker)]
            assert main(["fit", "--config", str(CONFIGS / maker), *given, f"--trainer.default_root_dir={root}"]) == 0
            (made[maker],) = root.glob(f"{maker[:-5]}/000/checkpoints/last.ckpt")
        return [f"--model.init_args.{key}={made[maker]}" for key in keys]

    return options


def test_there_are_the_configs_of_the_readme():
    promised = {"bcm.yaml", "bcm_digits_long.yaml", "bcm_mnist.yaml", "bcm_cifar10.yaml", "bcm_imagenet64.yaml"}
    promised |= {"cd.yaml", "cd_cifar10.yaml", "cd_imagenet64.yaml", "pd.yaml", "kd.yaml", "ctm.yaml"}
    promised |= {"i2sb.yaml", "palette.yaml", "rectified_flow.yaml", "reflow.yaml", "rf_distill.yaml"}
    promised |= {f"{m}{data}.yaml" for m in ("ufogen", "siddm", "ddgan") for data in ("", "_mnist", "_cifar10")}
    assert promised | {"ct.yaml", "ct_cifar10.yaml", "diffusion.yaml"} <= set(RUNS)


@pytest.mark.parametrize("name", RUNS)
def test_trains_a_batch(name, images, teacher_of, capsys):
    options = [*SMALL, *shrunk(name, images), *data_options(name, images), *teacher_of(name)]
    assert main(["fit", "--config", str(CONFIGS / name), *options]) == 0
    assert "trained on 2 images" in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(p.name for p in (CONFIGS / "task").glob("*.yaml")))
def test_a_second_config_sets_the_task(name, capsys):
    """And its resolved form tells the operator in full, so that it needs neither file."""
    first = f"{name.split('_')[0]}.yaml"
    options = ["--config", str(CONFIGS / first), "--config", str(CONFIGS / "task" / name)]
    assert main(["fit", *options, "--print_config"]) == 0
    init = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    operator = yaml.safe_load((CONFIGS / "operator" / f"digits_{name.split('_')[1]}").read_text())
    assert init["operator"]["class_path"] == operator["class_path"]
    assert operator["init_args"].items() <= init["operator"]["init_args"].items() and init["total_images"] == 600_000
    if name == "i2sb_inpaint.yaml":
        assert main(["fit", *options, *SMALL]) == 0


@pytest.mark.parametrize("name", sorted(p.name for p in (CONFIGS / "gpu").glob("*.yaml")))
def test_a_second_config_makes_a_run_of_minutes(name, capsys):
    """Of the network that benchmarks/gpu.sh trains, on fewer images than the first config says."""
    second = yaml.safe_load((CONFIGS / "gpu" / name).read_text())["model"]["init_args"]
    options = ["--config", str(CONFIGS / name), "--config", str(CONFIGS / "gpu" / name)]
    assert main(["fit", *options, "--print_config"]) == 0
    resolved = yaml.safe_load(capsys.readouterr().out)
    init, first = resolved["model"]["init_args"], yaml.safe_load((CONFIGS / name).read_text())["model"]["init_args"]
    assert second["network"]["init_args"].items() <= init["network"]["init_args"].items()
    assert init["total_images"] == second["total_images"] < first["total_images"]
    assert resolved["trainer"]["accelerator"] == "gpu"


def test_a_gpu_config_runs_on_a_cpu_by_the_cpu_trainer(capsys):
    """In the precision that this machine is fast at, not in the GPU's."""
    trainer = str(CONFIGS / "trainer" / "cpu.yaml")
    assert main(["fit", "--config", str(CONFIGS / "ct_cifar10.yaml"), "--trainer", trainer, "--print_config"]) == 0
    resolved = yaml.safe_load(capsys.readouterr().out)["trainer"]
    assert resolved["accelerator"] == "cpu" and resolved["precision"] is None


@pytest.mark.parametrize("name", RUNS)
def test_the_resolved_config_parses_to_itself(name, tmp_path, capsys):
    assert main(["fit", "--config", str(CONFIGS / name), "--print_config"]) == 0
    resolved = capsys.readouterr().out
    (tmp_path / "resolved.yaml").write_text(resolved)
    assert main(["fit", "--config", str(tmp_path / "resolved.yaml"), "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(resolved)


@pytest.mark.parametrize(
    ("name", "image_shape", "num_classes", "parameters"),
    [
        # 55.7 M in EDM; here and below a second level's embedding, 2 x (c + 1) (4 c) and so on, comes to it
        ("cifar10_ddpmpp_bidirectional", (3, 32, 32), 0, 56.6e6),
        # EDM's ADM has 295.9 M with an adaptive scale, whose embedding has twice the outputs in every block
        ("imagenet64_adm_bidirectional", (3, 64, 64), 1000, 279.9e6),
    ],
)
def test_the_papers_networks(name, image_shape, num_classes, parameters):
    """Built and called without memory, on the meta device."""
    from networks import UNet

    content = yaml.safe_load((CONFIGS / "network" / f"{name}.yaml").read_text())
    assert content["class_path"] == "networks.UNet"
    with torch.device("meta"):
        network = UNet(image_shape, num_classes, **content["init_args"])
        label = torch.zeros(2, dtype=torch.int64) if num_classes else None
        y = network(torch.zeros(2, *image_shape), torch.zeros(2), label, torch.zeros(2))
    assert y.shape == (2, *image_shape)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(parameters, rel=2e-3)


@pytest.mark.parametrize("name", ["cifar10_ddpmpp", "imagenet64_adm"])
def test_a_teachers_network_has_dropout_and_is_else_its_students(name):
    student, teacher = (
        yaml.safe_load((CONFIGS / "network" / f"{n}.yaml").read_text()) for n in (name, f"{name}_dropout")
    )
    assert teacher["init_args"].pop("dropout") > 0
    assert student == teacher


def test_the_digits_networks_differ_in_the_second_level_alone():
    """So that methods are compared on the same network."""
    one, two = (
        yaml.safe_load((CONFIGS / "network" / f"{name}.yaml").read_text())
        for name in ("digits", "digits_bidirectional")
    )
    assert two["init_args"].pop("bidirectional") is True
    assert one == two
