"""One of several gloo processes that search together; started by test_neighbors.py."""

import sys
from pathlib import Path

import numpy as np
import torch

from msbreg.neighbors import nearest_across_processes
from msbreg.run import distributed


def features() -> tuple[np.ndarray, np.ndarray]:
    """Queries, of a number that neither two nor three divides, and a bank with ties."""
    draw = np.random.default_rng(4)
    bank = np.repeat(draw.standard_normal((100, 24), dtype=np.float32), 3, axis=0)
    return draw.standard_normal((25, 24), dtype=np.float32), bank


if __name__ == "__main__":
    torch.set_num_threads(1)
    distributed.start(torch.device("cpu"))
    for metric in ("cosine", "euclidean"):
        similarities, indices = nearest_across_processes(*features(), 7, metric=metric)
        file = Path(sys.argv[1]) / f"{metric}-{distributed.rank()}.npz"
        np.savez(file, similarities=similarities, indices=indices)
    distributed.stop()
