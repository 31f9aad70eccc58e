"""Checkpoints restore the full training state, and files of version 0.1.0 can be resumed."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from msbreg.checkpoints.load import save_checkpoint
from msbreg.run.errors import RunFailed, UserError
from msbreg.run.job import seed_everything
from msbreg.train.state import Checkpoint, State, require_record, separate_generators
from tests.transfer.detectors.toys import config, new_training
from transfer.detectors.detector_training import KIND, checkpoint_of, read_checkpoint


@pytest.fixture
def cfg(tmp_path):
    return config(tmp_path)


@pytest.fixture
def checkpoint(tmp_path) -> Checkpoint:
    return checkpoint_of(tmp_path / "checkpoint.pth", {})


def restore(checkpoint: Checkpoint, training, state: State) -> str | None:
    return checkpoint.restore(training, state, read_checkpoint(checkpoint.path))


def draws() -> tuple:
    legacy = np.random.rand(3).tolist()  # noqa: NPY002 - checkpoints save the global generator
    return torch.rand(3).tolist(), legacy, [random.gauss(0, 1) for _ in range(3)]


def test_global_generators_are_restored(cfg, checkpoint):
    training, state = new_training(cfg), State()
    seed_everything(3)
    random.gauss(0, 1)  # leaves a half-used pair
    checkpoint.save(training, state)
    wanted = draws()
    assert restore(checkpoint, training, state) is None
    assert draws() == wanted


def test_momentum_step_and_curve_are_restored(cfg, checkpoint):
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


def test_resuming_on_another_number_of_processes_warns(cfg, checkpoint):
    training, state = new_training(cfg), State()
    checkpoint.save(training, state)
    content = read_checkpoint(checkpoint.path)
    content["loop"]["generators"] *= 2
    content["loop"]["sums"] = [{"loss_cls": 3.0}, {"loss_cls": 4.0}]
    warning = checkpoint.restore(training, state, content)
    assert warning.startswith("resumed on 1 processes, started on 2: sums over processes")
    assert "random numbers" not in warning, "none were drawn"
    assert state.sums == {"loss_cls": 3.5}, "the row is a mean over processes"
    torch.rand(1)
    warning = checkpoint.restore(training, state, content)
    assert warning.endswith("the random numbers that each process draws start anew")


def test_weights_of_another_network_are_rejected_with_file_and_differences(cfg, checkpoint):
    training = new_training(cfg)
    training.model.conv = torch.nn.Conv2d(3, 5, 3)
    checkpoint.save(training, State())
    words = r"checkpoint\.pth: .*\n  wrong shape  conv.weight \(5, 3, 3, 3\)"
    with pytest.raises(UserError, match=words):
        restore(checkpoint, new_training(cfg), State())


@pytest.mark.parametrize("name", ["conv.weight", "norm.running_var"])
def test_non_finite_weights_do_not_overwrite_the_previous_checkpoint(cfg, checkpoint, name):
    training, state = new_training(cfg), State(step=4)
    checkpoint.save(training, state)
    before = checkpoint.path.read_bytes()
    state.step = 8
    training.model.state_dict()[name].view(-1)[1] = torch.inf
    words = f"diverged at step 8: 1 tensor is not finite, starting with model.{name}"
    with (
        pytest.raises(RunFailed, match=words) as failed,
        checkpoint.named_in_failures(state),
    ):
        checkpoint.save(training, state)
    assert str(failed.value).endswith(f"{checkpoint.path} contains the state after step 4.")
    assert checkpoint.path.read_bytes() == before


def test_a_failure_before_the_first_checkpoint_is_reported_as_such(checkpoint):
    with (
        pytest.raises(RunFailed, match=r"why\nNo checkpoint was written yet\."),
        checkpoint.named_in_failures(State()),
    ):
        raise RunFailed("why")


def test_a_checkpoint_without_a_record_is_rejected():
    require_record(Path("checkpoint.pth"), resumed=True)
    with pytest.raises(UserError, match=r"exists, but record\.json is missing"):
        require_record(Path("checkpoint.pth"), resumed=False)


def test_an_unwritable_curve_fails_the_run(tmp_path):
    gone = Checkpoint(tmp_path / "gone" / "checkpoint.pth", lambda step: {})
    with pytest.raises(
        RunFailed, match=r"cannot write .*curve\.jsonl .*: No such file(.|\n)*another --output"
    ):
        gone.write_curve(State(curve=[{"step": 1}]))


def test_separate_generators_do_not_affect_training():
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    with separate_generators(0, 7, torch.device("cpu")):
        first = torch.rand(4)
    assert torch.equal(torch.rand(4), wanted)
    with separate_generators(0, 7, torch.device("cpu")):
        assert torch.equal(torch.rand(4), first)
    with separate_generators(0, 8, torch.device("cpu")):
        assert not torch.equal(torch.rand(4), first)


def test_a_detection_checkpoint_of_version_0_1_resumes(cfg, checkpoint):
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
