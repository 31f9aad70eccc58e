"""One of two processes that train until the second fails; started by tests/msbreg/run/test_failures.py."""

import sys
from pathlib import Path

import torch

from msbreg.run import distributed
from msbreg.run.errors import RunFailed, UserError
from msbreg.run.progress import Progress
from msbreg.train.loop import Plan, train
from msbreg.train.state import State
from tests.transfer.detectors.toys import Toy, batches, config, new_job, new_training
from transfer.detectors.detector_training import checkpoint_of


class Failing(Toy):
    """Fails in the fourth forward pass of the second process."""

    calls, how = 0, ""

    def forward(self, samples):
        losses = super().forward(samples)
        self.calls += 1
        if distributed.rank() == 1 and self.calls == 4:
            if self.how == "proposals":
                raise FloatingPointError("proposals are not finite.")
            if self.how == "memory":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            if self.how == "program":
                raise ZeroDivisionError("division by zero")
            losses["loss_cls"] = losses["loss_cls"] * torch.nan
        return losses


def unreadable(first: int):
    """Batches; the third one of the second process cannot be read."""
    for number, batch in enumerate(batches(first)):
        if distributed.rank() == 1 and number == 2:
            raise UserError("image.jpg is truncated")
        yield batch


def main(folder: Path, how: str, accumulate: int) -> None:
    torch.set_num_threads(1)
    distributed.start(torch.device("cpu"))
    mine = folder / str(distributed.rank())
    mine.mkdir()
    training = new_training(config(mine), accumulate=accumulate)
    training.model.__class__, training.model.how = Failing, how
    training.memory = "lower something"
    plan = Plan(steps=12, row_every=20)
    try:
        with Progress("training", plan.steps) as progress:
            train(
                training,
                unreadable(0) if how == "batch" else batches(0),
                plan,
                State(),
                checkpoint_of(mine / "checkpoint.pth", {}),
                job=new_job(mine),
                progress=progress,
            )
    except (UserError, RunFailed, ZeroDivisionError) as error:
        (mine / "error.txt").write_text(f"{type(error).__name__}: {error}")
    distributed.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
