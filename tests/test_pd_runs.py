"""Progressive distillation as whole runs: stages, resuming, two processes."""

from types import SimpleNamespace

import pytest
import yaml
from small_runs import config, fit
from test_resume import DECAY, assert_same_training_state, resumed_from

from diffusion.curricula import CosineDecay
from lightning_modules.checkpoint import load_denoiser, load_module, read_checkpoint
from lightning_modules.pd import PDModule
from main import main


def run_of(teacher):
    """A run of 14 steps of 64: the stages of 4, 2 and 1 steps begin after 0, 192 and 576 images."""
    options = {"start_steps": 4, "lr_factor": DECAY, "ema_rates": [0.9]}
    content = config("PDModule", images=896, teacher=teacher, **options)
    content["model"]["init_args"]["network"]["init_args"]["dropout"] = 0.2
    content["checkpoints"] = {"every_n_images": 64, "keep": 20}
    return content


@pytest.fixture(scope="module")
def whole(teacher, tmp_path_factory):
    """The folder of the checkpoints of one such run, and what each of its steps began with."""
    began, original = [], PDModule.training_step

    def watched(self, batch, batch_idx):
        (optimizer,) = self.trainer.optimizers
        began.append((self.images_seen, self.stage, optimizer.param_groups[0]["lr"], len(optimizer.state)))
        return original(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PDModule, "training_step", watched)
        run = fit(tmp_path_factory.mktemp("pd"), run_of(teacher))
    return SimpleNamespace(folder=run / "checkpoints", run=run, began=began)


def test_a_run(whole, teacher):
    """Stages, learning rates and the optimizer's state at the beginning of each step."""
    seen, stage, lr, held = zip(*whole.began, strict=True)
    assert seen == tuple(range(0, 896, 64)) and stage == (0,) * 3 + (1,) * 6 + (2,) * 5
    assert [n == 0 for n in held] == [i in (0, 3, 9) for i in range(14)]
    factor, bounds = CosineDecay(warmup=0.3), (0.0, 0.2, 0.6, 1.0)

    def expected(i):
        """The schedule lags by one step, but not into the stage before."""
        start, end = bounds[stage[i] : stage[i] + 2]
        progress = seen[i if i in (0, 3, 9) else i - 1] / 896
        return 1e-3 * factor((progress - start) / (end - start))

    assert lr == pytest.approx([expected(i) for i in range(14)])

    module = load_module(whole.folder / "last.ckpt")
    assert module.stage == 2 and module.stage_start == 576 and module.teacher.path == teacher


def test_the_student_starts_from_the_teacher(whole, teacher):
    first = read_checkpoint(whole.folder / "images_000000000064.ckpt")["state_dict"]
    for name, value in load_denoiser(teacher).state_dict().items():
        assert (first[f"denoiser.{name}"] - value).abs().max() < 2e-3  # after one step at lr 0


@pytest.mark.parametrize("seen", [128, 192, 256, 576])
def test_resuming_is_exact_across_a_stage(seen, whole, tmp_path):
    """From before the end of a stage, from its very end, which the next step begins with, and from within the next."""
    checkpoint = whole.folder / f"images_{seen:012d}.ckpt"
    assert read_checkpoint(checkpoint)["state_dict"]["_extra_state"]["stage"] == (seen > 192)
    assert_same_training_state(resumed_from(checkpoint, tmp_path), read_checkpoint(whole.folder / "last.ckpt"))


def test_the_first_teacher_is_needed_in_the_first_stage_alone(whole, tmp_path, capsys):
    gone = f"--model.init_args.teacher={tmp_path}/gone.ckpt"
    assert resumed_from(whole.folder / "images_000000000640.ckpt", tmp_path, gone)["images_seen"] == 896
    capsys.readouterr()
    assert main(["fit", "--ckpt_path", str(whole.folder / "images_000000000128.ckpt"), gone]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "there is no teacher" in err


@pytest.mark.parametrize(("accumulated", "images"), [(1, 320), (2, 640)])
def test_a_run_that_would_leave_out_a_stage_does_not_start(accumulated, images, teacher, tmp_path, capsys):
    """Steps of 64 and of 128 images; the stages of 4, 2 and 1 steps are 1, 2 and 2 fifths of the run."""
    content = run_of(teacher)
    content["model"]["init_args"]["total_images"] = 64 * accumulated * 2
    content["trainer"]["accumulate_grad_batches"] = accumulated
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(content))
    runs = f"--trainer.default_root_dir={tmp_path}/runs"
    assert main(["fit", "--config", str(tmp_path / "short.yaml"), runs]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"at {64 * accumulated} images a step, no step falls to the stage of" in err
    assert not list(tmp_path.glob("runs/*/*"))  # not even its directory is left
    content["model"]["init_args"]["total_images"] = images
    fit(tmp_path, content)


def test_gradients_are_not_accumulated_across_a_stage(teacher, tmp_path):
    """Two batches a step. The stages end at 192 and at 576 images, in the middle of a step, and so begin after it."""
    content = run_of(teacher)
    content["model"]["init_args"]["total_images"] = 960
    content["trainer"]["accumulate_grad_batches"] = 2
    content["checkpoints"]["every_n_images"] = 128
    folder = fit(tmp_path, content) / "checkpoints"
    middle = read_checkpoint(folder / "images_000000000256.ckpt")
    assert middle["state_dict"]["_extra_state"] == {"stage": 0, "stage_start": 0}
    last = read_checkpoint(folder / "last.ckpt")
    assert last["state_dict"]["_extra_state"] == {"stage": 2, "stage_start": 640}
    assert_same_training_state(resumed_from(folder / "images_000000000256.ckpt", tmp_path), last)
