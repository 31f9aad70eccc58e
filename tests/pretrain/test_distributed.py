"""Several processes compute the loss and gradient of one process on the joined batch."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from msbreg.run import distributed
from msbreg.run.errors import UserError
from tests.pretrain.workers import changes, gradient_of_one_step
from tests.processes import run_many, run_pair

ROOT = Path(__file__).resolve().parents[2]


def two_processes(output: Path, task: str) -> list[dict]:
    assert run_pair("tests.pretrain.workers", output, task) == [0, 0]
    return [torch.load(output / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("task", ["msbreg-ln-sync-cpu", "msbreg-none-sync-cpu", "byol-ln-sync-cpu"])
def test_two_processes_have_the_loss_and_gradient_of_one(tmp_path, task):
    method, norm, *_ = task.split("-")
    one = gradient_of_one_step(method, norm, {"singular_sync": True})
    for result in two_processes(tmp_path, task):
        assert result["terms"] == pytest.approx(one["terms"], rel=1e-5)
        for name, gradient in result["gradients"].items():
            expected = one["gradients"][name]
            # The order of float32 sums differs.
            assert (gradient - expected).norm() <= 1e-4 * expected.norm() + 1e-9, name


def test_two_processes_have_the_loss_and_gradient_of_one_with_every_method(tmp_path):
    """DINO's processes compute the loss of their own images; the mean is that of all."""
    results = two_processes(tmp_path, "methods")
    assert len(results[0]) == 11
    for method, first in results[0].items():
        one, second = gradient_of_one_step(method, "ln", {}), results[1][method]
        mean = {name: (value + second["terms"][name]) / 2 for name, value in first["terms"].items()}
        assert mean == pytest.approx(one["terms"], rel=1e-4), method
        for name, expected in one["gradients"].items():
            # The order of float32 sums differs, and whitening amplifies the difference.
            distance = (first["gradients"][name] - expected).norm()
            assert distance <= 1e-3 * expected.norm() + 1e-7, f"{method}: {name}"
            assert torch.equal(first["gradients"][name], second["gradients"][name])


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_with_synchronized_batch_norm_train_like_one(tmp_path, processes):
    """In the loss terms and the gradient; two processes also in how far the weights move in some steps."""
    assert (
        run_many("tests.pretrain.workers", processes, tmp_path, "synchronized") == [0] * processes
    )
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(processes)]
    for method in ("msbreg", "byol"):
        one = gradient_of_one_step(method, "bn", {"singular_sync": True})
        for found in (result[method] for result in results):
            assert found["terms"] == pytest.approx(one["terms"], rel=1e-5)
            # BatchNorm divides sums over few rows, which amplifies rounding errors.
            assert difference(joined(found["gradients"]), joined(one["gradients"])) < 1e-4
    if processes == 2:
        first, second = results
        assert torch.equal(first["changes"], second["changes"])
        # A relative error of 1e-7 in the initial weights grows to 1e-3 of the change in 5 steps.
        moved = changes("msbreg")
        assert difference(first["changes"], moved) < 0.01
        assert difference(first["local"], moved) > 0.1


def joined(gradients: dict[str, Tensor]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients.values()])


def difference(found: Tensor, expected: Tensor) -> float:
    """Distance of the vectors, relative to the norm of the expected one."""
    return float((found - expected).norm() / expected.norm())


def test_a_covariance_per_process_gives_a_different_loss(tmp_path):
    one = gradient_of_one_step("msbreg", "ln", {"singular_sync": True})
    two = two_processes(tmp_path, "msbreg-ln-alone-cpu")
    assert two[0]["terms"]["singular_value"] != pytest.approx(one["terms"]["singular_value"])
    assert two[0]["terms"]["centroid"] == pytest.approx(one["terms"]["centroid"], rel=1e-5)


def test_gather_concatenates_rows_and_sums_their_gradients(tmp_path):
    joined = torch.tensor([0.0, 1, 2, 10, 11, 12])
    # Both processes compute the same loss, so each row's gradient arrives twice.
    gradient = 2 * 2 * joined * torch.arange(1.0, 7)
    for rank, result in enumerate(two_processes(tmp_path, "gather")):
        assert torch.equal(result["joined"], joined)
        assert torch.equal(result["gradient"], gradient[3 * rank : 3 * rank + 3])
        assert result["any"] == [True, False]
        assert result["objects"] == ["from 0", "from 1"]


def test_with_one_process_collectives_are_identities():
    rows = torch.ones(2, 3, requires_grad=True)
    assert distributed.gather(rows) is rows
    module = torch.nn.Linear(2, 2)
    assert distributed.data_parallel(module) is module
    assert distributed.synchronize_batch_norm(module, torch.device("cpu")) is module
    assert (distributed.world_size(), distributed.rank(), distributed.is_main()) == (1, 0, True)
    assert distributed.any_of([False, True]) == [False, True]
    assert distributed.gather_objects(3) == [3]


@pytest.mark.parametrize("name", ["tpu", "mps", "nonsense", "meta"])
def test_an_unknown_device_is_rejected(name):
    with pytest.raises(UserError, match="expected auto, cpu, cuda or cuda:N"):
        distributed.pick_device(name)


def test_a_missing_gpu_is_rejected():
    beyond = torch.cuda.device_count()
    with pytest.raises(UserError, match=f"requires GPU {beyond}, but PyTorch finds {beyond} GPUs"):
        distributed.pick_device(f"cuda:{beyond}")


@pytest.mark.skipif(
    torch.cuda.device_count() < 2,
    reason="two processes need two GPUs",
)
def test_two_gpus_with_synchronized_batch_norm_equal_one(tmp_path):
    one = gradient_of_one_step(
        "msbreg", "bn", {"singular_sync": True}, distributed.pick_device("cuda:0")
    )
    for result in two_processes(tmp_path, "msbreg-bn-sync-cuda"):
        assert result["terms"] == pytest.approx(one["terms"], rel=1e-4)
        # cuDNN's sums are not ordered.
        assert difference(joined(result["gradients"]), joined(one["gradients"])) < 1e-3
