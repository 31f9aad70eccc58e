"""Segments in a process of its own; started by test_segmentation.py and test_dense_knn.py."""

import os
import signal
import sys
from pathlib import Path

import torch

from msbreg.train.loop import Trainable
from msbreg.train.state import Checkpoint, State
from tests.transfer.segmentation_runs import dense, frozen, tiny
from transfer.dense_knn import run as run_dense
from transfer.segmentation import run

KILLED_AFTER = 4


def killed_after_a_checkpoint(data: Path, output: Path) -> None:
    save = Checkpoint.save

    def save_and_die(checkpoint: Checkpoint, trainable: Trainable, state: State) -> None:
        save(checkpoint, trainable, state)
        if state.step == KILLED_AFTER:
            os.kill(os.getpid(), signal.SIGKILL)

    Checkpoint.save = save_and_die
    run(tiny(data, output))


if __name__ == "__main__":
    torch.set_num_threads(1)
    task, data, output = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if task == "pair":
        run(frozen(data, output))
    elif task == "dense":
        run_dense(dense(data, output))
    else:
        killed_after_a_checkpoint(data, output)
