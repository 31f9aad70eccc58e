"""Costs chosen for all classes together are those of class-by-class cross-validation."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from msbreg.run.errors import UserError
from tests.reference.svm import converged_machine, select_cost
from transfer.frozen import svm_crossvalidation, svm_newton
from transfer.frozen.svm_crossvalidation import stepwise_average_precision
from transfer.frozen.svm_solver import decision, fit_at_cost, fit_svm

COSTS = (0.01, 1.0, 20.0)


def multi_label_data(images=120, seed=0):
    """Features of width 12 and labels of 3 classes, a tenth of which are difficult."""
    draw = np.random.default_rng(seed)
    features = draw.standard_normal((images, 12))
    logits = 2 * features[:, :3] + 2 * draw.standard_normal((images, 3))
    labels = np.where(logits > 1.5, 1, -1)
    labels[draw.random((images, 3)) < 0.1] = 0
    return features.astype(np.float32), labels


@pytest.fixture(scope="module")
def data():
    return multi_label_data()


@pytest.fixture(scope="module")
def model(data):
    return fit_svm(*data, costs=COSTS, solver="newton")


def unit(features):
    rows = features.astype(np.float64)
    return rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-5)


@pytest.mark.parametrize("difficult", ["negative", "exclude"])
def test_costs_scores_and_weights_equal_those_of_a_converged_linear_svc(data, difficult):
    features, labels = data
    model = fit_svm(features, labels, costs=COSTS, difficult_train=difficult, solver="newton")
    for index, column in enumerate(labels.T):
        used = column != 0 if difficult == "exclude" else np.full(len(column), True)
        rows, targets = unit(features)[used], np.where(column[used] == 1, 1, -1)
        means, best = select_cost(rows, targets, COSTS, folds=3)
        # Equal rankings give equal average precision.
        np.testing.assert_allclose(model.cv_scores[index], means, rtol=1e-12)
        assert model.costs[index] == best
        machine = converged_machine(rows, targets, best)
        scale = np.linalg.norm(machine.coef_)
        np.testing.assert_allclose(model.weights[index], machine.coef_[0], atol=1e-4 * scale)
        own = decision(model, features)[used, index]
        np.testing.assert_allclose(own, machine.decision_function(rows), atol=1e-4 * scale)


def test_both_solvers_choose_the_same_costs(data, model):
    assert np.array_equal(fit_svm(*data, costs=COSTS).costs, model.costs)


def test_the_order_of_the_costs_does_not_change_their_scores(data, model):
    # The warm starts are the same, as costs are walked upward.
    backward = fit_svm(*data, costs=COSTS[::-1], solver="newton")
    np.testing.assert_array_equal(backward.cv_scores[:, ::-1], model.cv_scores)


def test_a_guess_at_a_higher_cost_continues_the_line_in_one_over_the_cost():
    draw = np.random.default_rng(0)
    limit, slope = torch.from_numpy(draw.standard_normal((2, 4, 5)))
    costs = (50.0, 10.0, 20.0)  # walked upward: positions 1, 2, 0
    solutions = torch.stack([limit - slope / cost for cost in costs])
    guess = svm_crossvalidation._extrapolated(solutions, costs, np.array([1, 2, 0]))
    np.testing.assert_allclose(guess, solutions[0], rtol=1e-12)


def test_a_cost_that_is_listed_twice_has_the_same_scores_both_times(data):
    found = fit_svm(*data, costs=(1.0, 1.0, 5.0), solver="newton").cv_scores
    np.testing.assert_array_equal(found[:, 0], found[:, 1])


def test_the_first_cost_wins_ties():
    labels = np.tile([[1], [-1], [-1]], (10, 1))
    features = np.concatenate([labels.astype(float), np.ones((30, 1))], axis=1)
    found = fit_svm(features, labels, costs=(3.0, 0.5, 10.0), solver="newton")
    assert found.costs.tolist() == [3.0]


def test_groups_of_classes_give_the_models_of_all_classes_together(data, model, monkeypatch):
    monkeypatch.setattr(svm_crossvalidation, "_LARGEST_BATCH", 1)  # one class at a time
    alone = fit_svm(*data, costs=COSTS, solver="newton")
    np.testing.assert_allclose(alone.weights, model.weights, atol=1e-4)
    np.testing.assert_array_equal(alone.cv_scores, model.cv_scores)


def test_the_largest_gap_is_at_most_the_tolerance_and_no_fit_is_unconverged(model):
    assert model.unconverged == 0
    assert 0 < model.largest_gap <= svm_newton.TOLERANCE


def test_problems_that_do_not_converge_are_counted(data, monkeypatch):
    monkeypatch.setattr(svm_newton, "MAX_STEPS", 0)
    # 3 classes, 1 cost, 3 folds and the refit
    found = fit_svm(*data, costs=(1.0,), solver="newton")
    assert found.unconverged == 12


def test_progress_ends_at_the_number_of_classes(data):
    calls = []
    fit_svm(*data, costs=COSTS, solver="newton", progress=lambda *call: calls.append(call))
    assert calls[-1] == (3, 3)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_unusable_labels_raise_the_errors_of_the_other_solver(data):
    features, labels = data
    rare = np.where(np.arange(len(labels))[:, None] < 2, 1, -1)
    with pytest.raises(UserError, match="class 0 has 2 positive images, expected at least 3"):
        fit_svm(features, rare, solver="newton")


@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_average_precision_equals_scikit_learns_with_ties_and_exclusions(decimals):
    draw = np.random.default_rng(decimals)
    scores = draw.standard_normal((20, 50)).round(decimals)
    relevant = draw.random((20, 50)) < 0.2
    counted = draw.random((20, 50)) < 0.7
    relevant[:, 0] = counted[:, 0] = True
    found = stepwise_average_precision(scores, relevant, counted)
    for value, each, hits, used in zip(found, scores, relevant, counted, strict=True):
        expected = average_precision_score(hits[used], each[used])
        assert value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("solver", ["liblinear", "newton"])
def test_a_fit_at_one_cost_excludes_zeros(data, solver):
    features, labels = data
    model = fit_at_cost(features, labels, cost=0.5, solver=solver)
    for index, column in enumerate(labels.T):
        used = column != 0
        machine = converged_machine(unit(features)[used], column[used], 0.5)
        np.testing.assert_allclose(model.weights[index], machine.coef_[0], atol=1e-3)
        assert model.bias[index] == pytest.approx(machine.intercept_[0], abs=1e-3)
