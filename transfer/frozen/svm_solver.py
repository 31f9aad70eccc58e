"""The linear SVM of VOC07: one classifier per class, with its cost chosen on the training split only.

Sources: Goyal et al. 2019 (fair_self_supervision_benchmark, FSSB, tools/svm) and VISSL
(vissl/utils/svm_utils), which agree on everything that is not a parameter here. Neither sets the seed of
the solver; here it is a parameter. Both use LIBLINEAR, the reference; `newton` solves the same problems
faster (transfer/frozen/svm_newton.py).
"""

import contextlib
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from joblib import Parallel, delayed
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC

from msbreg.run.errors import UserError
from transfer.scoring.classification import average_precision

_POWERS = tuple(0.5**power for power in range(4, 20))  # FSSB appends these to every list
C_GRIDS = {
    # VISSL, eval_resnet_8gpu_transfer_voc07_svm.yaml, which turns the power series off
    "vissl": (0.01, 0.1, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 50.0, 100.0, 1000.0),
    # Goyal et al. 2019: the example list of fair_self_supervision_benchmark, decades
    "goyal": (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, *_POWERS),
    # Gidaris et al. 2021 (OBoW): valeoai/obow, through FSSB's code
    "obow": (0.05, 0.1, 0.3, 0.5, 1.0, 3.0, 5.0, *_POWERS),
}

Difficult = Literal["negative", "exclude"]
Solver = Literal["liblinear", "newton"]


@dataclass(frozen=True)
class SvmModel:
    """C one-vs-rest classifiers on D features, each with the best of G costs."""

    weights: np.ndarray  # (C, D) float64
    bias: np.ndarray  # (C,)
    costs: np.ndarray  # (C,), the chosen cost of each class
    cv_scores: np.ndarray  # (C, G), scikit-learn's average precision in [0, 1], mean over folds
    unconverged: int  # how many of the C (G folds + 1) fits stopped early: see `fit_svm`
    largest_gap: float | None = None  # of all fits, as a share of 1/2 |w|^2; None for LIBLINEAR


def fit_svm(
    features: np.ndarray,  # (N, D), of the training split
    labels: np.ndarray,  # (N, C): 1 = present, -1 = absent, 0 = only difficult objects
    *,
    costs: Sequence[float] = C_GRIDS["vissl"],
    folds: int = 3,
    difficult_train: Difficult = "negative",
    seed: int = 0,
    jobs: int = 1,
    solver: Solver = "liblinear",
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> SvmModel:
    """Choose each class's cost by cross-validation on the training split, then fit on the whole split.

    Folds are stratified and not shuffled; the criterion is scikit-learn's (not interpolated) average
    precision; the first cost wins ties. `progress(done, total)` counts classes.

    `liblinear` fits each class, cost and fold on its own. `jobs` processes share the classes, and the result
    does not depend on their number. A fit is unconverged if it stopped at 2000 iterations.
    `newton` solves all classes together, on `device` and with PyTorch's threads; it does not use `seed`. A
    fit is unconverged if its duality gap stayed above 1e-8 of 1/2 |w|^2.

    Raises UserError if shapes, labels or costs are unusable, or if a class has fewer positive or
    negative images than there are folds.
    """
    _check_folds(costs, folds)
    _check_training(features, labels, difficult_train, at_least=folds)
    plan = _Plan(tuple(costs), folds, difficult_train, seed, jobs, device, progress)
    return _SOLVERS[solver].select(_normalized(features), labels, plan)


def fit_at_cost(
    features: np.ndarray,  # (N, D), of the training split
    labels: np.ndarray,  # (N, C): 1 = present, -1 = absent, 0 = excluded
    *,
    cost: float,
    seed: int = 0,
    jobs: int = 1,
    solver: Solver = "liblinear",
    device: str = "cpu",
) -> SvmModel:
    """Fit every class at the same cost, without cross-validation; `cv_scores` has no column.

    Raises UserError like `fit_svm`; a class needs one positive and one negative image.
    """
    _check_training(features, labels, "exclude", at_least=1)
    plan = _Plan((cost,), 0, "exclude", seed, jobs, device, None)
    return _SOLVERS[solver].at_cost(_normalized(features), labels, plan)


@dataclass(frozen=True)
class _Plan:
    """What to fit, and with what."""

    costs: tuple[float, ...]
    folds: int  # 0 = no cross-validation, at one cost
    difficult: Difficult
    seed: int
    jobs: int
    device: str
    progress: Callable[[int, int], None] | None


def _fit_by_liblinear(
    rows: np.ndarray,  # (N, D), normalized
    labels: np.ndarray,  # (N, C)
    plan: _Plan,
) -> SvmModel:
    tasks = (
        delayed(_fit_class)(rows, column, plan.costs, plan.folds, plan.difficult, plan.seed)
        for column in labels.T
    )
    with _ctrl_c_ignored():
        fits = Parallel(n_jobs=plan.jobs, return_as="generator")(tasks)
    results = []
    for result in fits:
        results.append(result)
        if plan.progress is not None:
            plan.progress(len(results), labels.shape[1])
    weights, bias, chosen, cv_scores, unconverged = zip(*results, strict=True)
    return SvmModel(
        weights=np.stack(weights),
        bias=np.array(bias),
        costs=np.array(chosen),
        cv_scores=np.stack(cv_scores),
        unconverged=sum(unconverged),
    )


def _fit_by_newton(
    rows: np.ndarray,  # (N, D), normalized
    labels: np.ndarray,  # (N, C)
    plan: _Plan,
) -> SvmModel:
    # Not at the top of the file: the processes that run LIBLINEAR would import PyTorch.
    from transfer.frozen.svm_crossvalidation import select_costs

    found = select_costs(
        rows,
        labels == 1,
        _kept(labels, plan.difficult),
        costs=plan.costs,
        folds=plan.folds,
        device=plan.device,
        progress=plan.progress,
    )
    return SvmModel(
        weights=found.weights,
        bias=found.bias,
        costs=found.costs,
        cv_scores=found.cv_scores,
        unconverged=found.unconverged,
        largest_gap=float(max(found.cv_gaps.max(), found.gaps.max())),
    )


def _fit_at_cost_by_liblinear(
    rows: np.ndarray,  # (N, D), normalized
    labels: np.ndarray,  # (N, C)
    plan: _Plan,
) -> SvmModel:
    tasks = (delayed(_fit_column)(rows, column, plan.costs[0], plan.seed) for column in labels.T)
    with _ctrl_c_ignored():
        fits = Parallel(n_jobs=plan.jobs)(tasks)
    return SvmModel(
        weights=np.stack([machine.coef_[0] for machine, _ in fits]),
        bias=np.array([machine.intercept_[0] for machine, _ in fits]),
        costs=np.full(len(fits), plan.costs[0]),
        cv_scores=np.empty((len(fits), 0)),
        unconverged=sum(stopped_early for _, stopped_early in fits),
    )


def _fit_at_cost_by_newton(
    rows: np.ndarray,  # (N, D), normalized
    labels: np.ndarray,  # (N, C)
    plan: _Plan,
) -> SvmModel:
    from transfer.frozen.svm_crossvalidation import fit_together  # as in `_fit_by_newton`

    found = fit_together(rows, labels == 1, labels != 0, cost=plan.costs[0], device=plan.device)
    return SvmModel(
        weights=found.weights,
        bias=found.bias,
        costs=np.full(len(found.bias), plan.costs[0]),
        cv_scores=np.empty((len(found.bias), 0)),
        unconverged=found.unconverged,
        largest_gap=float(found.gaps.max()),
    )


_Fit = Callable[[np.ndarray, np.ndarray, _Plan], SvmModel]


class _Fits(NamedTuple):
    """What a solver does."""

    select: _Fit  # choose the cost of each class
    at_cost: _Fit  # one cost for all classes


_SOLVERS: dict[Solver, _Fits] = {
    "liblinear": _Fits(_fit_by_liblinear, _fit_at_cost_by_liblinear),
    "newton": _Fits(_fit_by_newton, _fit_at_cost_by_newton),
}


@contextlib.contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    """Processes that are started inside ignore Ctrl-C, which a terminal sends to all of its processes.

    This process also receives it, and ends them; otherwise each of them would print a traceback.
    """
    if threading.current_thread() is not threading.main_thread():  # others cannot change handlers
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def decision(
    model: SvmModel,
    features: np.ndarray,  # (N, D)
) -> np.ndarray:  # (N, C)
    """Decision values of each class; features are normalized as in training."""
    if features.ndim != 2 or features.shape[1] != model.weights.shape[1]:
        raise UserError(
            f"features have shape {features.shape}, but the SVM was trained on features of "
            f"width {model.weights.shape[1]}. Take both from the same backbone and layer."
        )
    return _normalized(features) @ model.weights.T + model.bias


def class_average_precisions(
    decisions: np.ndarray,  # (N, C)
    labels: np.ndarray,  # (N, C): 1 = present, -1 = absent, 0 = only difficult objects
    difficult_test: Difficult = "exclude",
) -> np.ndarray:  # (C,)
    """Interpolated average precision of each class, in percent.

    Images in which all objects of a class are difficult are excluded for that class, as in FSSB and VISSL,
    or count as negatives, as in PCL. Raises UserError if a class has no positive image.
    """
    if decisions.shape != labels.shape or not np.isin(labels, (-1, 0, 1)).all():
        raise UserError(
            f"decisions have shape {decisions.shape}, labels {labels.shape}: expected the "
            "shape (images, classes) for both, with labels 1, -1 and 0."
        )
    _check_positives(labels, at_least=1)
    return np.array(
        [
            average_precision(scores[kept], column[kept])
            for scores, column in zip(decisions.T, labels.T, strict=True)
            for kept in [_kept(column, difficult_test)]
        ]
    )


def unusable_classes(
    train: np.ndarray,  # (N, C): 1 = present, -1 = absent, 0 = only difficult objects
    test: np.ndarray,  # (M, C)
    classes: Sequence[str],
    at_least: int,
    difficult_train: Difficult,
    *,
    why: str = "one for each fold",
) -> dict[str, str]:
    """Class -> why it cannot be fitted or scored; empty if all classes are usable.

    A class needs `at_least` positive and negative training images; `why` explains the number.
    """
    reasons: dict[str, str] = {}
    for name, fitted, scored in zip(classes, train.T, test.T, strict=True):
        positives = np.count_nonzero(fitted == 1)
        negatives = np.count_nonzero(_kept(fitted, difficult_train)) - positives
        problems = [
            f"{count} {kind} training images, expected at least {at_least}, {why}"
            for count, kind in ((positives, "positive"), (negatives, "negative"))
            if count < at_least
        ]
        if not np.any(scored == 1):
            problems.append("no positive test image")
        if problems:
            reasons[name] = "; ".join(problems)
    return reasons


def _fit_class(
    rows: np.ndarray,  # (N, D), normalized
    labels: np.ndarray,  # (N,), in {1, -1, 0}
    costs: tuple[float, ...],
    folds: int,
    difficult_train: Difficult,
    seed: int,
) -> tuple[np.ndarray, float, float, np.ndarray, int]:
    """Weights (D,), bias, chosen cost, CV scores (G,) and number of unconverged fits of one class."""
    kept = _kept(labels, difficult_train)
    rows, targets = rows[kept], np.where(labels[kept] == 1, 1, -1)
    splits = list(StratifiedKFold(folds).split(rows, targets))
    scores = np.empty((len(costs), folds))
    unconverged = 0
    for at_cost, cost in zip(scores, costs, strict=True):
        for fold, (train, held_out) in enumerate(splits):
            machine, stopped_early = _fit(rows[train], targets[train], cost, seed)
            decisions = machine.decision_function(rows[held_out])
            at_cost[fold] = average_precision_score(targets[held_out], decisions)
            unconverged += stopped_early
    cv_scores = scores.mean(axis=1)
    best = costs[int(cv_scores.argmax())]
    machine, stopped_early = _fit(rows, targets, best, seed)
    return machine.coef_[0], machine.intercept_[0], best, cv_scores, unconverged + stopped_early


def _fit_column(
    rows: np.ndarray,  # (N, D), normalized
    labels: np.ndarray,  # (N,), in {1, -1, 0}
    cost: float,
    seed: int,
) -> tuple[LinearSVC, bool]:
    used = labels != 0
    return _fit(rows[used], labels[used], cost, seed)


def _fit(
    rows: np.ndarray,  # (N, D)
    targets: np.ndarray,  # (N,), in {1, -1}
    cost: float,
    seed: int,
) -> tuple[LinearSVC, bool]:
    """Run LIBLINEAR with the settings of FSSB and VISSL; the flag is true if it did not converge."""
    machine = LinearSVC(
        penalty="l2",
        loss="squared_hinge",
        dual=True,
        tol=1e-4,
        C=cost,
        intercept_scaling=1.0,
        class_weight={1: 2, -1: 1},
        max_iter=2000,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # counted instead
        machine.fit(rows, targets)
    return machine, bool(machine.n_iter_ >= machine.max_iter)


def _normalized(
    features: np.ndarray,  # (N, D)
) -> np.ndarray:  # (N, D) float64
    """Divide each row by its L2 length plus 1e-5, the constant of FSSB and VISSL."""
    rows = features.astype(np.float64)
    return rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-5)


def _kept(
    labels: np.ndarray,  # (N,)
    difficult: Difficult,
) -> np.ndarray:  # (N,) bool
    return (labels != 0) | (difficult == "negative")


def _check_folds(costs: Sequence[float], folds: int) -> None:
    if not costs or min(costs) <= 0 or folds < 2:
        raise UserError(
            f"costs {list(costs)} and {folds} folds: expected costs above 0 and at least 2 folds. "
            f"Use one of the grids {', '.join(C_GRIDS)}."
        )


def _check_training(
    features: np.ndarray, labels: np.ndarray, difficult: Difficult, *, at_least: int
) -> None:
    if features.ndim != 2 or labels.ndim != 2 or len(features) != len(labels):
        raise UserError(
            f"features have shape {features.shape}, labels {labels.shape}: expected (N, D) and "
            "(N, C) with one row for each image of the training split."
        )
    if not np.isfinite(features).all():
        rows = np.count_nonzero(~np.isfinite(features).all(axis=1))
        raise UserError(
            f"{rows} of {len(features)} features are not finite. "
            "Check the backbone's weights and, in half precision, for overflow."
        )
    if not np.isin(labels, (-1, 0, 1)).all():
        raise UserError(
            f"labels contain {np.unique(labels)[:5]}: expected 1 (present), -1 (absent) and 0 (only "
            "difficult objects), as in VOC's ImageSets/Main/<class>_trainval.txt."
        )
    _check_positives(labels, at_least)
    negatives = np.array(
        [np.count_nonzero(column[_kept(column, difficult)] != 1) for column in labels.T]
    )
    for index in np.flatnonzero(negatives < at_least)[:1]:
        raise UserError(
            f"class {index} has {negatives[index]} negative images, expected at least {at_least}. "
            "Add images without the class, or use fewer folds."
        )


def _check_positives(labels: np.ndarray, at_least: int) -> None:
    positives = np.count_nonzero(labels == 1, axis=0)
    for index in np.flatnonzero(positives < at_least)[:1]:
        raise UserError(
            f"class {index} has {positives[index]} positive images, expected at least {at_least}. "
            "Use the whole split, or exclude the class."
        )
