"""Exact nearest neighbors by cosine similarity, and the two votes that turn them into scores.

One search at the largest k serves every smaller one: the order is total, so the first k columns
of a wider search are the search at k.
"""

from collections.abc import Iterator

import numpy as np

from msbreg.run.errors import UserError

_ROWS_AT_ONCE = 32_768  # of the bank in FAISS: 256 MB at width 2048, whatever the bank's size
_ENTRIES_AT_ONCE = 1 << 26  # similarities held at once where ties are settled: 256 MB


def nearest(
    queries: np.ndarray,  # (Q, D)
    bank: np.ndarray,  # (N, D)
    k: int,
    *,
    rows_at_once: int = _ROWS_AT_ONCE,
) -> tuple[np.ndarray, np.ndarray]:  # (Q, k) float32, (Q, k) int64
    """Find the k rows of the bank with the highest cosine similarity to each query, exactly.

    Rows are divided by their L2 length and searched with FAISS's `IndexFlatIP` in float32,
    `rows_at_once` of the bank at a time, so that the bank may be a memory map or in half precision.
    Similarities lie in [-1, 1] up to rounding and fall along a row. Of two bank rows whose float32
    similarities are equal the smaller index comes first, also where the k-th place is contested.

    Raises UserError if k is not in 1..N, if the widths differ, or if rows are zero or not finite.
    """
    _check_search(queries, bank, k)
    unit_queries = _unit_rows(queries, _lengths(queries, "queries"))
    lengths = _lengths(bank, "bank")

    # One place more than asked for tells whether the k-th place is contested: which of several
    # equal rows FAISS keeps depends on the order in which its heap met them.
    similarities, indices = _search(unit_queries, bank, lengths, k + 1, rows_at_once)
    contested = np.flatnonzero((similarities[:, k - 1 : k] == similarities[:, k:]).any(axis=1))
    similarities, indices = _in_order(similarities[:, :k], indices[:, :k])
    queries_at_once = max(1, _ENTRIES_AT_ONCE // len(bank))
    for start in range(0, len(contested), queries_at_once):
        some = contested[start : start + queries_at_once]
        blocks = _unit_blocks(bank, lengths, rows_at_once)
        whole_rows = np.concatenate([unit_queries[some] @ block.T for block in blocks], axis=1)
        for query, whole_row in zip(some, whole_rows, strict=True):
            indices[query] = _first_places(whole_row, k)
            similarities[query] = whole_row[indices[query]]
    return similarities, indices


def weighted_vote(
    similarities: np.ndarray,  # (Q, k)
    labels_of_neighbors: np.ndarray,  # (Q, k), in 0..C-1
    classes: int,
    temperature: float = 0.07,
) -> np.ndarray:  # (Q, C) float64
    """Sum exp(similarity / temperature) over the neighbors of each class.

    Each row is scaled by a positive factor, exp(-largest similarity / temperature), which changes
    no ranking and keeps the exponential in (0, 1] at every temperature. Equal scores rank by class
    index (see `transfer.scoring.classification`).

    Source: Wu et al. 2018 (NPID), equation 9; 0.07 is the temperature of NPID and of DINO's kNN.
    Raises UserError if a label is outside 0..C-1, shapes differ or the temperature is not positive.

    >>> similarities, labels = np.array([[0.9, 0.8, 0.8]]), np.array([[0, 1, 1]])
    >>> weighted_vote(similarities, labels, classes=2).round(2)  # 2 * exp(-0.1 / 0.07) = 0.48
    array([[1.  , 0.48]])
    """
    if similarities.shape != labels_of_neighbors.shape:
        raise UserError(
            f"similarities have shape {similarities.shape}, their labels "
            f"{labels_of_neighbors.shape}. The two must be equal: "
            "index the bank's labels with the second result of nearest()."
        )
    if not temperature > 0:
        raise UserError(f"temperature is {temperature}, expected a number above 0 such as 0.07.")
    largest = similarities.max(axis=1, keepdims=True).astype(np.float64)
    weights = np.exp((similarities - largest) / temperature)
    return _sum_by_class(weights, labels_of_neighbors, classes)


def majority_vote(
    labels_of_neighbors: np.ndarray,  # (Q, k), in 0..C-1
    classes: int,
) -> np.ndarray:  # (Q, C) float64
    """Count the neighbors of each class.

    Equal counts go to the smallest class index by `argmax`, the rule of W-MSE's 5-NN
    (Ermolov et al. 2021, htdt/self-supervised). Raises UserError if a label is outside 0..C-1.

    >>> majority_vote(np.array([[0, 1, 1]]), classes=3)
    array([[1., 2., 0.]])
    """
    return _sum_by_class(np.ones(labels_of_neighbors.shape), labels_of_neighbors, classes)


def _sum_by_class(
    weights: np.ndarray,  # (Q, k)
    labels: np.ndarray,  # (Q, k)
    classes: int,
) -> np.ndarray:  # (Q, C)
    """Add each row's weights up by label."""
    if labels.size and (labels.min() < 0 or labels.max() >= classes):
        raise UserError(
            f"neighbors have labels {labels.min()}..{labels.max()}, expected 0..{classes - 1}. "
            "Take the number of classes from the bank's labels, not from those of the queries."
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
    """Search the bank block by block; among equal similarities any may be kept, in any order."""
    import faiss  # here: whoever needs only the votes needs no second OpenMP run-time

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
    """Go through the bank's rows, divided by their lengths; each block overwrites the last."""
    space = np.empty((min(rows_at_once, len(bank)), bank.shape[1]), dtype=np.float32)
    for start in range(0, len(bank), rows_at_once):
        rows = bank[start : start + rows_at_once]
        block = space[: len(rows)]
        block[:] = rows
        block /= lengths[start : start + rows_at_once, None]
        yield block


def _first_places(
    similarities: np.ndarray,  # (N,)
    k: int,
) -> np.ndarray:  # (k,)
    """Rank by falling similarity, then by rising index, without sorting the whole row."""
    threshold = np.partition(similarities, len(similarities) - k)[len(similarities) - k]
    above = np.flatnonzero(similarities > threshold)
    level = np.flatnonzero(similarities == threshold)[: k - len(above)]
    chosen = np.concatenate([above, level])
    return chosen[np.argsort(-similarities[chosen], kind="stable")]


def _in_order(
    similarities: np.ndarray,  # (Q, k), falling
    indices: np.ndarray,  # (Q, k)
) -> tuple[np.ndarray, np.ndarray]:
    """Put equal similarities in the order of their indices."""
    similarities, indices = similarities.copy(), indices.copy()
    tied = np.flatnonzero((similarities[:, 1:] == similarities[:, :-1]).any(axis=1))
    order = np.lexsort((indices[tied], -similarities[tied]), axis=-1)
    indices[tied] = np.take_along_axis(indices[tied], order, axis=-1)
    return similarities, indices


def _lengths(
    rows: np.ndarray,  # (N, D)
    name: str,
) -> np.ndarray:  # (N,) float32
    """Give the L2 length of each row, all of which must be usable as divisors."""
    lengths = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        block = rows[start : start + _ROWS_AT_ONCE]
        squares = np.einsum("nd,nd->n", block, block, dtype=np.float64)
        lengths[start : start + _ROWS_AT_ONCE] = np.sqrt(squares)
    zero, wild = np.count_nonzero(lengths == 0), np.count_nonzero(~np.isfinite(lengths))
    if zero or wild:
        raise UserError(
            f"{name}: of {len(rows)} features {zero} are zero and {wild} are not finite; each "
            "must have a direction to be compared by cosine. Check that the backbone's weights "
            "were loaded and, in half precision, that nothing overflowed."
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
            f"queries have shape {queries.shape}, the bank {bank.shape}; expected (Q, D) and "
            "(N, D). Take both from the same backbone and layer."
        )
    if not 1 <= k <= len(bank):
        raise UserError(
            f"k is {k}, but the bank has {len(bank)} rows; expected 1..{len(bank)}. "
            "Lower k or give the whole training split as the bank."
        )
