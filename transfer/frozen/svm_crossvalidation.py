"""The cost of each VOC07 classifier by cross-validation, with the SVMs of all classes solved together.

The same protocol as with LIBLINEAR (transfer/frozen/svm_solver.py): stratified folds that are not shuffled,
scikit-learn's average precision, the first cost wins ties, a refit on all images. Costs are walked upward,
so that each problem starts from its solutions at the costs below.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

from transfer.frozen.svm_newton import Rows, Solution, minimize

POSITIVE_WEIGHT = 2.0
"""Class weight of positive images in FSSB and VISSL; that of negative images is 1."""
_LARGEST_BATCH = 2**23  # problems times images: 64 MB for each float64 array of that shape


@dataclass(frozen=True)
class Selection:
    """Classifiers of C classes with the best of G costs, chosen on F folds."""

    weights: np.ndarray  # (C, D) float64
    bias: np.ndarray  # (C,)
    costs: np.ndarray  # (C,)
    cv_scores: np.ndarray  # (C, G), mean average precision over folds, in [0, 1]
    cv_gaps: np.ndarray  # (C, G, F), duality gap as a share of 1/2 |w|^2
    gaps: np.ndarray  # (C,), of the final classifiers
    unconverged: int  # how many of the C (G F + 1) problems did not converge


def select_costs(
    features: np.ndarray,  # (N, D) float64, normalized
    positive: np.ndarray,  # (N, C) bool
    kept: np.ndarray,  # (N, C) bool, False = the class excludes the image
    *,
    costs: Sequence[float],
    folds: int,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Selection:
    """Choose each class's cost by cross-validation, then fit on all images.

    Classes do not influence each other; how many are solved together changes results by rounding only.
    `progress(done, total)` counts classes, and the share of their costs that is done as classes.
    """
    rows = Rows.of(torch.from_numpy(features).to(device))
    classes = positive.shape[1]
    together = max(1, _LARGEST_BATCH // (len(features) * folds))
    parts = []
    for first in range(0, classes, together):
        group = slice(first, min(first + together, classes))

        def report(share: float, group: slice = group) -> None:
            if progress is not None:
                progress(group.start + int(share * (group.stop - group.start)), classes)

        parts.append(
            _select_together(rows, positive[:, group], kept[:, group], costs, folds, report)
        )
    arrays = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("weights", "bias", "costs", "cv_scores", "cv_gaps", "gaps")
    }
    return Selection(**arrays, unconverged=sum(part.unconverged for part in parts))


@dataclass(frozen=True)
class Fit:
    """Classifiers of C classes at one cost."""

    weights: np.ndarray  # (C, D) float64
    bias: np.ndarray  # (C,)
    gaps: np.ndarray  # (C,), duality gap as a share of 1/2 |w|^2
    unconverged: int


def fit_together(
    features: np.ndarray,  # (N, D) float64, normalized
    positive: np.ndarray,  # (N, C) bool
    kept: np.ndarray,  # (N, C) bool, False = the class excludes the image
    *,
    cost: float,
    device: torch.device | str = "cpu",
) -> Fit:
    """Fit every class at the same cost."""
    rows = Rows.of(torch.from_numpy(features).to(device))
    together = max(1, _LARGEST_BATCH // len(features))
    weights, gaps, unconverged = [], [], 0
    for first in range(0, positive.shape[1], together):
        group = slice(first, first + together)
        batch = _Batch(rows, positive[:, group].T, kept[:, group].T)
        size = len(batch.targets)
        start = rows.exact.new_zeros(size, rows.exact.shape[1])
        solution = batch.solve(np.full(size, cost), start)
        weights.append(solution.weights.cpu().numpy())
        gaps.append(solution.gaps.cpu().numpy())
        unconverged += int((~solution.converged).sum())
    stacked = np.concatenate(weights)
    return Fit(stacked[:, :-1], stacked[:, -1], np.concatenate(gaps), unconverged)


def stepwise_average_precision(
    scores: np.ndarray,  # (P, N)
    relevant: np.ndarray,  # (P, N) bool
    counted: np.ndarray,  # (P, N) bool, False = not in the ranking
) -> np.ndarray:  # (P,)
    """Average precision of P rankings in [0, 1], as scikit-learn's: not interpolated.

    The sum of precision times the increase in recall over the distinct scores; images with equal scores
    enter together. A ranking without a relevant image has 0.

    >>> scores = np.array([[0.9, 0.8, 0.8, 0.1]])
    >>> relevant = np.array([[True, True, False, False]])
    >>> stepwise_average_precision(scores, relevant, np.ones((1, 4), bool)).round(3)  # 1/2 + 1/2 * 2/3
    array([0.833])
    """
    order = np.argsort(np.where(counted, -scores, np.inf), axis=1, kind="stable")
    ranked, hits, counted = (
        np.take_along_axis(array, order, axis=1) for array in (scores, relevant & counted, counted)
    )
    found = hits.cumsum(axis=1)
    following = np.zeros_like(counted)
    following[:, :-1] = counted[:, 1:] & (ranked[:, 1:] == ranked[:, :-1])
    ends = counted & ~following
    # Of the thresholds so far, the last one has found most.
    before = np.zeros_like(found)
    before[:, 1:] = np.maximum.accumulate(np.where(ends, found, 0), axis=1)[:, :-1]
    precision = found / np.arange(1, scores.shape[1] + 1)
    return np.where(ends, (found - before) * precision, 0).sum(axis=1) / np.maximum(
        hits.sum(axis=1), 1
    )


def image_costs(
    positive: np.ndarray,  # (P, N) bool
    trained: np.ndarray,  # (P, N) bool
) -> np.ndarray:  # (P, N) float32
    """The class weight of each image that a problem trains on, 0 for the others."""
    return np.where(trained, np.where(positive, POSITIVE_WEIGHT, 1), 0).astype(np.float32)


def _select_together(
    rows: Rows,
    positive: np.ndarray,  # (N, C) bool
    kept: np.ndarray,  # (N, C) bool
    costs: Sequence[float],
    folds: int,
    report: Callable[[float], None],
) -> Selection:
    classes = positive.shape[1]
    held_out = _held_out(positive, kept, folds)  # (C F, N)
    repeated = np.repeat(positive.T, folds, axis=0)
    counted = np.repeat(kept.T, folds, axis=0)
    batch = _Batch(rows, repeated, counted & ~held_out)
    start = rows.exact.new_zeros(len(repeated), rows.exact.shape[1])
    scores = np.empty((classes, len(costs), folds))
    gaps = np.empty_like(scores)
    warm = rows.exact.new_zeros(len(costs), *start.shape)
    unconverged = 0
    upward = np.argsort(costs, kind="stable")
    for done, position in enumerate(upward):
        if done > 1:
            start = _extrapolated(warm, costs, upward[done - 2 : done + 1])
        solution = batch.solve(np.full(len(repeated), costs[position]), start)
        start = warm[position] = solution.weights
        ranked = stepwise_average_precision(solution.decisions.cpu().numpy(), repeated, held_out)
        scores[:, position] = ranked.reshape(classes, folds)
        gaps[:, position] = solution.gaps.cpu().numpy().reshape(classes, folds)
        unconverged += int((~solution.converged).sum())
        report((done + 1) / (len(costs) + 1))

    # ---- The refit starts from the mean of the folds' solutions.
    cv_scores = scores.mean(axis=2)
    best = cv_scores.argmax(axis=1)
    chosen = np.asarray(costs, dtype=float)[best]
    by_class = warm.view(len(costs), classes, folds, -1).mean(dim=2)
    start = by_class[torch.from_numpy(best).to(warm.device), torch.arange(classes)]
    final = _Batch(rows, positive.T, kept.T).solve(chosen, start)
    weights = final.weights.cpu().numpy()
    report(1)
    return Selection(
        weights=weights[:, :-1],
        bias=weights[:, -1],
        costs=chosen,
        cv_scores=cv_scores,
        cv_gaps=gaps,
        gaps=final.gaps.cpu().numpy(),
        unconverged=unconverged + int((~final.converged).sum()),
    )


def _extrapolated(
    solutions: Tensor,  # (G, P, W)
    costs: Sequence[float],
    positions: np.ndarray,  # (3,), upward in cost; the last one is wanted
) -> Tensor:  # (P, W)
    """A guess of the solutions at a cost from those at the two costs below.

    For large costs, weights approach their limit like 1 / cost; the line through two solutions in 1 / cost
    hardly moves those for small costs.
    """
    first, second, wanted = (1 / costs[position] for position in positions)
    before, last = solutions[positions[0]], solutions[positions[1]]
    if first == second:  # a cost that is listed twice
        return last
    return last + (second - wanted) / (first - second) * (last - before)


class _Batch:
    """P problems on the same rows, to be solved at several costs."""

    def __init__(
        self,
        rows: Rows,
        positive: np.ndarray,  # (P, N) bool
        trained: np.ndarray,  # (P, N) bool
    ) -> None:
        device = rows.single.device
        self.rows = rows
        self.targets = torch.from_numpy(np.where(positive, 1, -1).astype(np.float32)).to(device)
        self.weights = torch.from_numpy(image_costs(positive, trained)).to(device)

    def solve(
        self,
        costs: np.ndarray,  # (P,)
        start: Tensor,  # (P, W)
    ) -> Solution:
        each = torch.from_numpy(costs.astype(np.float32)).to(self.weights.device)
        return minimize(self.rows, self.targets, each[:, None] * self.weights, start)


def _held_out(
    positive: np.ndarray,  # (N, C) bool
    kept: np.ndarray,  # (N, C) bool
    folds: int,
) -> np.ndarray:  # (C F, N) bool
    """Which images each fold of each class holds out; stratified by the class, among its kept images."""
    images, classes = positive.shape
    held_out = np.zeros((classes, folds, images), dtype=bool)
    for column in range(classes):
        used = np.flatnonzero(kept[:, column])
        targets = positive[used, column]
        for fold, (_, test) in enumerate(StratifiedKFold(folds).split(used, targets)):
            held_out[column, fold, used[test]] = True
    return held_out.reshape(classes * folds, images)
