"""Time the kNN protocol against other implementations: CPU time of one thread, interleaved rounds.

    python benchmarks/knn.py --bank 20000 --queries 500 --width 512

All implementations start from the same arrays in memory and return scores (Q, C); the time includes
normalization and building an index. Each round runs every implementation once, so that changes in machine
load affect all of them. Reported times are medians over the rounds, after one warm-up round.
"""

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # before BLAS is loaded: idle threads spin, which counts as CPU time

import argparse
import statistics
import sys
import time
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor
from torch.nn import functional

from msbreg.neighbors import nearest, weighted_vote

TEMPERATURE = 0.07
CLASSES = 1000


def ours(queries: np.ndarray, bank: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Search, then vote."""
    similarities, indices = nearest(queries, bank, k)
    return weighted_vote(similarities, labels[indices], CLASSES, TEMPERATURE)


def sklearn_brute(queries: np.ndarray, bank: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """scikit-learn's brute force with cosine distances and exponential weights."""
    peer = KNeighborsClassifier(
        k,
        weights=lambda distances: np.exp((1 - distances) / TEMPERATURE),
        algorithm="brute",
        metric="cosine",
        n_jobs=1,
    )
    return peer.fit(bank, labels).predict_proba(queries)


def torch_chunks(queries: np.ndarray, bank: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Chunks of 500 queries (DINO on ImageNet: 100 chunks of 50,000), `topk`, a one-hot vote."""
    unit_queries = functional.normalize(torch.from_numpy(queries))
    unit_bank = functional.normalize(torch.from_numpy(bank)).T
    bank_labels = torch.from_numpy(labels)

    def vote(chunk: Tensor) -> Tensor:
        similarities, indices = (chunk @ unit_bank).topk(k)
        one_hot = functional.one_hot(bank_labels[indices], CLASSES)
        return ((similarities / TEMPERATURE).exp()[:, :, None] * one_hot).sum(1)

    return torch.cat([vote(chunk) for chunk in unit_queries.split(500)]).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bank", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    sizes = parser.parse_args()
    torch.set_num_threads(1)

    # Non-negative features around class centers, similar to the pooled features of a ResNet.
    draw = np.random.default_rng(0)
    labels = draw.permutation(np.arange(sizes.bank) % CLASSES)
    query_labels = draw.integers(0, CLASSES, sizes.queries)
    centers = draw.standard_normal((CLASSES, sizes.width), dtype=np.float32)

    def features(of: np.ndarray) -> np.ndarray:
        noise = draw.standard_normal((len(of), sizes.width), dtype=np.float32)
        return np.maximum(centers[of] + 4 * noise, 0)

    bank, queries = features(labels), features(query_labels)
    routes = {"ours": ours, "scikit-learn brute": sklearn_brute, "torch chunks": torch_chunks}
    seconds: dict[str, list[float]] = {name: [] for name in routes}
    accuracy = {}
    for _ in range(1 + sizes.rounds):
        for name, route in routes.items():
            start = time.process_time()
            scores = route(queries, bank, labels, sizes.k)
            seconds[name].append(time.process_time() - start)
            accuracy[name] = 100 * np.mean(scores.argmax(1) == query_labels)

    print(f"bank {sizes.bank}, queries {sizes.queries}, width {sizes.width}, k {sizes.k}")
    print(f"{'route':20}{'CPU s':>8}{'x ours':>8}{'spread':>8}{'top-1 %':>9}")
    for name in routes:
        rounds = seconds[name][1:]
        ratio = statistics.median(
            theirs / own for theirs, own in zip(rounds, seconds["ours"][1:], strict=True)
        )
        spread = (max(rounds) - min(rounds)) / statistics.median(rounds)
        print(
            f"{name:20}{statistics.median(rounds):8.3f}{ratio:8.2f}{spread:8.2f}"
            f"{accuracy[name]:9.2f}"
        )


if __name__ == "__main__":
    main()
