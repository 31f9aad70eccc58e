"""What the training loop costs beyond the model: messages between processes, and waiting for the device."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from msbreg.run import distributed
from msbreg.run.config import Card
from msbreg.run.job import start_job
from msbreg.run.progress import Progress
from msbreg.train.health import LossMeter
from msbreg.train.loop import Loss, Plan, Trainable, train
from msbreg.train.state import Checkpoint, State


@dataclass(frozen=True)
class Settings:
    output: Path
    device: str = "cpu"
    seed: int = 0
    finished: str = "error"
    name: str = ""


class Line(Trainable):
    """One weight that is drawn toward 1."""

    advice = "Lower the learning rate."

    def __init__(self):
        self.model = nn.Linear(1, 1, bias=False)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

    def learning_rates(self, step):
        return [0.1]

    def losses(self, forward, batch, step):
        loss = (forward(batch) - 1).square().mean()
        yield Loss(loss, {"loss": loss.detach()})

    def row(self, step, means):
        return {"step": step} | means

    def state_dict(self):
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state):
        self.model.load_state_dict(state["model"])


def train_line(output: Path, plan: Plan) -> State:
    state = State()
    with start_job(Settings(output), Card(), kind="line") as job:
        checkpoint = Checkpoint(output / "line.pth", lambda step: {"kind": "line"})
        with Progress("line", plan.steps, unit="steps") as progress:
            train(
                Line(),
                iter([torch.ones(2, 1)] * plan.steps),
                plan,
                state,
                checkpoint,
                job=job,
                progress=progress,
            )
    return state


@pytest.fixture
def calls(monkeypatch) -> dict[str, int]:
    """How often each exchange between processes was used."""
    counts = {"any_of": 0, "gather_objects": 0, "barrier": 0}

    def counting(name):
        function = getattr(distributed, name)

        def counted(*arguments):
            counts[name] += 1
            return function(*arguments)

        return counted

    for name in counts:
        monkeypatch.setattr(distributed, name, counting(name))
    return counts


def test_processes_exchange_one_message_per_step(tmp_path, calls):
    train_line(tmp_path / "short", Plan(steps=2, row_every=100))
    short = dict(calls)
    train_line(tmp_path / "long", Plan(steps=12, row_every=100))
    more = {name: calls[name] - 2 * short[name] for name in calls}
    assert more == {"any_of": 10, "gather_objects": 0, "barrier": 0}


def test_losses_are_read_only_when_the_plan_says_so(tmp_path, monkeypatch):
    reads = []
    read = LossMeter.read
    monkeypatch.setattr(LossMeter, "read", lambda self: (reads.append(1), read(self)))
    train_line(tmp_path / "often", Plan(steps=20, row_every=20, read_every=1))
    often = len(reads)
    train_line(tmp_path / "seldom", Plan(steps=20, row_every=20, read_every=20))
    assert often - (len(reads) - often) == 19
