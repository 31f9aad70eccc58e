"""A pre-training run that is told to stop before a given step: python -m tests.pretrain.elastic ..."""

import os
import signal
import sys
from pathlib import Path

import torch

from msbreg.run.config import Card
from msbreg.run.errors import exit_codes
from pretrain import run as script
from pretrain.recipe import Config, OptimizerSettings
from pretrain.training import PreTraining
from tests.pretrain.test_run import small

STEPS = 6


def long(data: Path, output: Path) -> Config:
    """A run of 6 steps, which are small, because large ones amplify rounding errors."""
    optimizer = OptimizerSettings(base_lr=0.003, warmup_epochs=0)
    return small(data, output, epochs=3, batch_size=8, optimizer=optimizer)


class Stopped(PreTraining):
    """Receives SIGTERM in the update before the step ``stop``; the loop sees it in that step."""

    stop: int

    def after_step(self, step: int) -> None:
        super().after_step(step)
        if step + 2 == self.stop:
            os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    torch.set_num_threads(1)
    Stopped.stop = int(sys.argv[3])
    script.PreTraining = Stopped  # type: ignore[misc]
    with exit_codes():
        script.run(long(Path(sys.argv[1]), Path(sys.argv[2])), Card("test", {}))
