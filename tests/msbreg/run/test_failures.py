"""If one process fails, all processes report the failure."""

from pathlib import Path

import pytest
import torch
from torch import nn

from msbreg.run.errors import RunFailed, UserError
from msbreg.run.failures import raise_first, to_other_processes
from msbreg.run.synchronized_norm import Collectives, SynchronizedBatchNorm
from tests.processes import run_pair
from transfer.detectors.detector_training import has_synchronized_norm


def reports(folder: Path, how: str, accumulate: int) -> list[str]:
    """The messages of both processes of tests/transfer/detectors/failing.py."""
    assert run_pair("tests.transfer.detectors.failing", folder, how, accumulate) == [0, 0]
    return [(folder / rank / "error.txt").read_text() for rank in ("0", "1")]


@pytest.mark.parametrize(
    ("how", "accumulate", "expected"),
    [
        ("nan", 1, "Diverged: training diverged at step 3: loss_cls = nan.\nTry a smaller"),
        ("nan", 2, "Diverged: training diverged at step 1: loss_cls = nan.\nTry a smaller"),
        (
            "proposals",
            2,
            "Diverged: training diverged at step 1: proposals are not finite.\n",
        ),
    ],
)
def test_divergence_in_one_process_is_reported_by_both(tmp_path, how, accumulate, expected):
    first, second = reports(tmp_path, how, accumulate)
    assert first == second
    assert first.startswith(expected)


def test_an_unreadable_image_in_one_process_is_reported_by_both(tmp_path):
    assert reports(tmp_path, "batch", 1) == ["UserError: image.jpg is truncated"] * 2


def test_out_of_memory_in_one_process_is_reported_by_both_with_advice(tmp_path):
    first, second = reports(tmp_path, "memory", 1)
    assert second.startswith("RunFailed: lower something\n(CUDA out of memory. Tried to")
    assert first.startswith("RunFailed: lower something\n(process 1: CUDA out of memory. Tried to")


def test_an_internal_error_keeps_its_type_where_it_happened(tmp_path):
    first, second = reports(tmp_path, "program", 1)
    assert second == "ZeroDivisionError: division by zero"
    assert first.startswith("RunFailed: process 1 failed with ZeroDivisionError: division by zero")


def test_the_local_failure_takes_precedence():
    with pytest.raises(UserError, match="mine"):
        raise_first(UserError("mine"), [RunFailed("another"), UserError("mine")])
    with pytest.raises(RunFailed, match="another"):
        raise_first(None, [None, RunFailed("another")])
    raise_first(None, [None, None])
    assert to_other_processes(None) is None


@pytest.mark.parametrize(
    ("norm", "exchanges"),
    [
        (nn.BatchNorm2d(2), False),
        (nn.SyncBatchNorm(2), True),
        (SynchronizedBatchNorm(nn.SyncBatchNorm(2), Collectives(bool, torch.clone)), True),
    ],
)
def test_layers_with_collectives_are_recognized(norm, exchanges):
    assert has_synchronized_norm(nn.Sequential(nn.Conv2d(1, 2, 1), norm)) is exchanges
