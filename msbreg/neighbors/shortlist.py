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
_ROWS_IN_CACHE = 64


@dataclass
class Shortlist:
    """Candidates of some queries, in any order.

    Attributes:
        queries: (Q,) the queries, as rows of the given array.
        candidates: (Q, W) indices into the bank, -1 where there are fewer than W.
        scores: (Q, W) their scores.
        complete: (Q,) whether the candidates certainly include the k nearest and everything equal to
            the k-th.
        constants: (Q,) float64, what to add to scores for cosines, or 0 for Euclidean distances.
        bounds: (Q,) how much scores with constants may differ from similarities rounded to float32.
    """

    queries: np.ndarray
    candidates: Tensor
    scores: Tensor
    complete: Tensor
    constants: Tensor
    bounds: Tensor


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
            bounds = scorer.margin[chunk] / 2
            yield Shortlist(part[chunk], *candidates.result(), scorer.constants[chunk], bounds)


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
        constants: (Q,) float64, see `Shortlist`.
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
        self._memories: dict[str, Tensor] = {}
        self._prepare(lengths * self.scale)

    def _prepare(
        self,
        lengths: np.ndarray,  # (Q,) of the scaled queries
    ) -> None:
        longest, dimension = self.bank.longest * self.scale, self.queries.shape[1]
        self.margin = margin(self._tensor(lengths), longest, dimension, self.metric).float()
        self.constants = torch.zeros_like(self.margin, dtype=torch.float64)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def _memory(self, name: str, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """Memory that is reused under a name: the first use of new memory costs page faults."""
        size = shape[0] * shape[1]
        if name not in self._memories or self._memories[name].numel() < size:
            self._memories[name] = torch.empty(size, dtype=dtype, device=self.device)
        return self._memories[name][:size].view(shape)

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

    def scores(self, chunk: slice) -> Tensor:  # (Q, B) float32, overwritten by the next call
        queries = self.queries[chunk]
        shape = len(queries), len(self.rows)
        with full_precision():
            products = product(queries, self.rows, self._memory("scores", shape, torch.float32))
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
        self.constants = torch.zeros(len(self.queries), dtype=torch.float64, device=self.device)
        if self.metric == "cosine":
            self.constants = self.queries.double() @ self.center.double()
        centered = self.queries - self.center
        self.queries = centered.bfloat16()
        self.query_lengths = torch.linalg.vector_norm(centered, dim=1) * (1 + 2**-10)
        self.query_errors = torch.linalg.vector_norm(centered - self.queries.float(), dim=1) * (
            1 + 2**-10
        )
        self.longest_seen = self.largest_error = 0.0
        self.largest_seen = torch.zeros_like(self.query_lengths)
        self.margin = torch.zeros_like(self.query_lengths)

    def load(self, start: int, stop: int) -> None:
        super().load(start, stop)
        shape, rows = (stop - start, self.rows.shape[1]), self.rows
        self.rows = self._memory("rounded rows", shape, torch.bfloat16)
        # A few rows at a time, which stay in the cache from one operation to the next.
        height = len(rows) if self.device.type == "cuda" else _ROWS_IN_CACHE
        slices = [slice(first, first + height) for first in range(0, len(rows), height)]
        divide = self.metric == "cosine" and not self.divide_rows
        parts = [
            self._round(rows[part], self.rows[part], self.factors[part] if divide else None)
            for part in slices
        ]
        offsets, lengths, errors = (torch.cat(part) for part in zip(*parts, strict=True))
        self.offsets = offsets
        self.longest_seen = max(self.longest_seen, float(lengths.max()) * (1 + 2**-10))
        self.largest_error = max(self.largest_error, float(errors.max()) * (1 + 2**-10))

    def _round(
        self,
        rows: Tensor,  # (R, D)
        rounded: Tensor,  # (R, D) bfloat16; receives the centered rows
        factors: Tensor | None,  # (R,)
    ) -> tuple[Tensor, Tensor, Tensor]:  # (R,) offsets, lengths, rounding errors
        shape = len(rows), rows.shape[1]
        centered, back = (self._memory(name, shape, torch.float32) for name in ("centered", "back"))
        if factors is not None:
            rows = torch.mul(rows, factors[:, None], out=centered)
        torch.sub(rows, self.center, out=centered)
        lengths = torch.linalg.vector_norm(centered, dim=1)
        offsets = centered @ self.center if self.metric == "cosine" else lengths.square() / -2
        back.copy_(rounded.copy_(centered))
        return offsets, lengths, torch.linalg.vector_norm(centered.sub_(back), dim=1)

    def scores(self, chunk: slice) -> Tensor:  # (Q, B) float32
        if self.device.type == "cuda":
            products = torch.mm(self.queries[chunk], self.rows.T, out_dtype=torch.float32)
        else:
            shape = len(self.queries[chunk]), len(self.rows)
            rounded = self._memory("rounded scores", shape, torch.bfloat16)
            torch.mm(self.queries[chunk], self.rows.T, out=rounded)
            products = self._memory("scores", shape, torch.float32).copy_(rounded)
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
            self.kth = _kth_largest(scores, self.k)
        place = _at_least(scores, self.kth - margin)
        query = place // scores.shape[1]
        column = place - query * scores.shape[1]
        self.parts.append((query, column + start, scores.view(-1)[place]))
        self.waiting += len(query)
        if self.waiting > self.kept:
            self._drop()

    def _drop(self) -> None:
        """Find the k-th largest score, and drop what is below it by more than the margin."""
        index, score = self._padded()
        if score.shape[1] >= self.k:
            self.kth = torch.maximum(self.kth, _kth_largest(score, self.k))
        place = _at_least(score, self.kth - self.margin)
        query = place // score.shape[1]
        crowded = torch.bincount(query, minlength=len(score)) > self.most
        self.kth[crowded] = torch.inf  # collects nothing from now on
        if crowded.any():
            place, query = (part[~crowded[query]] for part in (place, query))
        self.parts = [(query, index.view(-1)[place], score.view(-1)[place])]
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
) -> Tensor:  # (M,) places in the flattened matrix, ascending
    """Where scores are at least the floor of their row; on the CPU by NumPy, which is faster for few hits."""
    if scores.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(scores.numpy() >= floor.numpy()[:, None]))
    return (scores >= floor[:, None]).flatten().nonzero()[:, 0]


def _kth_largest(
    scores: Tensor,  # (Q, B)
    k: int,
) -> Tensor:  # (Q,)
    """`topk`, on the CPU by NumPy's partition, which uses vector instructions."""
    if scores.device.type == "cpu":
        return torch.from_numpy(np.partition(scores.numpy(), -k, axis=1)[:, -k].copy())
    return scores.topk(k, sorted=False).values.amin(1)
