"""The squared-hinge SVM and its protocol, image by image."""

import numpy as np
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC


def objective_and_gradient(rows, weights, targets, costs):
    """One problem: rows (N, W), weights (W,), targets (N,), costs (N,)."""
    objective, gradient = 0.5 * float(weights @ weights), weights.copy()
    for row, target, cost in zip(rows, targets, costs, strict=True):
        hinge = max(0.0, 1.0 - target * float(row @ weights))
        objective += cost * hinge**2
        gradient -= 2 * cost * hinge * target * row
    return objective, gradient


def dual_objective(rows, alphas, targets, costs):
    """sum alpha - sum alpha^2 / (4 c) - 1/2 |sum alpha y x|^2, the lower bound that alpha gives."""
    combined = sum(a * t * row for a, t, row in zip(alphas, targets, rows, strict=True))
    penalty = sum(a**2 / (4 * c) for a, c in zip(alphas, costs, strict=True))
    return sum(alphas) - penalty - 0.5 * combined @ combined


def converged_machine(rows, targets, cost):
    """LIBLINEAR with a tolerance so tight that its own error does not matter."""
    machine = LinearSVC(
        C=cost,
        dual=True,
        tol=1e-10,
        max_iter=1_000_000,
        class_weight={1: 2, -1: 1},
        random_state=0,
    )
    return machine.fit(rows, targets)


def select_cost(rows, targets, costs, folds):
    """Mean average precision of each cost over the folds, and the first best cost."""
    means = []
    for cost in costs:
        scores = []
        for train, held_out in StratifiedKFold(folds).split(rows, targets):
            machine = converged_machine(rows[train], targets[train], cost)
            decisions = machine.decision_function(rows[held_out])
            scores.append(average_precision_score(targets[held_out], decisions))
        means.append(np.mean(scores))
    return means, costs[means.index(max(means))]
