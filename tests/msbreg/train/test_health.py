"""How non-finite losses and weights and out-of-memory errors are reported."""

import errno

import pytest
import torch

from msbreg.run.errors import RunFailed
from msbreg.train.health import (
    Diverged,
    LossMeter,
    check_finite,
    explaining_divergence,
    memory_advice,
)
from msbreg.train.state import State


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
        RuntimeError("std::bad_alloc"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        MemoryError(),
    ],
    ids=str,
)
def test_out_of_memory_errors_are_reported_with_advice(error):
    with (
        pytest.raises(RunFailed, match=r"lower something\n\(.+\)"),
        memory_advice("lower something"),
    ):
        raise error


@pytest.mark.parametrize("error", [RuntimeError("another"), OSError(errno.ENOSPC, "No space left")])
def test_other_errors_pass_through(error):
    with pytest.raises(type(error), match=str(error.args[-1])), memory_advice("lower something"):
        raise error


@pytest.mark.parametrize(
    ("kind", "last"),
    [
        (MemoryError, "MemoryError"),
        (RuntimeError, "RuntimeError: [enforce] can't allocate memory: you tried 9 bytes"),
        (OSError, "OSError: [Errno 12] Cannot allocate memory"),
    ],
)
def test_out_of_memory_in_a_worker_advises_fewer_workers(kind, last):
    text = (
        f"Caught {kind.__name__} in DataLoader worker process 0.\nOriginal Traceback ...\n{last}\n"
    )
    with (
        pytest.raises(RunFailed, match=r"fewer --workers(.|\n)*\(" + last.split("[")[0]),
        memory_advice("lower something"),
    ):
        raise kind(text)


def test_other_worker_errors_pass_through():
    text = "Caught RuntimeError in DataLoader worker process 0.\nRuntimeError: shapes differ\n"
    with pytest.raises(RuntimeError, match="shapes differ"), memory_advice("lower something"):
        raise RuntimeError(text)


def test_loss_terms_are_summed_over_parts_and_read_on_flush():
    meter, state = LossMeter("Try less."), State()
    for step in range(3):
        for part in range(2):
            meter.add({"a": torch.tensor(float(step)), "b": torch.tensor(float(part))})
        meter.end_step(step)
    assert meter.latest == {}
    meter.flush(state)
    assert (state.sums, state.counted) == ({"a": 6.0, "b": 3.0}, 3)
    assert meter.latest == {"a": 4.0, "b": 1.0}
    meter.flush(state)
    assert state.counted == 3, "steps are not counted twice"


def test_non_finite_weights_are_reported_by_name_with_advice():
    check_finite({"good": torch.ones(2), "step": 3, "count": torch.tensor(4)}, 5, "Try less.")
    bad = {"good": torch.ones(2), "one": torch.tensor([1.0, torch.inf])}
    with pytest.raises(
        RunFailed, match=r"step 5: 1 tensor is not finite, starting with one\.\nTry less"
    ):
        check_finite(bad, 5, "Try less.")


def test_a_covariance_without_inverse_is_reported_as_divergence():
    singular = torch.zeros(2, 2)
    with (
        pytest.raises(Diverged, match=r"training diverged at step 7: .*not positive-definite"),
        explaining_divergence(7, "Try less."),
    ):
        torch.linalg.cholesky(singular)
