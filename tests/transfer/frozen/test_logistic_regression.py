import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_info, threadpool_limits

from msbreg.run.errors import UserError
from transfer.frozen import logistic_regression
from transfer.frozen.logistic_regression import (
    TOLERANCE,
    choose_regularization,
    fit_path,
    published_regularizations,
)


@pytest.fixture
def data():
    """Features like those after a ReLU, with a large mean and a small scale: (120, 12), 4 classes."""
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 4
    centers = rng.normal(size=(4, 12))
    x = np.maximum(centers[labels] + 1.5 * rng.normal(size=(120, 12)), 0) * 0.3 + 2
    return x.astype(np.float32), labels


def by_scikit_learn(x, labels, regularization):
    """Decision values; features are centered, which does not change the minimum."""
    model = LogisticRegression(C=1 / regularization, tol=1e-10, max_iter=100_000)
    x = x.astype(np.float64) - x.mean(0, dtype=np.float64)
    return model.fit(x, labels).decision_function(x)


def test_a_softmax_equals_scikit_learns_along_the_path(data):
    x, labels = data
    for fit in fit_path(x, labels, (10.0, 1.0, 0.1, 0.01), classes=4):
        expected = by_scikit_learn(x, labels, fit.regularization)
        found = fit.decision(x)
        # A softmax does not change if all logits do; scikit-learn's have the mean 0.
        found -= found.mean(1, keepdims=True)
        # A gradient of 1e-6 leaves an error of about 1e-6 N / lambda, here in logits of about 20.
        np.testing.assert_allclose(found, expected, atol=0.03)
        assert fit.converged


def test_binary_regressions_equal_scikit_learns_one_by_one(data):
    x, labels = data
    several = np.where(np.stack([labels == 0, labels > 1], 1), 1, -1)
    several[5, 0] = 0  # difficult: a negative
    (fit,) = fit_path(x, several, (1.0,), classes=2)
    for c in range(2):
        expected = by_scikit_learn(x, several[:, c] == 1, 1.0)
        np.testing.assert_allclose(fit.decision(x)[:, c], expected, atol=1e-3)


def test_two_classes_equal_scikit_learns_single_vector_at_twice_its_penalty(data):
    x, labels = data
    (fit,) = fit_path(x, labels % 2, (2.0,), classes=2)
    found = fit.decision(x) @ [-1, 1]
    np.testing.assert_allclose(found, by_scikit_learn(x, labels % 2, 1.0), atol=1e-3)


def test_the_gradient_of_the_objective_at_a_fit_is_the_one_it_states(data):
    x, labels = data
    (fit,) = fit_path(x, labels, (0.1,), classes=4)
    logits = fit.decision(x)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    wide = x.astype(np.float64)
    centered = wide - wide.mean(0)
    scale = np.sqrt(np.square(centered).mean())
    slope = p - np.eye(4)[labels]
    weights = (centered.T @ slope / scale + 0.1 * fit.weight / scale) / len(x)
    largest = max(np.abs(weights).max(), np.abs(slope.mean(0)).max())
    assert largest == pytest.approx(fit.gradient, rel=1e-3)  # rounding of a small difference
    assert largest <= TOLERANCE


def test_the_start_of_a_fit_does_not_change_its_end(data):
    x, labels = data
    *_, warm = fit_path(x, labels, (100.0, 10.0, 1.0), classes=4)
    (cold,) = fit_path(x, labels, (1.0,), classes=4)
    (again,) = fit_path(x, labels, (1.0,), classes=4, start=warm)
    np.testing.assert_allclose(warm.decision(x), cold.decision(x), atol=1e-3)
    assert again.iterations == 0  # it starts at the end


def test_the_scale_of_the_features_changes_only_the_penalty(data):
    x, labels = data
    (fit,) = fit_path(x, labels, (1.0,), classes=4)
    (scaled,) = fit_path(100 * x, labels, (1e4,), classes=4)
    np.testing.assert_allclose(scaled.decision(100 * x), fit.decision(x), atol=1e-3)


def test_a_fit_that_stops_early_has_not_converged(data):
    x, labels = data
    (fit,) = fit_path(x, labels, (1e-3,), classes=4, iterations=3)
    assert not fit.converged
    assert fit.gradient > TOLERANCE
    assert fit.iterations == 3


def test_the_blas_of_scipy_has_one_thread_during_a_fit_only(data, monkeypatch):
    def threads() -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    seen = []
    objective = logistic_regression._Problem.value_and_gradient

    def watched(self, *given):
        seen.append(threads())
        return objective(self, *given)

    monkeypatch.setattr(logistic_regression._Problem, "value_and_gradient", watched)
    with threadpool_limits(2, "blas"):
        before = threads()
        for _ in fit_path(*data, [1.0], classes=4):
            assert threads() == before
    assert 2 in before
    assert {count for counts in seen for count in counts} == {1}


def test_the_strongest_of_equally_good_regularizations_is_chosen(data):
    x, labels = data
    best, measures, unconverged = choose_regularization(
        x, labels, (1.0, 100.0, 10.0), lambda fit: float(fit.regularization > 5), classes=4
    )
    assert measures == {100.0: 1.0, 10.0: 1.0, 1.0: 0.0}
    assert best.regularization == 100.0
    assert unconverged == 0


def test_the_published_values_are_evenly_spaced_in_logarithm():
    steps = np.diff(np.log10(published_regularizations()))
    np.testing.assert_allclose(steps, 11 / 44, rtol=1e-9)


def test_features_that_are_not_finite_and_penalties_of_0_are_rejected(data):
    x, labels = data
    with pytest.raises(UserError, match="expected one or more numbers above 0"):
        next(fit_path(x, labels, (0.0,), classes=4))
    x[3, 2] = np.nan
    with pytest.raises(UserError, match="features are not finite"):
        next(fit_path(x, labels, (1.0,), classes=4))
