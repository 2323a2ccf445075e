"""Stopping a run from outside, by SIGTERM or Ctrl-C, so that it can go on as if nothing had happened."""

import os
import signal
import threading
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from cli.checkpoints import first_process
from evaluation.dashboard_writer import Method


class StopGently(Checkpoint):
    """Inside the block Ctrl-C lets the step in progress end and the run be saved, as SIGTERM does; a second one kills.

    Python raises KeyboardInterrupt anywhere, also in the middle of an optimizer step, whose weights no one should keep.

    As a callback it stops several processes at the same step. Lightning's own handler of SIGTERM broadcasts from
    wherever the process happens to be; while another process waits in a collective of the step, both wait for ever.
    Here the handler sets a flag, and the processes agree on it after each step. It is a Checkpoint for the order
    alone: such callbacks run last, when all that belongs to the step is counted.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self.requested = False

    def __enter__(self) -> "StopGently":
        if threading.current_thread() is threading.main_thread():  # no other may handle signals
            # of several processes, the first tells the others
            self.previous = signal.signal(signal.SIGINT, self._on_ctrl_c if first_process() else signal.SIG_IGN)
        return self

    def __exit__(self, *exception: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self.previous)

    def _on_ctrl_c(self, number: int, frame: Any) -> None:
        if self.interrupted or signal.getsignal(signal.SIGTERM) in (signal.SIG_DFL, None):  # before the first step
            raise KeyboardInterrupt
        self.interrupted = True
        os.kill(os.getpid(), signal.SIGTERM)

    def _on_sigterm(self, number: int, frame: Any) -> None:
        self.requested = True

    def on_train_start(self, trainer: Trainer, pl_module: Method) -> None:
        if trainer.world_size > 1 and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._on_sigterm)  # Lightning puts the handler back that was there before its

    def on_train_batch_end(self, trainer: Trainer, pl_module: Method, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.world_size > 1 and trainer.strategy.reduce_boolean_decision(self.requested, all=False):
            raise SIGTERMException
