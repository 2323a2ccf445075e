"""Keeps the terminal for what a user should see. Only what is known and harmless is left out, message by message."""

import logging
import re
import threading
import warnings

from cli.errors import fault_of_machine

ADVERTS = (
    "💡 Tip",
    "GPU available",
    "TPU available",
    "HPU available",
    "LOCAL_RANK:",
    "Seed set to",
    "`Trainer.fit` stopped",
    "Restoring states from the checkpoint path",
    "Restored all states from the checkpoint",
    "Loaded model weights from the checkpoint",
    "Initializing distributed: GLOBAL_RANK",
    "-----",
    "distributed_backend=",
    "All distributed processes registered",
    "You are using a CUDA device",
    "Using bfloat16 Automatic Mixed Precision",
    "Using 16bit Automatic Mixed Precision",
)
"""How Lightning's remarks begin that repeat what the run's first lines say, or advertise."""

HARMLESS = (
    # torch's own tree utilities, called by Lightning
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    # the averaged copies are meant to be in evaluation mode
    r"Found \d+ module\(s\) in eval mode at the start of training",
    # the data live in memory and are batched on the device
    r"The '\w+' does not have many workers",
    r"The 'train_dataloader' does not have many workers",
    # a run's length is counted in images
    r"`max_epochs` was not set",
    # the training loader has no length, by design
    r"Your `IterableDataset` has `__len__` defined",
    # Lightning 2.6 calls what jsonargparse 5 will rename
    r"[\s\S]*(add_instantiator|instantiate_classes|skip_none)[\s\S]*deprecated",
    # the device is chosen by --trainer.accelerator
    r"GPU available but not used",
    r".*`tensorboardX` has been removed as a dependency",
    r"Checkpoint directory .* exists and is not empty",
    # no denoiser changes its network's output in place
    r"FSDP2-wrapped module \(\w+\) returned a view tensor",
)
"""Regular expressions that match the beginning of a warning."""


class _NoAdverts(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not re.sub(r"^\[rank: \d+\] ", "", record.getMessage().lstrip()).startswith(ADVERTS)


_default_format = warnings.formatwarning


def _format(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """What is meant for the user in one line, without the place in the code that says it."""
    if issubclass(category, UserWarning):
        return f"warning: {message}\n"
    return _default_format(message, category, filename, lineno, line)


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """TensorBoard's thread hands a full disk to the main thread, which says it."""
    if not fault_of_machine(failure.exc_value):
        threading.__excepthook__(failure)


def quiet() -> None:
    """Leave out Lightning's adverts and the warnings that are known to be harmless here; print others in one line."""
    warnings.formatwarning = _format
    threading.excepthook = _thread_failed
    for name in ("lightning.pytorch", "lightning.fabric"):
        for logger in (name, f"{name}.utilities.rank_zero", f"{name}.utilities.seed", f"{name}.utilities.distributed"):
            if not any(isinstance(f, _NoAdverts) for f in logging.getLogger(logger).filters):
                logging.getLogger(logger).addFilter(_NoAdverts())
    for message in HARMLESS:
        warnings.filterwarnings("ignore", message=message)
