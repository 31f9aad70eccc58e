"""Checkpoints of a training: generators come back, other files are refused by name."""

import random

import numpy as np
import pytest
import torch
from transfer.detectors.curve import Curve

from msbreg.checkpoints.load import save_checkpoint
from msbreg.run.config import Card
from msbreg.run.errors import RunFailed, UserError
from msbreg.run.job import Job, StopSignal
from msbreg.run.record import Record
from tests.transfer.detectors.toys import config, new_state
from transfer.detectors import continuing
from transfer.detectors.batch_norm import without_synchronization
from transfer.detectors.detection_config import Config


def test_the_generators_of_torch_numpy_and_python_come_back(tmp_path):
    state = new_state(config(tmp_path))
    path = tmp_path / "checkpoint.pth"
    np.random.seed(3)  # noqa: NPY002 - the global one is what is kept
    random.gauss(0, 1)  # leaves a half-used pair
    continuing.save(state, path, {})
    wanted = (torch.rand(3), np.random.rand(3), [random.gauss(0, 1) for _ in range(3)])  # noqa: NPY002
    assert continuing.restore(state, continuing.read(path), path) is None
    again = (torch.rand(3), np.random.rand(3), [random.gauss(0, 1) for _ in range(3)])  # noqa: NPY002
    assert torch.equal(wanted[0], again[0])
    assert (wanted[1] == again[1]).all()
    assert wanted[2] == again[2]


def test_momentum_comes_back(tmp_path):
    cfg = config(tmp_path)
    state, other = new_state(cfg), new_state(cfg)
    for parameter in state.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    state.solver.optimizer.step()
    path = tmp_path / "checkpoint.pth"
    continuing.save(state, path, {})
    continuing.restore(other, continuing.read(path), path)
    buffers = [
        [s["momentum_buffer"] for s in each.solver.optimizer.state.values()]
        for each in (state, other)
    ]
    assert buffers[0]
    assert all(torch.equal(a, b) for a, b in zip(*buffers, strict=True))


def test_a_checkpoint_of_other_processes_says_so(tmp_path):
    state = new_state(config(tmp_path))
    path = tmp_path / "checkpoint.pth"
    continuing.save(state, path, {})
    content = continuing.read(path)
    content["generators"] = content["generators"] * 2
    content["sums"] = [{"loss_cls": 3.0}, {"loss_cls": 4.0}]
    assert "continued on 1 processes, begun on 2" in continuing.restore(state, content, path)
    assert state.sums == {"loss_cls": 3.5}, "the row is a mean over processes"


@pytest.mark.parametrize(("then", "now"), [("cuda", "cpu"), ("cpu", "cuda"), ("cpu", "cpu")])
def test_a_continuation_on_another_kind_of_device_says_so(tmp_path, then, now):
    about = {"data": {}, "engine": "torchvision"}
    state = new_state(config(tmp_path))
    path = tmp_path / "checkpoint.pth"
    continuing.save(state, path, about | {"device": then})
    asked = Config(config=path, output=tmp_path)
    record = Record(tmp_path, kind="detection", config=asked, card=Card("tiny"))
    running = Job(tmp_path, torch.device("cpu"), record, resumed=True, stop=StopSignal())
    continuing.resume(state, path, running, about | {"device": now})
    warned = [w for w in record.content["warnings"] if f"continued on {now}, begun on {then}" in w]
    assert len(warned) == len(record.content["warnings"]) == (then != now)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "other.pth"
    save_checkpoint(path, {"online": {}})
    with pytest.raises(UserError, match="is no checkpoint of transfer/detection.py"):
        continuing.read(path)
    save_checkpoint(path, {"kind": continuing.KIND, "schema": 7})
    with pytest.raises(UserError, match="has checkpoint schema 7"):
        continuing.read(path)
    with pytest.raises(UserError, match="gone.pth"):
        continuing.read(tmp_path / "gone.pth")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="other.pth"):
        continuing.read(path)


def test_weights_of_another_detector_are_refused_with_the_difference(tmp_path):
    cfg = config(tmp_path)
    state = new_state(cfg)
    path = tmp_path / "checkpoint.pth"
    state.model.conv = torch.nn.Conv2d(3, 5, 3)
    continuing.save(state, path, {})
    with pytest.raises(UserError, match=r"wrong shape  conv.weight \(5, 3, 3, 3\)"):
        continuing.restore(new_state(cfg), continuing.read(path), path)


@pytest.mark.parametrize("name", ["conv.weight", "norm.running_var"])
def test_what_is_not_finite_leaves_the_checkpoint_before_it(tmp_path, name):
    state = new_state(config(tmp_path))
    path = tmp_path / "checkpoint.pth"
    state.iteration = 4
    continuing.save(state, path, {})
    before = path.read_bytes()
    state.iteration = 8
    state.model.state_dict()[name].view(-1)[1] = torch.inf
    words = f"diverged at iteration 8: 1 tensors are not finite, the first {name}"
    with (
        pytest.raises(RunFailed, match=words) as failed,
        continuing.naming_what_is_left(state, path),
    ):
        continuing.save(state, path, {})
    assert str(failed.value).endswith(f"{path} holds the state after iteration 4.")
    assert path.read_bytes() == before


def test_a_run_that_fails_before_its_first_checkpoint_says_so(tmp_path):
    state = new_state(config(tmp_path))
    path = tmp_path / "checkpoint.pth"
    with (
        pytest.raises(RunFailed, match=r"why\nNo checkpoint was written yet\."),
        continuing.naming_what_is_left(state, path),
    ):
        raise RunFailed("why")


def test_a_curve_loses_what_lies_behind_its_checkpoint_and_a_line_that_was_cut_off(tmp_path):
    state = new_state(config(tmp_path))
    curve = Curve(tmp_path, state)
    for row in ({"iteration": 20}, {"iteration": 20, "scores": {}}, {"iteration": 40}):
        curve.add(row)
    with open(curve.path, "a") as file:
        file.write('{"iteration": 60, "lo')
    state.iteration, state.evaluated_at = 30, 10
    Curve(tmp_path, state).add({"iteration": 40, "again": True})
    assert curve.path.read_text() == '{"iteration": 20}\n{"iteration": 40, "again": true}\n'


def test_local_norms_keep_their_state():
    module = torch.nn.Sequential(torch.nn.Sequential(torch.nn.SyncBatchNorm(3)), torch.nn.ReLU())
    module[0][0].running_mean += 2
    before = {name: value.clone() for name, value in module.state_dict().items()}
    without_synchronization(module)
    assert type(module[0][0]) is torch.nn.BatchNorm2d
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
