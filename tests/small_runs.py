"""Small runs for the tests of the command line: a network of a few thousand parameters on the embedded digits."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from main import main

GAP = {"class_path": "diffusion.weightings.InverseGap"}
PAIRS = {
    "class_path": "diffusion.pairs.GridPairs",
    "init_args": {"steps": {"class_path": "diffusion.curricula.DoublingSteps", "init_args": {"s0": 4, "s1": 16}}},
}
CONSISTENCY = {"pairs": PAIRS, "distance": {"class_path": "diffusion.distances.PseudoHuber"}, "weight": GAP}
STEPS = {"class_path": "diffusion.curricula.ConstantSteps", "init_args": {"n": 8}}
PAIRS_OF_A_TEACHER = {
    "class_path": "lightning_modules.teacher_pairs.FreshPairs",
    "init_args": {"sampler": {"class_path": "diffusion.ode_samplers.Heun"}, "steps": 3},
}
ADVERSARIAL = ("UFOGenModule", "SIDDMModule", "DDGANModule")
"""Those of two networks, which have an optimizer each."""
DISTILLED = ("CDModule", "CTMModule", "PDModule", "KDModule")
"""Those that need a teacher."""
TWO_LEVELS = ("BCMModule", "CTMModule")
UPSCALE = {"class_path": "tasks.operators.AveragePool", "init_args": {"p": 2}}
ADAM = {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-3, "fused": True}}
SMALL = {"width": 16, "depth": 1, "embedding_channels": 8}


def adversarial(decoded: int = 0, **options: Any) -> dict[str, Any]:
    """Two players of different optimizers; every second step of the discriminator pays a penalty."""
    penalty = {"gamma": 0.1, "fake": True, "interval": 2}
    return {
        "discriminator": {
            "class_path": "networks.MLPDiscriminator",
            "init_args": {**SMALL, "decoded_channels": decoded},
        },
        "penalty": {"class_path": "diffusion.adversarial.GradientPenalty", "init_args": penalty},
        "generator_player": {"optimizer": ADAM, "clip_norm": 1.0},
        "discriminator_player": {"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 1e-2}}},
        **options,
    }


MODULES: dict[str, dict[str, Any]] = {
    "BCMModule": {**CONSISTENCY, "target_weight": GAP},
    "CTModule": CONSISTENCY,
    "CDModule": {
        "paths": {"class_path": "diffusion.paths.GridPaths", "init_args": {"steps": STEPS, "max_jump": 2}},
        "distance": {"class_path": "diffusion.distances.PseudoHuber"},
        "weight": {"class_path": "diffusion.weightings.ConstantGap"},
    },
    "CTMModule": {
        "paths": {"class_path": "diffusion.paths.GridPaths", "init_args": {"steps": STEPS, "max_jump": 3}},
        "distance": {"class_path": "diffusion.distances.PseudoHuber"},
        "levels": {"class_path": "diffusion.levels.LogNormal"},
    },
    "PDModule": {
        "distance": {"class_path": "diffusion.distances.SquaredL2"},
        "weight": {"class_path": "diffusion.weightings.TruncatedSNR"},
        "start_steps": 2,
    },
    "KDModule": {"pairs": PAIRS_OF_A_TEACHER},
    "RectifiedFlowModule": {},
    "DiffusionModule": {"levels": {"class_path": "diffusion.levels.LogNormal"}},
    "UFOGenModule": adversarial(judged={"class_path": "diffusion.ladder.AnyLevelBelow"}),
    "SIDDMModule": adversarial(decoded=2),
    "DDGANModule": adversarial(),
    "I2SBModule": {"operator": UPSCALE, "condition": True, "fill": 0.5},
    "PaletteModule": {"operator": UPSCALE, "levels": {"class_path": "diffusion.levels.LogNormal"}},
}


def config(module: str = "BCMModule", images: int = 512, **init_args: Any) -> dict[str, Any]:
    """A run of `images` images in batches of 64, three checkpoints on the way; the caller may change what it gets."""
    network = {**SMALL, "bidirectional": module in TWO_LEVELS, "latent_size": 4 if module == "DDGANModule" else 0}
    content = {
        "seed_everything": 1,
        "model": {
            "class_path": f"lightning_modules.{module}",
            "init_args": {
                "network": {"class_path": "networks.MLP", "init_args": network},
                "total_images": images,
                **({} if module in ADVERSARIAL else {"optimizer": ADAM}),
                **MODULES[module],
                **init_args,
            },
        },
        "data": {"class_path": "datamodules.DigitsDataModule", "init_args": {"batch_size": 64}},
        "trainer": {"accelerator": "cpu", "devices": 1, "precision": "32-true"},  # on every machine the same
        "checkpoints": {"every_n_images": images // 4},
        "scores": {"steps": [1], "num_images": 20},
        "grids": {"seeds": 4, "steps": [1]},
    }
    return deepcopy(content)


def fit(folder: Path, content: dict[str, Any] | None = None, *options: str, name: str = "small") -> Path:
    """Train in process and return the run's directory."""
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content or config()))
    before = set(folder.glob("runs/*/*"))
    code = main(
        ["fit", "--config", str(folder / f"{name}.yaml"), f"--trainer.default_root_dir={folder}/runs", *options]
    )
    assert code == 0
    (new,) = set(folder.glob("runs/*/*")) - before
    return new
