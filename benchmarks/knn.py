"""Time the kNN protocol against other implementations: CPU time of one thread, interleaved rounds.

    python benchmarks/knn.py --bank 100000 --queries 1000 --width 2048 --k 20

All implementations start from the same arrays in memory and return scores (Q, C); the time includes
normalization and building an index. Each round runs every implementation once, so that changes in machine
load affect all of them. Reported times are medians over the rounds, after one warm-up round. The
reference is one float32 product of the queries and the bank in blocks, by the fastest of MKL, oneDNN and
NumPy's BLAS. Memory is what a run in a process of its own adds to the peak of the arrays. The strongest
peers are FAISS's flat index, where MKL is slow, and lightly's `knn_predict`, which is timed if lightly is
installed.
"""

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # before BLAS is loaded: idle threads spin, which counts as CPU time

import argparse
import importlib.util
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor
from torch.nn import functional

from msbreg.float32_product import matmul, onednn_product
from msbreg.neighbors import nearest, weighted_vote
from msbreg.neighbors.faiss_search import load_faiss

TEMPERATURE = 0.07
CLASSES = 1000
BLOCK = 4096  # rows of the bank in one reference product

Route = Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]


def ours(
    queries: np.ndarray, bank: np.ndarray, labels: np.ndarray, k: int, **options: str
) -> np.ndarray:
    """Search, then vote."""
    similarities, indices = nearest(queries, bank, k, **options)  # type: ignore[arg-type]
    return weighted_vote(similarities, labels[indices], CLASSES, TEMPERATURE)


def faiss_flat(queries: np.ndarray, bank: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """FAISS's exact index on normalized copies."""
    faiss = load_faiss(gpus=False)
    queries, bank = queries.copy(), bank.copy()
    faiss.normalize_L2(queries)
    faiss.normalize_L2(bank)
    index = faiss.IndexFlatIP(bank.shape[1])
    index.add(bank)
    similarities, indices = index.search(queries, k)
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


def lightly_predict(
    queries: np.ndarray, bank: np.ndarray, labels: np.ndarray, k: int
) -> np.ndarray:
    """lightly's function in batches of 256; it returns ranked classes, of which only the first is scored."""
    from lightly.utils.benchmarking import knn_predict

    unit_queries = functional.normalize(torch.from_numpy(queries))
    unit_bank = functional.normalize(torch.from_numpy(bank)).T.contiguous()
    ranked = [
        knn_predict(chunk, unit_bank, torch.from_numpy(labels), CLASSES, k, TEMPERATURE)
        for chunk in unit_queries.split(256)
    ]
    return np.eye(CLASSES)[torch.cat(ranked)[:, 0].numpy()]


ROUTES: dict[str, Route] = {
    "ours": ours,
    "ours, float32": partial(ours, precision="float32"),
    "lightly": lightly_predict,
    "scikit-learn brute": sklearn_brute,
    "torch chunks": torch_chunks,
}
if importlib.util.find_spec("faiss") is not None:
    ROUTES |= {"FAISS": faiss_flat, "ours with FAISS": partial(ours, backend="faiss")}
if importlib.util.find_spec("lightly") is None:
    del ROUTES["lightly"]


def products() -> dict[str, Callable[[np.ndarray, np.ndarray], object]]:
    """Float32 products of queries and a block of the bank."""
    tensor = torch.from_numpy
    found: dict[str, Callable[[np.ndarray, np.ndarray], object]] = {
        "torch": lambda queries, rows: matmul(tensor(queries), tensor(rows)),
        "NumPy": lambda queries, rows: queries @ rows.T,
    }
    if (onednn := onednn_product()) is not None:
        found["oneDNN"] = lambda queries, rows: onednn(tensor(queries), tensor(rows))
    return found


def arrays(
    sizes: argparse.Namespace,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Queries, bank, labels of the bank and of the queries.

    Non-negative features around class centers, similar to the pooled features of a ResNet.
    """
    draw = np.random.default_rng(0)
    labels = draw.permutation(np.arange(sizes.bank) % CLASSES)
    query_labels = draw.integers(0, CLASSES, sizes.queries)
    centers = draw.standard_normal((CLASSES, sizes.width), dtype=np.float32)

    def features(of: np.ndarray) -> np.ndarray:
        made = np.empty((len(of), sizes.width), dtype=np.float32)
        for start in range(0, len(of), BLOCK):
            part = of[start : start + BLOCK]
            noise = draw.standard_normal((len(part), sizes.width), dtype=np.float32)
            made[start : start + BLOCK] = np.maximum(centers[part] + 4 * noise, 0)
        return made

    bank = features(labels)
    return features(query_labels), bank, labels, query_labels


def peak_megabytes() -> float:
    """The peak since the program was started; `getrusage` would include that of the parent process."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def memory_of(name: str, sizes: argparse.Namespace) -> float:
    """Megabytes that a route adds to the peak, in a process of its own."""
    command = [sys.executable, __file__, "--only", name]
    for option in ("bank", "queries", "width", "k"):
        command += [f"--{option}", str(getattr(sizes, option))]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bank", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help="run one route once and print the memory that it takes")
    sizes = parser.parse_args()
    torch.set_num_threads(1)
    queries, bank, labels, query_labels = arrays(sizes)
    if sizes.only:
        before = peak_megabytes()
        ROUTES[sizes.only](queries, bank, labels, sizes.k)
        print(peak_megabytes() - before)
        return

    seconds: dict[str, list[float]] = {name: [] for name in (*products(), *ROUTES)}
    accuracy = {}
    for _ in range(1 + sizes.rounds):
        for name, product in products().items():
            start = time.process_time()
            for first in range(0, len(bank), BLOCK):
                product(queries, bank[first : first + BLOCK])
            seconds[name].append(time.process_time() - start)
        for name, route in ROUTES.items():
            start = time.process_time()
            scores = route(queries, bank, labels, sizes.k)
            seconds[name].append(time.process_time() - start)
            accuracy[name] = 100 * np.mean(scores.argmax(1) == query_labels)

    fastest = min(products(), key=lambda name: statistics.median(seconds[name][1:]))
    print(f"bank {sizes.bank}, queries {sizes.queries}, width {sizes.width}, k {sizes.k}")
    print(
        f"product of the two in float32, by {fastest}: {statistics.median(seconds[fastest][1:]):.3f} s"
    )
    print(
        f"{'route':20}{'CPU s':>8}{'x product':>11}{'x ours':>8}{'spread':>8}{'MB':>8}{'top-1 %':>9}"
    )
    for name in ROUTES:
        rounds = seconds[name][1:]
        to_product, to_ours = (
            statistics.median(
                theirs / own for theirs, own in zip(rounds, seconds[reference][1:], strict=True)
            )
            for reference in (fastest, "ours")
        )
        spread = (max(rounds) - min(rounds)) / statistics.median(rounds)
        print(
            f"{name:20}{statistics.median(rounds):8.3f}{to_product:11.2f}{to_ours:8.2f}{spread:8.2f}"
            f"{memory_of(name, sizes):8.0f}{accuracy[name]:9.2f}"
        )


if __name__ == "__main__":
    main()
