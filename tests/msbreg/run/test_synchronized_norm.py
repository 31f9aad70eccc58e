"""Two and three processes with rows of different number have the BatchNorm of one with the joined rows."""

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from msbreg.run import distributed
from msbreg.run.synchronized_norm import SynchronizedBatchNorm
from tests.processes import run_many

CPU = torch.device("cpu")
ROWS = {1: [8], 2: [5, 3], 3: [5, 0, 3]}  # number of processes -> rows of each
CASES = {
    "1d": (nn.BatchNorm1d(3), (8, 3)),
    "2d": (nn.BatchNorm2d(3), (8, 3, 4, 5)),
    "channels last": (nn.BatchNorm2d(3), (8, 3, 4, 5)),
    "far from 0": (nn.BatchNorm2d(3), (8, 3, 4, 5)),
    "float64": (nn.BatchNorm2d(3).double(), (8, 3, 4, 5)),
    "bfloat16": (nn.BatchNorm2d(3), (8, 3, 4, 5)),
    "without scale": (nn.BatchNorm2d(3, affine=False), (8, 3, 4, 5)),
    "without momentum": (nn.BatchNorm1d(3, momentum=None), (8, 3)),
    "without statistics": (nn.BatchNorm1d(3, track_running_stats=False), (8, 3)),
}


def passed(case: str, rank: int, processes: int) -> dict[str, Any]:
    """Two batches in training, then one in evaluation, of this process's rows; results and gradients."""
    norm, shape = copy.deepcopy(CASES[case])
    generator = torch.Generator().manual_seed(0)
    if norm.affine:
        nn.init.uniform_(norm.weight, 1, 2, generator=generator)
        nn.init.uniform_(norm.bias, generator=generator)
    (norm,) = distributed.synchronize_batch_norm(nn.Sequential(norm), CPU)
    first = sum(ROWS[processes][:rank])
    mine = slice(first, first + ROWS[processes][rank])
    found: dict[str, Any] = {"keys": list(norm.state_dict())}
    for batch in range(2):
        x, factors = torch.randn(2, *shape, generator=generator)
        x = (3 * x + 1000)[mine] if case == "far from 0" else (3 * x + 1)[mine]
        x = x.double() if case == "float64" else x
        x = x.to(memory_format=torch.channels_last) if case == "channels last" else x.clone()
        x = x.bfloat16() if case == "bfloat16" else x
        with torch.autocast("cpu", torch.bfloat16, enabled=case == "bfloat16"):
            y = norm(x.requires_grad_())
        (y * factors[mine]).sum().backward()
        found |= {f"output {batch}": y.detach(), f"gradient {batch}": x.grad}
    found["channels last"] = bool(y.is_contiguous(memory_format=torch.channels_last))
    found["parameters"] = [p.grad for p in norm.parameters()]
    found["statistics"] = [b.clone() for b in norm.buffers()]
    found["evaluated"] = norm.eval()(x).detach() if norm.track_running_stats else y.detach()
    return found


@pytest.fixture(scope="module", params=[2, 3])
def processes(request, tmp_path_factory) -> list[dict[str, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp(f"norms{request.param}")
    assert run_many(__name__, request.param, folder) == [0] * request.param
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(request.param)]


def assert_close(found: Tensor, expected: Tensor, case: str) -> None:
    assert found.dtype == expected.dtype
    # The order of sums differs. Near 1000, float32 inputs have a resolution of 6e-5.
    tolerance = {"bfloat16": 2e-2, "far from 0": 2e-4, "float64": 1e-12}.get(case, 1e-5)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", CASES)
def test_processes_have_the_output_gradient_and_statistics_of_one(processes, case):
    one, several = passed(case, 0, 1), [found[case] for found in processes]
    for name in ("output 0", "output 1", "gradient 0", "gradient 1", "evaluated"):
        assert_close(torch.cat([found[name] for found in several]), one[name], case)
    for gradients, expected in zip(
        zip(*(found["parameters"] for found in several), strict=True),
        one["parameters"],
        strict=True,
    ):
        assert_close(torch.stack(gradients).sum(0), expected, case)
    for found in several:
        assert found["keys"] == one["keys"]
        for buffer, expected in zip(found["statistics"], one["statistics"], strict=True):
            assert_close(buffer, expected, case)
    if case == "channels last":
        assert all(found["channels last"] for found in several)


def test_joined_rows_must_not_be_a_single_value(processes):
    assert all("more than 1 value per channel" in found["single"]["error"] for found in processes)


def test_a_process_that_computes_alone_has_plain_batch_norm(processes):
    assert all(found["alone"]["equal"] for found in processes)


def test_one_process_keeps_its_batch_norm():
    norm = nn.BatchNorm2d(3)
    assert distributed.synchronize_batch_norm(nn.Sequential(norm), CPU)[0] is norm


def single_value() -> dict[str, Any]:
    (norm,) = distributed.synchronize_batch_norm(nn.Sequential(nn.BatchNorm1d(3)), CPU)
    try:
        norm(torch.zeros(int(distributed.is_main()), 3))
    except ValueError as error:
        return {"error": str(error)}
    return {"error": ""}


def computed_alone() -> dict[str, Any]:
    plain = nn.BatchNorm1d(3)
    (norm,) = distributed.synchronize_batch_norm(nn.Sequential(copy.deepcopy(plain)), CPU)
    assert isinstance(norm, SynchronizedBatchNorm)
    rows = torch.arange(12.0).reshape(4, 3)
    with distributed.alone():
        same = torch.equal(norm(rows), plain(rows))
    return {"equal": same and torch.equal(norm.running_var, plain.running_var)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    distributed.start(CPU)
    rank, world = distributed.rank(), distributed.world_size()
    results = {case: passed(case, rank, world) for case in CASES}
    results |= {"single": single_value(), "alone": computed_alone()}
    torch.save(results, Path(sys.argv[1]) / f"{rank}.pt")
    distributed.stop()
