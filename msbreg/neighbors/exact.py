"""Exact similarities, and the order of neighbors, which is the same on every device and by every search.

A similarity is computed in float64 and rounded to float32. The error of float64 sums is far below the
spacing of float32, so the order of the sums seldom matters; where it might, because a rounding boundary is
within the error, the sum is repeated in one fixed order. Neighbors are ordered by descending similarity,
then by index.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from msbreg.float32_product import full_precision
from msbreg.neighbors.shortlist import COLUMNS, QUERIES, UNIT, Metric, Shortlist, margin
from msbreg.neighbors.vectors import Vectors, ordinary

_ROWS_IN_CACHE = 32
_ROWS_ON_GPU = 1 << 15  # rows in float64 at a time: 512 MB at dimension 2048


@dataclass(frozen=True)
class Comparison:
    """The vectors to compare, and how: cosine, or the negative Euclidean distance."""

    queries: Vectors
    bank: Vectors
    metric: Metric

    @property
    def relative_error(self) -> float:
        """Bound for a sum of D products in float64 in any order, with norms and divisions, generously."""
        return 4 * (self.bank.rows.shape[1] + 16) * UNIT["float64"]


# ---- One similarity


def fixed_order_sums(
    terms: np.ndarray,  # (P, D) float64; overwritten
) -> np.ndarray:  # (P,)
    """Add the second half of each row to the first until one number is left.

    Elementwise additions are the same on every machine, unlike library sums, whose order may depend on
    the number of rows.

    >>> fixed_order_sums(np.array([[1.0, 2.0, 3.0], [1e16, 1.0, -1e16]]))
    array([6., 1.])
    """
    width = terms.shape[1]
    while width > 1:
        half = (width + 1) // 2
        terms[:, : width - half] += terms[:, half:width]
        width = half
    return terms[:, 0].copy()


def _in_fixed_order(
    compared: Comparison,
    query: np.ndarray,  # (P,)
    index: np.ndarray,  # (P,)
) -> np.ndarray:  # (P,) float32
    """Similarities of pairs, each by sums in a fixed order."""
    values = np.empty(len(query), dtype=np.float32)
    at_once = max(1, (1 << 22) // compared.bank.rows.shape[1])
    for start in range(0, len(query), at_once):
        part = slice(start, start + at_once)
        left = compared.queries.take(torch.from_numpy(query[part])).double().cpu().numpy()
        right = compared.bank.take(torch.from_numpy(index[part])).double().cpu().numpy()
        if compared.metric == "euclidean":
            values[part] = -np.sqrt(fixed_order_sums((left - right) ** 2))
        else:
            # Products of two float32 numbers are exact in float64.
            dots = fixed_order_sums(left * right)
            squares = fixed_order_sums(left**2) * fixed_order_sums(right**2)
            values[part] = dots / np.sqrt(squares)
    return values


def rounded(
    compared: Comparison,
    query: Tensor,  # (P,) int64
    index: Tensor,  # (P,) int64
    low: Tensor,  # (P,) float64, lower bounds of the similarities
    high: Tensor,  # (P,) float64
) -> Tensor:  # (P,) float32
    """Similarities in float32; those that the bounds leave in doubt are computed in a fixed order."""
    values = low.float()
    doubtful = (values != high.float()).nonzero()[:, 0]
    if len(doubtful):
        exact = _in_fixed_order(
            compared, query[doubtful].cpu().numpy(), index[doubtful].cpu().numpy()
        )
        values[doubtful] = torch.from_numpy(exact).to(values.device)
    return values


# ---- Shortlists


def rerank(
    compared: Comparison, shortlist: Shortlist, k: int
) -> tuple[np.ndarray, np.ndarray]:  # (Q, k) float32, (Q, k) int64, for the complete queries
    """The k nearest rows of complete shortlists, in order."""
    chosen = shortlist.complete.nonzero()[:, 0]
    if not len(chosen):
        return np.empty((0, k), dtype=np.float32), np.empty((0, k), dtype=np.int64)
    query = torch.from_numpy(shortlist.queries).to(chosen.device)[chosen]
    own = _queries_in_float64(compared, query)
    scores, order = shortlist.scores[chosen].sort(dim=1, descending=True)
    index = shortlist.candidates[chosen].gather(1, order)
    if index.device.type == "cpu":
        floors = shortlist.constants[chosen] + shortlist.bounds[chosen]
        found = _query_by_query(compared, own, index, scores + floors[:, None], k)
    else:
        width = max(1, _ROWS_ON_GPU // max(1, len(index)))
        parts = index.clamp(min=0).split(width, dim=1)
        found = torch.cat(
            [_in_float64(compared, own, compared.bank.take(part).double()) for part in parts], dim=1
        )
        found.masked_fill_(index < 0, -torch.inf)
    present = found > -torch.inf
    error = compared.relative_error * (1.0 if compared.metric == "cosine" else found.abs())
    values = torch.full(index.shape, -torch.inf, device=index.device)
    values[present] = rounded(
        compared,
        query[:, None].expand_as(index)[present],
        index[present],
        (found - error)[present],
        (found + error)[present],
    )
    values, index = _ordered(values, index)
    return values[:, :k].cpu().numpy(), index[:, :k].cpu().numpy()


def _query_by_query(
    compared: Comparison,
    own: Tensor,  # (Q, D) float64, normalized for the cosine
    index: Tensor,  # (Q, W), -1 at the end of a row: none
    highest: Tensor,  # (Q, W) float64, descending; for the cosine, upper bounds of the similarities
    k: int,
) -> Tensor:  # (Q, W) float64, -inf: none, or certainly not among the k nearest
    """Similarities of the first k candidates, then of those whose bounds reach the lowest of them."""
    found = torch.full(index.shape, -torch.inf, dtype=torch.float64)
    memory = torch.empty(_ROWS_IN_CACHE, own.shape[1], dtype=torch.float64)
    may_narrow = ordinary(compared.bank.lengths)

    def similarities(query: Tensor, candidates: Tensor) -> Tensor:
        parts = candidates.split(_ROWS_IN_CACHE)
        rows = (memory[: len(part)].copy_(compared.bank.take(part)) for part in parts)
        return torch.cat([_in_float64(compared, query, part) for part in rows])

    for row, count in enumerate((index >= 0).sum(1).tolist()):
        first = k if compared.metric == "cosine" else count
        found[row, :first] = similarities(own[row], index[row, :first])
        lowest = found[row, :first].min()
        rest = (highest[row, first:count] >= lowest).nonzero()[:, 0] + first
        if may_narrow and len(rest) > _ROWS_IN_CACHE:
            rest = rest[_may_reach(compared, own[row], index[row, rest], lowest)]
        if len(rest):
            found[row, rest] = similarities(own[row], index[row, rest])
    return found


def _may_reach(
    compared: Comparison,
    query: Tensor,  # (D,) float64, normalized
    candidates: Tensor,  # (W,)
    lowest: Tensor,  # () float64
) -> Tensor:  # (W,) bool
    """Whether cosines may reach the lowest, by float32 products, which cost a third of float64's."""
    with full_precision():
        rounded_query = query.float()
        parts = candidates.split(_ROWS_IN_CACHE)
        products = torch.cat([compared.bank.take(part) @ rounded_query for part in parts])
    lengths = torch.from_numpy(compared.bank.lengths)[candidates]
    bound = margin(torch.ones(1, dtype=torch.float64), 1.0, len(query), "cosine") / 2
    return products / lengths >= lowest - bound


def _queries_in_float64(
    compared: Comparison,
    query: Tensor,  # (Q,)
) -> Tensor:  # (Q, D), normalized for the cosine
    rows = compared.queries.take(query).double()
    if compared.metric == "cosine":
        rows /= torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows


def _in_float64(
    compared: Comparison,
    own: Tensor,  # (..., D) float64, normalized for the cosine
    rows: Tensor,  # (..., W, D) float64, of the bank; overwritten
) -> Tensor:  # (..., W) float64
    if compared.metric == "euclidean":
        return torch.linalg.vector_norm(rows.sub_(own[..., None, :]), dim=-1).neg_()
    return (rows @ own[..., None])[..., 0] / torch.linalg.vector_norm(rows, dim=-1)


def _ordered(
    values: Tensor,  # (Q, W)
    indices: Tensor,  # (Q, W)
) -> tuple[Tensor, Tensor]:
    """Sort by descending value, then by index."""
    indices, order = indices.sort(dim=1)
    values, by_value = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    return values, indices.gather(1, by_value)


# ---- Without a shortlist


def scan_in_float64(
    compared: Comparison,
    wanted: np.ndarray,  # (Q,) indices of queries
    k: int,
) -> tuple[np.ndarray, np.ndarray]:  # (Q, k) float32, (Q, k) int64
    """The k nearest rows by float64 products with the whole bank.

    For queries with so many nearly equal rows that no shortlist is short, as those of a collapsed network.
    """
    similarities = np.empty((len(wanted), k), dtype=np.float32)
    indices = np.empty((len(wanted), k), dtype=np.int64)
    at_once = max(1, min(QUERIES, (1 << 22) // k))
    for start in range(0, len(wanted), at_once):
        part = slice(start, start + at_once)
        similarities[part], indices[part] = _scan_chunk(compared, wanted[part], k)
    return similarities, indices


def _scan_chunk(compared: Comparison, wanted: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    device = compared.bank.device
    numbers = torch.from_numpy(wanted).to(device)
    columns = max(COLUMNS, k)
    floor = torch.full((len(wanted), 1), -torch.inf, device=device)
    query, index, value = numbers[:0], numbers[:0], floor[:0, 0]
    for start, low, high in _bounds(compared, wanted, columns):
        if start == 0:
            kth = low.topk(min(k, low.shape[1])).values[:, -1:].float()
            inside = high.float() >= kth
        else:
            # A later row that equals the k-th is not among the first k.
            inside = high.float() > floor
        row, column = inside.nonzero(as_tuple=True)
        found = rounded(compared, numbers[row], column + start, low[row, column], high[row, column])
        query, index, value = (
            torch.cat(pair) for pair in ((query, row), (index, column + start), (value, found))
        )
        # The order of the rows is that of their indices, which stable sorts preserve.
        value, order = value.sort(descending=True, stable=True)
        query, by_query = query[order].sort(stable=True)
        value, index = value[by_query], index[order][by_query]
        counts = torch.bincount(query, minlength=len(wanted))
        place = torch.arange(len(query), device=device) - (counts.cumsum(0) - counts)[query]
        query, index, value = (part[place < k] for part in (query, index, value))
        floor = value.view(len(wanted), k)[:, -1:]
    shape = (len(wanted), k)
    return value.view(shape).cpu().numpy(), index.view(shape).cpu().numpy()


def _bounds(
    compared: Comparison, wanted: np.ndarray, columns: int
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield the first row of a block of the bank, and lower and upper bounds (Q, B) of similarities."""
    bank = compared.bank
    queries = _queries_in_float64(compared, torch.from_numpy(wanted))
    # Distances do not depend on the origin. With a row of the bank as the origin, the rows of a collapsed
    # network are short, and no large parts cancel.
    origin = bank.block(0, 1).double()
    if compared.metric == "euclidean":
        queries -= origin
    own = torch.linalg.vector_norm(queries, dim=1, keepdim=True)
    for start in range(0, len(bank), columns):
        rows = bank.block(start, min(start + columns, len(bank))).double()
        if compared.metric == "cosine":
            rows /= torch.linalg.vector_norm(rows, dim=1, keepdim=True)
            found = queries @ rows.T
            yield start, found - compared.relative_error, found + compared.relative_error
            continue
        rows -= origin
        lengths = torch.linalg.vector_norm(rows, dim=1)
        squares = own.square() + lengths.square() - 2 * (queries @ rows.T)
        error = compared.relative_error * (own + lengths).square()
        farthest, nearest = (squares + error).sqrt(), (squares - error).clamp(min=0).sqrt()
        slack = 1 + compared.relative_error
        yield start, -farthest * slack, -nearest / slack
