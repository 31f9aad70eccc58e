"""Checkpoints of a training: everything comes back, and files of version 0.1.0 still continue."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from msbreg.checkpoints.load import save_checkpoint
from msbreg.run.errors import RunFailed, UserError
from msbreg.run.job import seed_everything
from msbreg.train.state import Checkpoint, State, fresh_draws, require_record
from tests.transfer.detectors.toys import config, new_training
from transfer.detectors.trainable import KIND, checkpoint_of, read_checkpoint


@pytest.fixture
def cfg(tmp_path):
    return config(tmp_path)


@pytest.fixture
def checkpoint(tmp_path) -> Checkpoint:
    return checkpoint_of(tmp_path / "checkpoint.pth", {})


def restore(checkpoint: Checkpoint, training, state: State) -> str | None:
    return checkpoint.restore(training, state, read_checkpoint(checkpoint.path))


def draws() -> tuple:
    legacy = np.random.rand(3).tolist()  # noqa: NPY002 - the global one is what is kept
    return torch.rand(3).tolist(), legacy, [random.gauss(0, 1) for _ in range(3)]


def test_the_generators_of_torch_numpy_and_python_come_back(cfg, checkpoint):
    training, state = new_training(cfg), State()
    seed_everything(3)
    random.gauss(0, 1)  # leaves a half-used pair
    checkpoint.save(training, state)
    wanted = draws()
    assert restore(checkpoint, training, state) is None
    assert draws() == wanted


def test_momentum_the_step_and_the_curve_come_back(cfg, checkpoint):
    training, other = new_training(cfg), new_training(cfg)
    for parameter in training.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    training.optimizer.step()
    row = {"iteration": 20, "total_loss": 1.0}
    state = State(
        step=23, sums={"loss_cls": 3.0}, counted=3, prepared_at=20, evaluated_at=20, curve=[row]
    )
    checkpoint.save(training, state)
    again = State()
    restore(checkpoint, other, again)
    assert again == state
    buffers = [
        [s["momentum_buffer"] for s in each.optimizer.state.values()] for each in (training, other)
    ]
    assert buffers[0]
    assert all(torch.equal(a, b) for a, b in zip(*buffers, strict=True))


def test_a_checkpoint_of_another_number_of_processes_says_so(cfg, checkpoint):
    training, state = new_training(cfg), State()
    checkpoint.save(training, state)
    content = read_checkpoint(checkpoint.path)
    content["loop"]["generators"] *= 2
    content["loop"]["sums"] = [{"loss_cls": 3.0}, {"loss_cls": 4.0}]
    warning = checkpoint.restore(training, state, content)
    assert "continued on 1 processes, started on 2" in warning
    assert state.sums == {"loss_cls": 3.5}, "the row is a mean over processes"


def test_weights_of_another_network_are_refused_with_the_file_and_the_difference(cfg, checkpoint):
    training = new_training(cfg)
    training.model.conv = torch.nn.Conv2d(3, 5, 3)
    checkpoint.save(training, State())
    words = r"checkpoint\.pth: .*\n  wrong shape  conv.weight \(5, 3, 3, 3\)"
    with pytest.raises(UserError, match=words):
        restore(checkpoint, new_training(cfg), State())


@pytest.mark.parametrize("name", ["conv.weight", "norm.running_var"])
def test_weights_that_are_not_finite_leave_the_checkpoint_before_them(cfg, checkpoint, name):
    training, state = new_training(cfg), State(step=4)
    checkpoint.save(training, state)
    before = checkpoint.path.read_bytes()
    state.step = 8
    training.model.state_dict()[name].view(-1)[1] = torch.inf
    words = f"diverged at step 8: 1 tensor is not finite, the first model.{name}"
    with (
        pytest.raises(RunFailed, match=words) as failed,
        checkpoint.naming_what_is_left(state),
    ):
        checkpoint.save(training, state)
    assert str(failed.value).endswith(f"{checkpoint.path} holds the state after step 4.")
    assert checkpoint.path.read_bytes() == before


def test_a_run_that_fails_before_its_first_checkpoint_says_so(checkpoint):
    with (
        pytest.raises(RunFailed, match=r"why\nNo checkpoint was written yet\."),
        checkpoint.naming_what_is_left(State()),
    ):
        raise RunFailed("why")


def test_a_checkpoint_without_the_record_of_its_run_is_refused():
    require_record(Path("checkpoint.pth"), resumed=True)
    with pytest.raises(UserError, match=r"exists, but record\.json is missing"):
        require_record(Path("checkpoint.pth"), resumed=False)


def test_a_curve_that_cannot_be_written_is_a_failure_of_the_run(tmp_path):
    gone = Checkpoint(tmp_path / "gone" / "checkpoint.pth", lambda step: {})
    with pytest.raises(
        RunFailed, match=r"cannot write .*curve\.jsonl .*: No such file(.|\n)*another --output"
    ):
        gone.write_curve(State(curve=[{"step": 1}]))


def test_draws_inside_an_evaluation_leave_the_training_as_it_was():
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    with fresh_draws(0, 7, torch.device("cpu")):
        first = torch.rand(4)
    assert torch.equal(torch.rand(4), wanted)
    with fresh_draws(0, 7, torch.device("cpu")):
        assert torch.equal(torch.rand(4), first)
    with fresh_draws(0, 8, torch.device("cpu")):
        assert not torch.equal(torch.rand(4), first)


def test_a_detectors_checkpoint_of_version_0_1_continues(cfg, checkpoint):
    training = new_training(cfg)
    seed_everything(5)
    checkpoint.save(training, State())
    now = read_checkpoint(checkpoint.path)
    wanted = draws()
    save_checkpoint(
        checkpoint.path,
        {
            "kind": KIND,
            "about": {},
            "model": now["model"],
            "optimizer": now["optimizer"],
            "generators": now["loop"]["generators"],
            "sums": [{"loss_cls": 1.0}],
            "iteration": 30,
            "counted": 10,
            "averaged_at": 20,
            "evaluated_at": 20,
        },
    )
    rows = [{"iteration": 20, "a": 1}, {"iteration": 20, "scores": {}}, {"iteration": 40, "a": 2}]
    lines = [json.dumps(row) + "\n" for row in rows] + ['{"iteration": 60, "lo']
    checkpoint.path.with_name("curve.jsonl").write_text("".join(lines))
    state = State()
    assert restore(checkpoint, training, state) is None
    assert (state.step, state.counted, state.prepared_at, state.evaluated_at) == (30, 10, 20, 20)
    assert (state.sums, state.curve) == ({"loss_cls": 1.0}, rows[:2])
    assert draws() == wanted
