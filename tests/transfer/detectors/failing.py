"""One of two processes that train until the second fails; started by test_together.py."""

import sys
from pathlib import Path

import torch
from transfer.detectors.memory import memory_advice
from transfer.detectors.train_loop import train

from msbreg.run import distributed
from msbreg.run.errors import RunFailed, UserError
from tests.transfer.detectors.toys import Toy, batches, config, new_state
from transfer.detectors.solver import Plan


class Failing(Toy):
    """In the second process, its fourth pass fails."""

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


def main(folder: Path, how: str, accumulate: int) -> None:
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    distributed.start(cpu)
    mine = folder / str(distributed.rank())
    mine.mkdir()
    state = new_state(config(mine))
    state.model.__class__, state.model.how = Failing, how
    try:
        with memory_advice("lower something"):
            train(
                state,
                batches(0),
                Plan(iterations=12, accumulate=accumulate),
                device=cpu,
                statistics_batches=lambda iteration: batches(iteration),
                each_iteration=lambda state, losses, row: None,
                save=lambda state: None,
                look=lambda state: None,
            )
    except (UserError, RunFailed, ZeroDivisionError) as error:
        (mine / "said.txt").write_text(f"{type(error).__name__}: {error}")
    distributed.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
