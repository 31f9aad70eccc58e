"""What every process says where one of them fails."""

from pathlib import Path

import pytest
from torch import nn

from msbreg.run.errors import RunFailed, UserError
from msbreg.run.failures import as_told, raise_first
from tests.pair import run_pair
from transfer.detectors.trainable import has_synchronized_norm


def said(folder: Path, how: str, accumulate: int) -> list[str]:
    """Of both processes of tests/transfer/detectors/failing.py."""
    assert run_pair("tests.transfer.detectors.failing", folder, how, accumulate) == [0, 0]
    return [(folder / rank / "error.txt").read_text() for rank in ("0", "1")]


@pytest.mark.parametrize(
    ("how", "accumulate", "expected"),
    [
        ("nan", 1, "RunFailed: training diverged at step 3: loss_cls = nan.\nTry a smaller"),
        ("nan", 2, "RunFailed: training diverged at step 1: loss_cls = nan.\nTry a smaller"),
        (
            "proposals",
            2,
            "RunFailed: training diverged at step 1: proposals are not finite.\n",
        ),
    ],
)
def test_numbers_that_diverge_in_one_process_are_reported_alike(
    tmp_path, how, accumulate, expected
):
    first, second = said(tmp_path, how, accumulate)
    assert first == second
    assert first.startswith(expected)


def test_an_image_that_one_process_cannot_read_ends_all_with_its_name(tmp_path):
    assert said(tmp_path, "batch", 1) == ["UserError: image.jpg is truncated"] * 2


def test_memory_that_runs_out_in_one_process_is_reported_with_advice(tmp_path):
    first, second = said(tmp_path, "memory", 1)
    assert second.startswith("RunFailed: lower something\n(CUDA out of memory. Tried to")
    assert first.startswith("RunFailed: lower something\n(process 1: CUDA out of memory. Tried to")


def test_an_error_of_the_program_keeps_its_traceback_where_it_happened(tmp_path):
    first, second = said(tmp_path, "program", 1)
    assert second == "ZeroDivisionError: division by zero"
    assert first.startswith("RunFailed: process 1 failed with ZeroDivisionError: division by zero")


def test_ones_own_failure_goes_before_that_of_others():
    with pytest.raises(UserError, match="mine"):
        raise_first(UserError("mine"), [RunFailed("another"), UserError("mine")])
    with pytest.raises(RunFailed, match="another"):
        raise_first(None, [None, RunFailed("another")])
    raise_first(None, [None, None])
    assert as_told(None) is None


@pytest.mark.parametrize(
    ("norm", "exchanges"), [(nn.BatchNorm2d(2), False), (nn.SyncBatchNorm(2), True)]
)
def test_layers_that_wait_for_other_processes_are_known(norm, exchanges):
    assert has_synchronized_norm(nn.Sequential(nn.Conv2d(1, 2, 1), norm)) is exchanges
