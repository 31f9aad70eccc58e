"""Exact nearest neighbors by cosine similarity or Euclidean distance, in three ways that give equal results.

Each way finds shortlists with a bound on the error of its scores: blocked products in PyTorch (in
bfloat16 where that is fast, with the queries whose shortlist gets too long repeated in float32), FAISS on
the CPU, or FAISS on all GPUs. `msbreg.neighbors.exact` then computes the similarities of the shortlisted
rows.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import numpy as np
import torch

from msbreg.float32_product import has_fast_bfloat16
from msbreg.neighbors.exact import Comparison, rerank, scan_in_float64
from msbreg.neighbors.faiss_search import load_faiss, scan_with_faiss
from msbreg.neighbors.shortlist import Metric, Precision, Shortlist, scan
from msbreg.neighbors.vectors import Matrix, Vectors
from msbreg.run import distributed
from msbreg.run.errors import UserError

_QUERIES_FOR_BFLOAT16 = 256  # rounding the bank costs as much as float32 products with 100 to 250
Backend = Literal["auto", "torch", "faiss", "faiss-gpu"]
Search = Callable[[np.ndarray], Iterator[Shortlist]]  # from indices of queries


def nearest(
    queries: Matrix,  # (Q, D)
    bank: Matrix,  # (N, D)
    k: int,
    *,
    metric: Metric = "cosine",
    backend: Backend = "auto",
    device: torch.device | str = "cpu",
    precision: Literal["auto"] | Precision = "auto",
    rows_at_once: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:  # (Q, k) float32, (Q, k) int64
    """Find the k rows of the bank that are most similar to each query, exactly.

    The similarity is the cosine, in [-1, 1], or the negative Euclidean distance of the rows as they are.
    It is computed in float64 from float32 rows and rounded to float32. Neighbors have descending
    similarities; those with equal similarities are ordered by index, also at the k-th place. Results do
    not depend on the backend, the device or the precision of the search.

    The arrays may be memory-mapped, in several files, and of any floating-point type; they are converted to
    float32 in blocks.

    Args:
        backend: torch, faiss (CPU) or faiss-gpu (all GPUs); auto is torch.
        device: where PyTorch computes; `distributed.pick_device` finds the GPU of a process.
        precision: of the first products in PyTorch; auto is bfloat16 where the device has units for it,
            from 256 queries on.
        rows_at_once: rows of the bank in one product (None: 2048 in PyTorch, 32,768 in FAISS), at least k.

    Raises:
        UserError: k is not in 1..N, the dimensions differ, a row is not finite or, for the cosine, zero, or
            the backend is not available.

    >>> bank = np.array([[0.0, 1.0], [2.0, 2.0], [3.0, 0.0]], np.float32)
    >>> nearest(np.array([[1.0, 0.0]], np.float32), bank, k=2)
    (array([[1.        , 0.70710677]], dtype=float32), array([[2, 1]]))
    >>> nearest(np.array([[1.0, 0.0]], np.float32), bank, k=2, metric="euclidean")
    (array([[-1.4142135, -2.       ]], dtype=float32), array([[0, 2]]))
    """
    compared = _prepare(queries, bank, k, metric, torch.device(device))
    searches = _searches(compared, k, backend_for(backend), precision, rows_at_once)
    return _nearest(compared, np.arange(len(queries)), k, searches)


def nearest_across_processes(
    queries: Matrix,  # (Q, D), the same in every process
    bank: Matrix,  # (N, D), the same in every process
    k: int,
    *,
    metric: Metric = "cosine",
    backend: Backend = "auto",
    device: torch.device | str = "cpu",
) -> tuple[np.ndarray, np.ndarray]:  # (Q, k) float32, (Q, k) int64
    """`nearest` with the queries divided among the processes; every process gets the whole result.

    Raises:
        UserError: as `nearest`, in every process.
    """
    # Every process checks all queries, so that an error is raised in all of them and none waits.
    compared = _prepare(queries, bank, k, metric, torch.device(device))
    own = np.arange(distributed.rank(), len(queries), distributed.world_size())
    found = _nearest(compared, own, k, _searches(compared, k, backend_for(backend)))
    similarities, indices = (
        distributed.gather_by_index(torch.from_numpy(part), len(queries)).numpy() for part in found
    )
    return similarities, indices


def backend_for(backend: Backend) -> Literal["torch", "faiss", "faiss-gpu"]:
    """The search that `auto` means.

    Always PyTorch. With 1,000 queries, 100,000 rows of dimension 2048 and k = 20 (benchmarks/knn.py, CPU
    time of one thread of a Sapphire Rapids), it took 2.3 s with bfloat16 and 3.3 s without, and FAISS
    16.5 s. PyTorch is also always installed, so every machine and process decides alike.
    """
    return "torch" if backend == "auto" else backend


def check_backend(backend: Backend) -> None:
    """Check that a search can run, before hours are spent on its features.

    Raises:
        UserError: FAISS is missing, installed twice or does not see a GPU.
    """
    if backend_for(backend) != "torch":
        load_faiss(gpus=backend == "faiss-gpu")


def _nearest(
    compared: Comparison,
    wanted: np.ndarray,  # (Q,) indices of queries
    k: int,
    searches: list[Search],
) -> tuple[np.ndarray, np.ndarray]:  # (Q, k) float32, (Q, k) int64
    similarities = np.empty((len(wanted), k), dtype=np.float32)
    indices = np.empty((len(wanted), k), dtype=np.int64)
    rest = wanted
    for search in searches:
        left = [rest[:0]]
        for shortlist in search(rest):
            complete = shortlist.complete.cpu().numpy()
            done = np.searchsorted(wanted, shortlist.queries[complete])
            similarities[done], indices[done] = rerank(compared, shortlist, k)
            left.append(shortlist.queries[~complete])
        rest = np.concatenate(left)
    done = np.searchsorted(wanted, rest)
    similarities[done], indices[done] = scan_in_float64(compared, rest, k)
    return similarities, indices


def _searches(
    compared: Comparison,
    k: int,
    backend: Literal["torch", "faiss", "faiss-gpu"],
    precision: Literal["auto"] | Precision = "auto",
    rows_at_once: int | None = None,
) -> list[Search]:
    """The searches to try, each with the queries that the one before it could not settle."""
    queries, bank, metric = compared.queries, compared.bank, compared.metric
    options: dict[str, Any] = {"metric": metric} | (
        {"rows_at_once": rows_at_once} if rows_at_once else {}
    )

    def by_torch(precision: Precision) -> Search:
        return lambda wanted: scan(queries, bank, wanted, k, precision=precision, **options)

    def by_faiss(wanted: np.ndarray) -> Iterator[Shortlist]:
        gpus = backend == "faiss-gpu"
        return scan_with_faiss(queries, bank, wanted, k, gpus=gpus, **options)

    if backend != "torch":
        return [by_faiss, by_torch("float32")]
    if precision == "auto":
        worthwhile = len(queries) >= _QUERIES_FOR_BFLOAT16 and has_fast_bfloat16(bank.device)
        precision = "bfloat16" if worthwhile else "float32"
    return [by_torch("bfloat16"), by_torch("float32")][precision == "float32" :]


def _prepare(
    queries: Matrix, bank: Matrix, k: int, metric: Metric, device: torch.device
) -> Comparison:
    """Check and measure the vectors."""
    if queries.ndim != 2 or bank.ndim != 2 or queries.shape[1] != bank.shape[1]:
        raise UserError(
            f"queries have shape {queries.shape} and the bank has shape {bank.shape}; expected (Q, D) and "
            "(N, D). Compute both with the same backbone and layer."
        )
    if not 1 <= k <= len(bank):
        raise UserError(
            f"k is {k}, but the bank has {len(bank)} rows; expected 1..{len(bank)}. "
            "Lower k, or use the whole training split as the bank."
        )
    if metric not in get_args(Metric):
        raise UserError(f"metric is {metric!r}; expected {' or '.join(get_args(Metric))}")
    zeros = metric == "euclidean"
    return Comparison(
        Vectors(queries, "queries", device, zeros=zeros),
        Vectors(bank, "bank", device, zeros=zeros),
        metric,
    )
