"""The shared mathematics of few-step generative models: torch only, no Lightning, no configuration."""
