"""Shortlists: rows of the bank that may be among the k nearest, found by one product of limited precision.

A score is a similarity up to a rounding error with a proven bound. With at least k scores of T or more, the
k-th largest similarity is at least T - bound, so any row with a score below T - 2 bound is farther than k
others. The scan keeps every other row. T rises as the bank is read, and only scores above it are looked at.

Scores of a query q and a row b are cos(q, b), or q.b - |b|^2 / 2, which ranks as the Euclidean distance does.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from msbreg.float32_product import full_precision, product
from msbreg.neighbors.vectors import Vectors, common_scale, ordinary

Metric = Literal["cosine", "euclidean"]
Precision = Literal["bfloat16", "float32"]

UNIT = {"bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}  # rounding to nearest
COLUMNS = (
    2048  # rows of the bank in one product: with QUERIES, 8 MB of scores, which stay in the cache
)
QUERIES = 1024
_QUERIES_IN_MEMORY = 1 << 15
_SCORES_IN_MEMORY = 1 << 24
_GROUP = 16


@dataclass
class Shortlist:
    """Candidates of some queries, in any order.

    Attributes:
        queries: (Q,) the queries, as rows of the given array.
        candidates: (Q, W) indices into the bank, -1 where there are fewer than W.
        scores: (Q, W) their scores.
        complete: (Q,) whether the candidates certainly include the k nearest and everything equal to
            the k-th.
    """

    queries: np.ndarray
    candidates: Tensor
    scores: Tensor
    complete: Tensor


def scan(
    queries: Vectors,
    bank: Vectors,
    wanted: np.ndarray,  # indices of queries
    k: int,
    *,
    metric: Metric,
    precision: Precision,
    rows_at_once: int = COLUMNS,
) -> Iterator[Shortlist]:
    """Yield shortlists that together contain every wanted query once.

    The bank is read once for every 32,768 queries. A shortlist of more than a few thousand rows is given
    up and marked as incomplete.
    """
    columns = min(len(bank), max(rows_at_once, k))
    at_once = max(1, min(QUERIES, _SCORES_IN_MEMORY // max(columns, 2 * k)))
    products = {"bfloat16": BFloat16Scores, "float32": Float32Scores}[precision]
    for begin in range(0, len(wanted), _QUERIES_IN_MEMORY):
        part = wanted[begin : begin + _QUERIES_IN_MEMORY]
        scorer = products(queries, bank, part, metric)
        chunks = [slice(first, first + at_once) for first in range(0, len(part), at_once)]
        found = [_Candidates(k, len(part[chunk]), bank.device) for chunk in chunks]
        for start in range(0, len(bank), columns):
            scorer.load(start, min(start + columns, len(bank)))
            for chunk, candidates in zip(chunks, found, strict=True):
                scores = scorer.scores(chunk)
                candidates.add(scores, scorer.margin[chunk], start)
        for chunk, candidates in zip(chunks, found, strict=True):
            yield Shortlist(part[chunk], *candidates.result())


def margin(
    lengths: Tensor,  # (Q,) float64, of the queries
    longest: float,  # length of the longest row of the bank
    dimension: int,
    metric: Metric,
) -> Tensor:  # (Q,) float64
    """Twice the error bound of float32 scores, and a few units in the last place of float32.

    The latter because similarities are compared after rounding to float32. A sum of D products has, in
    any order and with any fused operations, an error of at most (D + 2) u |q| |b|; the norms, sums of D
    squares, add half as much, and the offsets |b|^2 / 2 no more than that.
    """
    sums = 2 * (dimension + 16) * UNIT["float32"]
    if metric == "cosine":
        bound = torch.full_like(lengths, sums + 2**-23)
    else:
        bound = sums * (lengths + longest).square()
    return 2 * bound * (1 + 2**-20)  # room for the rounding of the margin


# ---- Scores in two precisions


class Float32Scores:
    """Scores by float32 products.

    Attributes:
        margin: (Q,) what a score may be below the k-th largest, see ``margin``.
    """

    def __init__(self, queries: Vectors, bank: Vectors, part: np.ndarray, metric: Metric) -> None:
        self.bank, self.metric, self.device = bank, metric, bank.device
        lengths = queries.lengths[part]
        rows = queries.take(torch.from_numpy(part))
        self.scale = 1.0
        # Cosine: columns are divided by the lengths of the rows after the product, which costs less than
        # dividing the rows, unless their lengths leave the range of float32.
        self.divide_rows = metric == "cosine" and not ordinary(bank.lengths)
        if metric == "cosine":
            rows = (rows.double() / self._tensor(lengths)[:, None]).float()
        else:
            self.scale = common_scale(queries, bank)
            if self.scale != 1:
                rows = (rows.double() * self.scale).float()
        self.queries = rows
        self._prepare(lengths * self.scale)

    def _prepare(
        self,
        lengths: np.ndarray,  # (Q,) of the scaled queries
    ) -> None:
        longest, dimension = self.bank.longest * self.scale, self.queries.shape[1]
        self.margin = margin(self._tensor(lengths), longest, dimension, self.metric).float()

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def load(self, start: int, stop: int) -> None:
        """Take the rows to compare with; on the CPU they are not copied."""
        self.rows = self.bank.block(start, stop)
        lengths = self._tensor(self.bank.lengths[start:stop])
        if self.divide_rows:
            self.rows = (self.rows.double() / lengths[:, None]).float()
        elif self.metric == "cosine":
            self.factors = lengths.reciprocal().float()
        if self.metric == "euclidean":
            if self.scale != 1:
                self.rows = (self.rows.double() * self.scale).float()
            self.offsets = ((lengths * self.scale).square() / 2).float()

    def scores(self, chunk: slice) -> Tensor:  # (Q, B) float32
        with full_precision():
            products = product(self.queries[chunk], self.rows)
        if self.metric == "euclidean":
            return products.sub_(self.offsets)
        return products if self.divide_rows else products.mul_(self.factors)


class BFloat16Scores(Float32Scores):
    """Scores by bfloat16 products.

    The vectors are centered first: features that are never negative are similar to each other, and the
    rounding errors grow with what they share. For q' = q - m and b' = b - m with any m, cos(q, b) is
    q'.b' + m.b' plus a constant of the query, and the Euclidean distance of q' and b' is that of q and b.
    """

    def _prepare(self, lengths: np.ndarray) -> None:
        sample = np.unique(np.linspace(0, len(self.bank) - 1, 1024, dtype=np.int64))
        rows = self.bank.take(torch.from_numpy(sample))
        if self.metric == "cosine":
            rows /= self._tensor(self.bank.lengths[sample]).float()[:, None]
        self.center = (rows * self.scale).mean(0)
        centered = self.queries - self.center
        self.queries = centered.bfloat16()
        self.query_lengths = torch.linalg.vector_norm(centered, dim=1) * (1 + 2**-10)
        self.query_errors = torch.linalg.vector_norm(centered - self.queries.float(), dim=1) * (
            1 + 2**-10
        )
        self.longest_seen = self.largest_error = 0.0
        self.largest_seen = torch.zeros_like(self.query_lengths)
        self.margin = torch.zeros_like(self.query_lengths)
        self.float_rows: Tensor | None = None

    def load(self, start: int, stop: int) -> None:
        super().load(start, stop)
        if self.float_rows is None:
            self.float_rows = torch.empty_like(self.rows)
            self.rounded_rows = torch.empty_like(self.rows, dtype=torch.bfloat16)
        rows, rounded_rows = self.float_rows[: stop - start], self.rounded_rows[: stop - start]
        if self.metric == "cosine" and not self.divide_rows:
            torch.addcmul(-self.center, self.rows, self.factors[:, None], out=rows)
        else:
            torch.sub(self.rows, self.center, out=rows)
        lengths = torch.linalg.vector_norm(rows, dim=1)
        self.offsets = rows @ self.center if self.metric == "cosine" else lengths.square() / -2
        self.rows = rounded_rows.copy_(rows)
        self.longest_seen = max(self.longest_seen, float(lengths.max()) * (1 + 2**-10))
        errors = torch.linalg.vector_norm(rows.sub_(self.rows.float()), dim=1)
        self.largest_error = max(self.largest_error, float(errors.max()) * (1 + 2**-10))

    def scores(self, chunk: slice) -> Tensor:  # (Q, B) float32
        if self.device.type == "cuda":
            products = torch.mm(self.queries[chunk], self.rows.T, out_dtype=torch.float32)
        else:
            products = (self.queries[chunk] @ self.rows.T).float()  # rounded to bfloat16 in between
            largest = products.amax(1).maximum(-products.amin(1))
            self.largest_seen[chunk] = self.largest_seen[chunk].maximum(largest)
        self.margin[chunk] = self._margin_now(chunk)
        return products.add_(self.offsets)

    def _margin_now(self, chunk: slice) -> Tensor:  # (Q,)
        """The margin for the rows up to the present block, whose longest is known."""
        unit, u = UNIT["bfloat16"], UNIT["float32"]
        query, row = self.query_lengths[chunk], self.longest_seen
        center = float(torch.linalg.vector_norm(self.center))
        whole = 1.0 if self.metric == "cosine" else self.bank.longest * self.scale
        # |q'.b' - r(q').r(b')| <= |q' - r(q')| |b'| + |r(q')| |b' - r(b')|. The errors of rounding are
        # measured: they are less than half of their bound. Products that are rounded as well have the
        # relative error unit.
        errors = self.query_errors[chunk]
        rounding = errors * row + (query + errors) * self.largest_error
        rounding += self.largest_seen[chunk] * unit * 1.01
        sums = 2 * (self.queries.shape[1] + 16) * u
        centering = 8 * u * (whole + center) * (query + row + center)
        if self.metric == "cosine":
            bound = rounding + sums * (query * row + center * row + 1) + centering
        else:
            bound = rounding + sums * (query + row).square() + centering
        return 2 * bound * (1 + 2**-10)


# ---- Candidates


class _Candidates:
    """The rows seen so far whose scores are not below the floor of a query."""

    def __init__(
        self,
        k: int,
        queries: int,
        device: torch.device,
    ) -> None:
        self.k, self.most = k, 8 * k + 2048
        self.kth = torch.full((queries,), -torch.inf, device=device)  # the k-th largest score
        self.margin = torch.zeros_like(self.kth)
        # Parts of queries, indices and scores, (M,) each, in the order of the queries.
        self.parts: list[tuple[Tensor, Tensor, Tensor]] = []
        self.kept = self.waiting = 0

    def add(
        self,
        scores: Tensor,  # (Q, B)
        margin: Tensor,  # (Q,), for these and all earlier rows
        start: int,  # index of the first of the B rows
    ) -> None:
        self.margin = margin
        if start == 0:  # B >= k
            self.kth = scores.topk(self.k, sorted=False).values.amin(1)
        query, column = _at_least(scores, self.kth - margin)
        self.parts.append((query, column + start, scores[query, column]))
        self.waiting += len(query)
        if 2 * self.waiting > self.kept:
            self._drop()

    def _drop(self) -> None:
        """Find the k-th largest score, and drop what is below it by more than the margin."""
        index, score = self._padded()
        if score.shape[1] >= self.k:
            largest = score.topk(self.k, sorted=False).values.amin(1)
            self.kth = torch.maximum(self.kth, largest)
        kept = score >= (self.kth - self.margin)[:, None]
        crowded = kept.sum(1) > self.most
        self.kth[crowded] = torch.inf  # collects nothing from now on
        kept[crowded] = False
        self.parts = [(kept.nonzero()[:, 0], index[kept], score[kept])]
        self.kept, self.waiting = len(self.parts[0][0]), 0

    def _padded(self) -> tuple[Tensor, Tensor]:
        """Candidates as a matrix, filled up with index -1 and score -inf."""
        device, queries = self.kth.device, len(self.kth)
        counts = [torch.bincount(query, minlength=queries) for query, _, _ in self.parts]
        taken = torch.stack(counts).cumsum(0)
        shape = (queries, int(taken[-1].max()))
        index = torch.full(shape, -1, dtype=torch.int64, device=device)
        score = torch.full(shape, -torch.inf, device=device)
        for (query, part, scores), count, end in zip(self.parts, counts, taken, strict=True):
            # Each row is filled from the left; ``end`` is where this part ends in it.
            place = torch.arange(len(query), device=device) - (count.cumsum(0) - end)[query]
            index[query, place], score[query, place] = part, scores
        return index, score

    def result(self) -> tuple[Tensor, Tensor, Tensor]:
        """Candidates, scores, and whether they are complete."""
        self._drop()
        index, score = self._padded()
        return index, score, self.kth < torch.inf


def _at_least(
    scores: Tensor,  # (Q, B)
    floor: Tensor,  # (Q,)
) -> tuple[Tensor, Tensor]:  # (M,), (M,) rows and columns, in the order of rows
    """Where scores are at least the floor.

    Groups of 16 are compared by their largest score first: reading it off is as fast as memory, while
    `nonzero` on every score would take a sixth of the time of the product.
    """
    groups = scores.shape[1] // _GROUP
    if groups * _GROUP != scores.shape[1]:
        row, column = (scores >= floor[:, None]).nonzero(as_tuple=True)
        return row, column
    largest = scores.unflatten(1, (_GROUP, groups)).amax(1)
    row, group = (largest >= floor[:, None]).nonzero(as_tuple=True)
    columns = group[:, None] + groups * torch.arange(_GROUP, device=scores.device)  # (M, 16)
    hit, member = (scores[row[:, None], columns] >= floor[row][:, None]).nonzero(as_tuple=True)
    return row[hit], columns[hit, member]
