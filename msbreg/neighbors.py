"""Exact nearest neighbors by cosine similarity, and two voting rules that turn them into class scores.

The order of neighbors is total, so the first k columns of a search with a larger k are the search with k.
"""

from collections.abc import Iterator

import numpy as np

from msbreg.run.errors import UserError

_ROWS_AT_ONCE = 32_768  # rows of the bank in FAISS at a time: 256 MB at dimension 2048
_ENTRIES_AT_ONCE = 1 << 26  # similarities in memory while resolving ties: 256 MB


def nearest(
    queries: np.ndarray,  # (Q, D)
    bank: np.ndarray,  # (N, D)
    k: int,
    *,
    rows_at_once: int = _ROWS_AT_ONCE,
) -> tuple[np.ndarray, np.ndarray]:  # (Q, k) float32, (Q, k) int64
    """Find the k rows of the bank with the highest cosine similarity to each query, exactly.

    Rows are L2-normalized and searched with FAISS's `IndexFlatIP` in float32, `rows_at_once` rows of the bank
    at a time, so the bank may be memory-mapped or in half precision. Similarities are in [-1, 1] up to
    rounding, in descending order. Rows of the bank with equal float32 similarities are ordered by index, also
    at the k-th place.

    Raises:
        UserError: k is not in 1..N, the dimensions differ, or a row is zero or not finite.
    """
    _check_search(queries, bank, k)
    unit_queries = _unit_rows(queries, _lengths(queries, "queries"))
    lengths = _lengths(bank, "bank")

    # Search one more neighbor to detect ties at the k-th place: which of several equal rows FAISS keeps
    # depends on the order in which they enter its heap.
    similarities, indices = _search(unit_queries, bank, lengths, k + 1, rows_at_once)
    tied = np.flatnonzero((similarities[:, k - 1 : k] == similarities[:, k:]).any(axis=1))
    similarities, indices = _in_order(similarities[:, :k], indices[:, :k])
    queries_at_once = max(1, _ENTRIES_AT_ONCE // len(bank))
    for start in range(0, len(tied), queries_at_once):
        chunk = tied[start : start + queries_at_once]
        blocks = _unit_blocks(bank, lengths, rows_at_once)
        full_rows = np.concatenate([unit_queries[chunk] @ block.T for block in blocks], axis=1)
        for query, full_row in zip(chunk, full_rows, strict=True):
            indices[query] = _top_k(full_row, k)
            similarities[query] = full_row[indices[query]]
    return similarities, indices


def weighted_vote(
    similarities: np.ndarray,  # (Q, k)
    labels_of_neighbors: np.ndarray,  # (Q, k), in 0..C-1
    classes: int,
    temperature: float = 0.07,
) -> np.ndarray:  # (Q, C) float64
    """Sum exp(similarity / temperature) over the neighbors of each class.

    Each row is scaled by exp(-largest similarity / temperature), which keeps the exponential in (0, 1] at
    every temperature and does not change the ranking. Classes with equal scores are ranked by index (see
    `transfer.scoring.classification`).

    Source: Wu et al. 2018 (NPID), equation 9; 0.07 is the temperature of NPID and of DINO's kNN.

    Raises:
        UserError: a label is outside 0..C-1, the shapes differ, or the temperature is not positive.

    >>> similarities, labels = np.array([[0.9, 0.8, 0.8]]), np.array([[0, 1, 1]])
    >>> weighted_vote(similarities, labels, classes=2).round(2)  # 2 * exp(-0.1 / 0.07) = 0.48
    array([[1.  , 0.48]])
    """
    if similarities.shape != labels_of_neighbors.shape:
        raise UserError(
            f"similarities have shape {similarities.shape}, but labels have shape "
            f"{labels_of_neighbors.shape}; expected equal shapes. "
            "Index the labels of the bank with the second result of nearest()."
        )
    if not temperature > 0:
        raise UserError(f"temperature is {temperature}; expected a number above 0, such as 0.07.")
    largest = similarities.max(axis=1, keepdims=True).astype(np.float64)
    weights = np.exp((similarities - largest) / temperature)
    return _sum_by_class(weights, labels_of_neighbors, classes)


def majority_vote(
    labels_of_neighbors: np.ndarray,  # (Q, k), in 0..C-1
    classes: int,
) -> np.ndarray:  # (Q, C) float64
    """Count the neighbors of each class.

    With `argmax`, equal counts are decided for the smallest class index, as in W-MSE's 5-NN
    (Ermolov et al. 2021, htdt/self-supervised).

    Raises:
        UserError: a label is outside 0..C-1.

    >>> majority_vote(np.array([[0, 1, 1]]), classes=3)
    array([[1., 2., 0.]])
    """
    return _sum_by_class(np.ones(labels_of_neighbors.shape), labels_of_neighbors, classes)


def _sum_by_class(
    weights: np.ndarray,  # (Q, k)
    labels: np.ndarray,  # (Q, k)
    classes: int,
) -> np.ndarray:  # (Q, C)
    """Sum the weights in each row by label."""
    if labels.size and (labels.min() < 0 or labels.max() >= classes):
        raise UserError(
            f"neighbors have labels {labels.min()}..{labels.max()}; expected 0..{classes - 1}. "
            "Take the number of classes from the labels of the bank, not of the queries."
        )
    cells = np.arange(len(labels))[:, None] * classes + labels
    sums = np.bincount(cells.ravel(), weights=weights.ravel(), minlength=len(labels) * classes)
    return sums.reshape(len(labels), classes)


def _search(
    unit_queries: np.ndarray,  # (Q, D)
    bank: np.ndarray,  # (N, D)
    lengths: np.ndarray,  # (N,)
    k: int,
    rows_at_once: int,
) -> tuple[np.ndarray, np.ndarray]:  # (Q, min(k, N)), the same
    """Search the bank block by block; ties are resolved arbitrarily."""
    import faiss  # here, because voting does not need it, and it loads a second OpenMP runtime

    similarities = np.empty((len(unit_queries), 0), dtype=np.float32)
    indices = np.empty((len(unit_queries), 0), dtype=np.int64)
    index = faiss.IndexFlatIP(bank.shape[1])
    start = 0
    for block in _unit_blocks(bank, lengths, rows_at_once):
        index.reset()
        index.add(block)
        found, places = index.search(unit_queries, min(k, len(block)))
        similarities = np.concatenate([similarities, found], axis=1)
        indices = np.concatenate([indices, places + start], axis=1)
        start += len(block)
        if similarities.shape[1] > found.shape[1]:
            order = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
            similarities = np.take_along_axis(similarities, order, axis=1)
            indices = np.take_along_axis(indices, order, axis=1)
    return similarities, indices


def _unit_blocks(
    bank: np.ndarray,  # (N, D)
    lengths: np.ndarray,  # (N,)
    rows_at_once: int,
) -> Iterator[np.ndarray]:  # (<= rows_at_once, D) float32
    """Yield blocks of normalized rows of the bank; each block overwrites the previous one."""
    space = np.empty((min(rows_at_once, len(bank)), bank.shape[1]), dtype=np.float32)
    for start in range(0, len(bank), rows_at_once):
        rows = bank[start : start + rows_at_once]
        block = space[: len(rows)]
        block[:] = rows
        block /= lengths[start : start + rows_at_once, None]
        yield block


def _top_k(
    similarities: np.ndarray,  # (N,)
    k: int,
) -> np.ndarray:  # (k,)
    """Indices sorted by descending similarity, then ascending index, without sorting the whole row."""
    threshold = np.partition(similarities, len(similarities) - k)[len(similarities) - k]
    above = np.flatnonzero(similarities > threshold)
    equal = np.flatnonzero(similarities == threshold)[: k - len(above)]
    chosen = np.concatenate([above, equal])
    return chosen[np.argsort(-similarities[chosen], kind="stable")]


def _in_order(
    similarities: np.ndarray,  # (Q, k), descending
    indices: np.ndarray,  # (Q, k)
) -> tuple[np.ndarray, np.ndarray]:
    """Sort neighbors with equal similarities by index."""
    similarities, indices = similarities.copy(), indices.copy()
    tied = np.flatnonzero((similarities[:, 1:] == similarities[:, :-1]).any(axis=1))
    order = np.lexsort((indices[tied], -similarities[tied]), axis=-1)
    indices[tied] = np.take_along_axis(indices[tied], order, axis=-1)
    return similarities, indices


def _lengths(
    rows: np.ndarray,  # (N, D)
    name: str,
) -> np.ndarray:  # (N,) float32
    """The L2 norm of each row.

    Raises:
        UserError: a norm is zero or not finite.
    """
    lengths = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        block = rows[start : start + _ROWS_AT_ONCE]
        squares = np.einsum("nd,nd->n", block, block, dtype=np.float64)
        lengths[start : start + _ROWS_AT_ONCE] = np.sqrt(squares)
    zero, not_finite = np.count_nonzero(lengths == 0), np.count_nonzero(~np.isfinite(lengths))
    if zero or not_finite:
        raise UserError(
            f"{name}: {zero} of {len(rows)} features are zero and {not_finite} are not finite; the cosine "
            "similarity needs finite, non-zero features. Check that the weights of the backbone were loaded "
            "and, in half precision, that nothing overflowed."
        )
    return lengths


def _unit_rows(
    rows: np.ndarray,  # (N, D)
    lengths: np.ndarray,  # (N,)
) -> np.ndarray:  # (N, D) float32
    return np.ascontiguousarray(rows, dtype=np.float32) / lengths[:, None]


def _check_search(queries: np.ndarray, bank: np.ndarray, k: int) -> None:
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
