"""naiveSyncBN on two processes is BatchNorm over the joined batch, in value and in gradient."""

import sys
from pathlib import Path

import torch
from torch import nn

from msbreg.run import distributed
from tests.processes import run_pair
from transfer.detectors.rcnn.layers import NaiveSyncBatchNorm

ROOT = Path(__file__).resolve().parents[4]


def passed(norm: nn.Module, rank: int, processes: int) -> dict[str, torch.Tensor]:
    """Output of the norm for this process's share of 8 images, and the gradient of a weighted sum."""
    generator = torch.Generator().manual_seed(0)
    images, weights = torch.randn(2, 8, 3, 5, 5, generator=generator)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2, 3]))
    share = 8 // processes
    mine = slice(rank * share, (rank + 1) * share)
    x = images[mine].clone().requires_grad_()
    y = norm(x)
    (y * weights[mine]).sum().backward()
    assert x.grad is not None
    return {
        "output": y.detach(),
        "gradient": x.grad,
        "mean": norm.running_mean,
        "variance": norm.running_var,
    }


def test_two_processes_equal_one_with_the_joined_batch(tmp_path):
    assert run_pair(__name__, tmp_path) == [0, 0]
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    whole = passed(nn.BatchNorm2d(3), 0, 1)
    for name in ("output", "gradient"):
        joined = torch.cat([part[name] for part in found])
        assert torch.allclose(joined, whole[name], atol=1e-5)
    # BatchNorm stores the unbiased variance, this norm the biased one; n is 8 images of 25 pixels.
    unbiased = 0.9 + (found[0]["variance"] - 0.9) * 200 / 199
    assert torch.allclose(unbiased, whole["variance"], atol=1e-6)
    assert torch.allclose(found[1]["mean"], whole["mean"], atol=1e-6)


def test_on_one_process_it_is_batch_norm():
    one, other = passed(NaiveSyncBatchNorm(3), 0, 1), passed(nn.BatchNorm2d(3), 0, 1)
    assert all(torch.equal(one[name], other[name]) for name in one)


if __name__ == "__main__":
    distributed.start(torch.device("cpu"))
    result = passed(NaiveSyncBatchNorm(3), distributed.rank(), distributed.world_size())
    torch.save(result, Path(sys.argv[1]) / f"{distributed.rank()}.pt")
    distributed.stop()
