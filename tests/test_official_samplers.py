"""The samplers against numbers recorded from NVlabs/edm at 008a4e5, crowsonkb/k-diffusion at 4601bf0 and
huggingface/diffusers at 58eb52c (tests/recorded)."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from recorded.official import FormulaNetwork, NoiseSequence, agrees, noise, tensor

from diffusion.denoisers import EDMDenoiser
from diffusion.grids import KarrasGrid, LogGrid
from diffusion.ode_samplers import DEIS, DPMSolver2, DPMSolverFast, DPMSolverPP2M, Euler, Heun
from diffusion.sde_samplers import DDIM, DDPM

FOLDER = Path(__file__).parent / "recorded"
EDM = json.loads((FOLDER / "edm_samplers.json").read_text())
K_DIFFUSION = json.loads((FOLDER / "k_diffusion.json").read_text())
DIFFUSERS = json.loads((FOLDER / "diffusers.json").read_text())

DENOISER = EDMDenoiser(FormulaNetwork()).requires_grad_(False)


def kept(x):
    """The elements that the recordings keep."""
    return x[:, 0, 0].flatten()


def check(sampler, record, rtol=1e-9):
    """A run on the Karras grid from 80 to 0.002 with the recorded number of evaluations."""
    sample = sampler.sample(DENOISER, NoiseSequence(5), record["steps"])
    agrees(kept(sample), tensor(record["output"]), rtol)


def check_between(sampler, record, rtol=1e-9):
    """A run through the recorded levels, and on to 0."""
    draws, sigmas = NoiseSequence(6), record["sigmas"]
    sample = sampler(DENOISER, sigmas[0] * noise(5), sigmas, draws)
    agrees(kept(sample), tensor(record["output"]), rtol)
    return draws.calls


class EveryStep:
    """The official sampler's noise: the start's, then one draw a step, of which some are not used."""

    def __init__(self, sigmas, s_min, s_max):
        self.draws = iter([5, *(6 + i for i, sigma in enumerate(sigmas) if s_min <= sigma <= s_max)])

    def __call__(self):
        return noise(next(self.draws))


@pytest.mark.parametrize("record", EDM["heun"], ids=lambda r: f"churn {r.get('s_churn', 0):g}")
def test_edms_heun_with_churn(record):
    arguments = {key: value for key, value in record.items() if key.startswith("s_")}
    sampler, steps = Heun(**arguments), record["steps"]
    assert steps == 35
    draws = EveryStep(sampler.levels(steps), sampler.s_min, sampler.s_max)
    agrees(kept(sampler.sample(DENOISER, draws, steps)), tensor(record["output"]), 1e-9)
    if sampler.s_churn:
        assert next(draws.draws, None) is None


@pytest.mark.parametrize("record", K_DIFFUSION["sample_dpm_2"], ids=lambda r: str(r["steps"]))
def test_dpm_solver_2(record):
    check(DPMSolver2(), record)


@pytest.mark.parametrize("record", K_DIFFUSION["sample_dpm_fast"], ids=lambda r: str(r["steps"]))
def test_dpm_solver_fast(record):
    check(DPMSolverFast(), record)


@pytest.mark.parametrize("record", K_DIFFUSION["sample_dpmpp_2m"], ids=lambda r: str(r["steps"]))
def test_dpm_solver_pp_2m(record):
    check(DPMSolverPP2M(), record)


@pytest.mark.parametrize("record", K_DIFFUSION["sample_lms"], ids=lambda r: f"{r['order']}-{r['steps']}")
def test_deis_in_sigma_is_linear_multistep(record):
    check(DEIS(degree=record["order"] - 1, variable=KarrasGrid(rho=1)), record)


@pytest.mark.parametrize("record", K_DIFFUSION["sample_euler_ancestral"], ids=lambda r: f"{r['eta']:g}-{r['steps']}")
def test_ddim_is_eulers_ancestral_sampler(record):
    check(DDIM(eta=record["eta"]), record)
    if record["eta"] == 1:
        check(DDPM(), record)
    if record["eta"] == 0:
        check(Euler(), record)


@pytest.mark.parametrize(
    "record", DIFFUSERS["DEISMultistepScheduler"], ids=lambda r: f"{r['solver_order']}-{len(r['sigmas'])}"
)
def test_deis_in_ln_sigma_is_diffusers(record):
    """With Karras sigmas its last two levels are one, between which its step does nothing."""
    distinct = [a for a, b in pairwise([*record["sigmas"], None]) if a != b]
    assert len(distinct) == len(record["sigmas"]) - ("use_karras_sigmas" in record["options"])
    check_between(DEIS(degree=record["solver_order"] - 1, variable=LogGrid()), record | {"sigmas": distinct})


@pytest.mark.parametrize("record", DIFFUSERS["DDIMScheduler"], ids=lambda r: f"{r['eta']:g}-{len(r['sigmas'])}")
def test_ddim(record):
    draws = check_between(DDIM(eta=record["eta"]), record)
    assert draws == (len(record["sigmas"]) - 1 if record["eta"] else 0)


@pytest.mark.parametrize("record", DIFFUSERS["DDPMScheduler"], ids=lambda r: str(len(r["sigmas"])))
def test_ddpm(record):
    assert check_between(DDPM(), record) == len(record["sigmas"]) - 1
