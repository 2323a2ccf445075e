"""Stopping a run from outside, by a signal, so that it can go on as if nothing had happened."""

import signal
import threading
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from cli.checkpoints import step_is_whole
from evaluation.dashboard_writer import Method


class StopGently(Checkpoint):
    """Inside the block SIGTERM, SIGUSR1 and Ctrl-C let the step in progress end and the run be saved; a second Ctrl-C
    kills.

    Python raises KeyboardInterrupt anywhere, also in the middle of an optimizer step, whose weights no one should keep.
    SIGUSR1 is how a cluster warns of the end of the allotted time; by the exit code, 128 + the signal, a job script
    knows that it should queue the job again.

    As a callback it stops several processes at the same step, whichever of them gets the signal. Lightning's handler
    of SIGTERM broadcasts from wherever the process happens to be; while another process waits in a collective of the
    step, both wait for ever. Here the handler sets a flag, and the processes agree on it after each step. It is a
    Checkpoint for the order alone: such callbacks run last, when all that belongs to the step is counted.
    """

    def __init__(self) -> None:
        self.number = 0
        """Of the signal, 0 before there is one."""
        self.training = False
        self.whole = False
        """Whether a checkpoint of this moment would lose nothing."""

    @property
    def exit_code(self) -> int:
        """143 for SIGTERM, 138 for SIGUSR1, 130 for SIGINT."""
        return 128 + (self.number or signal.SIGTERM)

    def __enter__(self) -> "StopGently":
        if threading.current_thread() is threading.main_thread():  # no other may handle signals
            self.previous = {n: signal.signal(n, self._on_signal) for n in (signal.SIGINT, signal.SIGUSR1)}
        return self

    def __exit__(self, *exception: object) -> None:
        if threading.current_thread() is threading.main_thread():
            for number, handler in self.previous.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT and (self.number or not self.training):
            raise KeyboardInterrupt
        self.number = self.number or number

    def on_train_start(self, trainer: Trainer, pl_module: Method) -> None:
        self.training = True
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._on_signal)  # Lightning puts the handler back that was there before its

    def on_train_batch_end(self, trainer: Trainer, pl_module: Method, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.whole = step_is_whole(trainer, pl_module, batch_idx)
        number = self.number
        if trainer.world_size > 1:
            given = torch.tensor(float(number), device=trainer.strategy.root_device)
            number = int(trainer.strategy.reduce(given, reduce_op="max"))
        if number and self.whole:
            self.number = number
            raise SIGTERMException

    def on_validation_batch_end(self, trainer: Trainer, pl_module: Method, *args: Any) -> None:
        if self.number and self.whole and trainer.world_size == 1:  # several need not have as many batches
            raise SIGTERMException

    def on_train_end(self, trainer: Trainer, pl_module: Method) -> None:
        self.training = False
