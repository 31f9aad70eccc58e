"""What every process says where one of them fails."""

from pathlib import Path

import pytest
from torch import nn
from transfer.detectors.failures import _exchanges, as_told, raise_first

from msbreg.run.errors import RunFailed, UserError
from tests.pair import run_pair


def said(folder: Path, how: str, accumulate: int) -> list[str]:
    """Of both processes of tests/transfer/detectors/failing.py."""
    assert run_pair("tests.transfer.detectors.failing", folder, how, accumulate) == [0, 0]
    return [(folder / rank / "said.txt").read_text() for rank in ("0", "1")]


@pytest.mark.parametrize(
    ("how", "accumulate", "expected"),
    [
        ("nan", 1, "RunFailed: training diverged at iteration 3: loss_cls = nan.\nTry a smaller"),
        ("nan", 2, "RunFailed: training diverged at iteration 1: loss_cls = nan.\nTry a smaller"),
        (
            "proposals",
            2,
            "RunFailed: training diverged at iteration 1: proposals are not finite.\n",
        ),
    ],
)
def test_numbers_that_diverge_in_one_process_are_told_alike(tmp_path, how, accumulate, expected):
    first, second = said(tmp_path, how, accumulate)
    assert first == second
    assert first.startswith(expected)


def test_memory_that_does_not_suffice_in_one_process_is_told_with_advice(tmp_path):
    first, second = said(tmp_path, "memory", 1)
    assert second == ("RunFailed: lower something\n(CUDA out of memory. Tried to allocate 2 GiB)")
    assert first == (
        "RunFailed: lower something\n(process 1: CUDA out of memory. Tried to allocate 2 GiB)"
    )


def test_an_error_of_the_program_keeps_its_traceback_where_it_happened(tmp_path):
    first, second = said(tmp_path, "program", 1)
    assert second == "ZeroDivisionError: division by zero"
    assert first.startswith("RunFailed: process 1 failed")
    assert first.endswith("ZeroDivisionError: division by zero")


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
    assert _exchanges(nn.Sequential(nn.Conv2d(1, 2, 1), norm)) is exchanges
