"""Settings of small depth runs; as a program, a run that is killed after its first checkpoint."""

import dataclasses
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from msbreg.train.loop import Trainable
from msbreg.train.state import Checkpoint, State
from transfer.depth import Config, run
from transfer.segmenters.segmentation_config import DepthOptions


def tiny(data: Path, output: Path, **changes: Any) -> Config:
    """Sixty iterations of four small images."""
    config = Config(
        checkpoint="random",
        arch="resnet18-tiny",
        data=str(data),
        output=output,
        output_stride=4,
        depth=DepthOptions(
            size=(24, 32), crop=(24, 32), learning_rate=0.05, iterations=60, batch_size=4
        ),
        workers=1,
        loading=0,
        device="cpu",
    )
    return dataclasses.replace(config, **changes)


def short(data: Path, output: Path) -> Config:
    """Six iterations, with a checkpoint after every second."""
    config = tiny(data, output, save_every=2)
    return dataclasses.replace(config, depth=dataclasses.replace(config.depth, iterations=6))


def killed_after_a_checkpoint(data: Path, output: Path) -> None:
    save = Checkpoint.save

    def save_and_die(checkpoint: Checkpoint, trainable: Trainable, state: State) -> None:
        save(checkpoint, trainable, state)
        os.kill(os.getpid(), signal.SIGKILL)

    Checkpoint.save = save_and_die
    run(short(data, output))


if __name__ == "__main__":
    torch.set_num_threads(1)
    killed_after_a_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]))
