"""Memory that does not suffice: which errors say so, and what is then said to lower."""

import errno

import pytest
import torch
from transfer.detectors.memory import TESTING, memory_advice, training_advice

from msbreg.run.errors import RunFailed
from tests.transfer.detectors.toys import config
from transfer.detectors.solver import Plan


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
def test_memory_that_does_not_suffice_is_told_with_advice(error):
    with (
        pytest.raises(RunFailed, match=r"lower something\n\(.+\)"),
        memory_advice("lower something"),
    ):
        raise error


@pytest.mark.parametrize("error", [RuntimeError("another"), OSError(errno.ENOSPC, "No space left")])
def test_other_errors_pass(error):
    with pytest.raises(type(error), match=str(error.args[-1])), memory_advice("lower something"):
        raise error


def test_memory_that_no_machine_has_is_told_with_advice():
    with pytest.raises(RunFailed, match="evaluate an image"), memory_advice(TESTING):
        torch.empty(2**60, dtype=torch.uint8)


def test_the_advice_is_what_can_still_be_lowered(tmp_path):
    cfg = config(tmp_path, "SOLVER.IMS_PER_BATCH", "16", "SOLVER.BASE_LR", "0.02")
    whole = training_advice(cfg, images=16, plan=Plan(iterations=9))
    assert "train on 16 images at a time" in whole
    assert "--accumulate 2 passes a batch in 2 parts" in whole
    assert "--amp bf16" in whole
    assert "SOLVER.IMS_PER_BATCH 8 SOLVER.BASE_LR 0.01 " in whole
    assert "INPUT.MIN_SIZE_TRAIN" in whole
    parts = training_advice(cfg, images=6, plan=Plan(iterations=9, accumulate=3, bf16=True))
    assert "train on 2 images at a time" in parts
    assert "--accumulate 6 passes" in parts
    assert "--amp" not in parts
    one = training_advice(cfg, images=1, plan=Plan(iterations=9))
    assert "--accumulate" not in one
    assert "IMS_PER_BATCH" not in one


@pytest.mark.parametrize(
    ("kind", "last"),
    [
        (MemoryError, "MemoryError"),
        (RuntimeError, "RuntimeError: [enforce] can't allocate memory: you tried 9 bytes"),
        (OSError, "OSError: [Errno 12] Cannot allocate memory"),
    ],
)
def test_memory_of_a_process_that_decodes_is_told_to_need_fewer_of_them(kind, last):
    text = (
        f"Caught {kind.__name__} in DataLoader worker process 0.\nOriginal Traceback ...\n{last}\n"
    )
    with (
        pytest.raises(RunFailed, match=r"fewer --workers(.|\n)*\(" + last.split("[")[0]),
        memory_advice("lower something"),
    ):
        raise kind(text)


def test_another_error_of_a_process_that_decodes_passes():
    text = "Caught RuntimeError in DataLoader worker process 0.\nRuntimeError: shapes differ\n"
    with pytest.raises(RuntimeError, match="shapes differ"), memory_advice("lower something"):
        raise RuntimeError(text)
