"""One of two gloo processes that train a detector; started by test_two_processes.py."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from msbreg.run import distributed
from msbreg.train.loop import Plan, Trainable
from msbreg.train.state import Checkpoint, State
from tests.transfer.detectors.toys import Toy, batches, config, fit
from transfer.detection import run
from transfer.detectors.detection_config import Config
from transfer.detectors.detector_training import Batch, DetectorTraining
from transfer.detectors.solver import Solver, build_optimizer

CPU = torch.device("cpu")
KILLED_AFTER = 6  # of eight iterations; a row of the curve is of all eight


class Still(nn.Module):
    """Uses no random numbers and treats images separately: split batches give the same gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, samples: Batch) -> dict[str, Tensor]:
        images = torch.stack([sample.image for sample in samples]).float() / 255
        out = self.head(self.norm(self.conv(images)).relu())
        return {"loss_cls": (out - images.mean(1, keepdim=True)).square().mean()}


def trained(model: nn.Module, plan: Plan, folder: Path, **options: Any) -> dict[str, Any]:
    """Train on this process's part of batches of 4 images; return the final and evaluated states."""
    evaluated: list[dict[str, Tensor]] = []
    optimizer = build_optimizer(config(folder, "SOLVER.BASE_LR", "0.05"), model)
    solver = Solver(optimizer, lambda iteration: [0.05] * len(optimizer.param_groups))

    def shares(first: int) -> Iterator[Batch]:
        share = 4 // distributed.world_size()
        begin = distributed.rank() * share
        return (batch[begin : begin + share] for batch in batches(first))

    def evaluate(iteration: int) -> None:
        evaluated.append({name: value.clone() for name, value in model.named_buffers()})

    training = DetectorTraining(
        model,
        solver,
        CPU,
        statistics_batches=lambda iteration: shares(1000 + iteration),
        **options,
    )
    state = fit(training, shares(0), plan, folder, evaluate=evaluate)
    return {"weights": model.state_dict(), "rows": state.curve, "evaluated": evaluated}


def still(folder: Path, accumulate: int) -> dict[str, Any]:
    """Six steps without random numbers."""
    torch.manual_seed(0)
    return trained(Still(), Plan(steps=6, row_every=20), folder, accumulate=accumulate)


def with_batch_norm(folder: Path) -> dict[str, Any]:
    """Two steps, with statistics of each process's own images."""
    torch.manual_seed(0)
    return trained(Toy(), Plan(steps=2, row_every=20), folder, precise_bn=3)


def asked(card: Path, output: Path) -> Config:
    """Both processes split their two images into two parts."""
    return Config(
        config=card,
        output=output,
        checkpoint="random",
        engine="torchvision",
        device="cpu",
        accumulate=2,
    )


def killed_after_a_checkpoint(card: Path, output: Path) -> None:
    """Both processes are killed between two rows of the curve."""
    save = Checkpoint.save

    def save_and_die(checkpoint: Checkpoint, trainable: Trainable, state: State) -> None:
        save(checkpoint, trainable, state)
        if state.step == KILLED_AFTER:
            for process in reversed(distributed.gather_objects(os.getpid())):
                if distributed.is_main():
                    os.kill(process, signal.SIGKILL)

    Checkpoint.save = save_and_die
    run(asked(card, output))


if __name__ == "__main__":
    task, card, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    distributed.start(CPU)
    stop, distributed.stop = distributed.stop, lambda: None  # one group of processes for all runs
    if task == "begin":
        mine = folder / f"of-{distributed.rank()}"
        mine.mkdir()
        result = {"still": still(mine, accumulate=2), "norm": with_batch_norm(mine)}
        torch.save(result, folder / f"{distributed.rank()}.pt")
        run(asked(card, folder / "whole"))
        killed_after_a_checkpoint(card, folder / "broken")
    else:
        run(asked(card, folder / "broken"))
    stop()
