"""What one of two gloo processes trains; started by test_two_processes.py."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transfer.detectors.train_loop import Batch, Solver, State, train

from msbreg.run import distributed
from tests.transfer.detectors.toys import Toy, batches, config
from transfer.detection import run
from transfer.detectors import continuing
from transfer.detectors.detection_config import Config
from transfer.detectors.solver import Plan, build_optimizer

CPU = torch.device("cpu")
KILLED_AFTER = 6  # of eight iterations; a row of the curve is of all eight


class Still(nn.Module):
    """Draws nothing, and no image sees another: a batch in shares has the gradient of the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, samples: Batch) -> dict[str, Tensor]:
        images = torch.stack([sample.image for sample in samples]).float() / 255
        out = self.head(self.norm(self.conv(images)).relu())
        return {"loss_cls": (out - images.mean(1, keepdim=True)).square().mean()}


def trained(model: nn.Module, plan: Plan, folder: Path) -> dict[str, Any]:
    """This process's part of batches of four images; what it then holds, and had when it looked."""
    looked: list[dict[str, Tensor]] = []
    rows: list[dict[str, Any]] = []
    optimizer = build_optimizer(config(folder, "SOLVER.BASE_LR", "0.05"), model)
    state = State(model, Solver(optimizer, lambda iteration: [0.05] * len(optimizer.param_groups)))

    def shares(first: int) -> Iterator[Batch]:
        share = 4 // distributed.world_size()
        begin = distributed.rank() * share
        return (batch[begin : begin + share] for batch in batches(first))

    def look(state: State) -> None:
        looked.append({name: value.clone() for name, value in state.model.named_buffers()})

    train(
        state,
        shares(0),
        plan,
        device=CPU,
        statistics_batches=lambda iteration: shares(1000 + iteration),
        each_iteration=lambda state, losses, row: rows.append(row) if row else None,
        save=lambda state: None,
        look=look,
    )
    return {"weights": model.state_dict(), "rows": rows, "looked": looked}


def still(folder: Path, accumulate: int) -> dict[str, Any]:
    """Six steps without a draw."""
    torch.manual_seed(0)
    return trained(Still(), Plan(iterations=6, accumulate=accumulate), folder)


def with_batch_norm(folder: Path) -> dict[str, Any]:
    """Two steps, and statistics of each process's own images."""
    torch.manual_seed(0)
    return trained(Toy(), Plan(iterations=2, precise_bn=3), folder)


def asked(card: Path, output: Path) -> Config:
    """Both processes pass their two images one by one."""
    return Config(
        config=card,
        output=output,
        checkpoint="random",
        engine="torchvision",
        device="cpu",
        accumulate=2,
    )


def killed_after_a_checkpoint(card: Path, output: Path) -> None:
    """Both processes are killed, as by the kernel, between two rows of the curve."""
    save = continuing.save

    def save_and_die(state: State, path: Path, about: dict[str, Any]) -> None:
        save(state, path, about)
        if state.iteration == KILLED_AFTER:
            for process in reversed(distributed.gather_objects(os.getpid())):
                if distributed.is_main():
                    os.kill(process, signal.SIGKILL)

    continuing.save = save_and_die
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
