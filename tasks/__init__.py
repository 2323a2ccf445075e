"""Uses of a trained denoiser: measurement operators, few-step editing and restoration, multi-step baselines."""
