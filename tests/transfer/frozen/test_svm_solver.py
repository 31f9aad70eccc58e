"""The SVM selects costs and scores classes like scikit-learn's cross-validation does."""

import signal

import numpy as np
import pytest
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor
from sklearn.model_selection import cross_val_score
from sklearn.svm import LinearSVC

from msbreg.run.errors import UserError
from transfer.frozen import svm_solver
from transfer.frozen.svm_solver import (
    C_GRIDS,
    class_average_precisions,
    decision,
    fit_svm,
    unusable_classes,
)
from transfer.scoring.classification import average_precision

COSTS = (0.01, 1.0, 20.0)


def multi_label_data(images, seed):
    """Features of width 12 and labels of 3 classes, a tenth of which are difficult."""
    draw = np.random.default_rng(seed)
    features = draw.standard_normal((images, 12))
    logits = 2 * features[:, :3] + 2 * draw.standard_normal((images, 3))
    labels = np.where(logits > 1.5, 1, -1)
    labels[draw.random((images, 3)) < 0.1] = 0
    return features.astype(np.float32), labels


@pytest.fixture(scope="module")
def train():
    return multi_label_data(150, seed=0)


@pytest.fixture(scope="module")
def model(train):
    return fit_svm(*train, costs=COSTS)


def obvious_machine(cost):
    return LinearSVC(C=cost, dual=True, max_iter=2000, class_weight={1: 2, -1: 1}, random_state=0)


def obvious_rows(features):
    rows = features.astype(np.float64)
    return np.stack([row / (np.sqrt(row @ row) + 1e-5) for row in rows])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # at C = 20
@pytest.mark.parametrize("difficult", ["negative", "exclude"])
def test_every_class_equals_cross_val_score_and_a_refit_at_the_best_cost(train, difficult):
    features, labels = train
    model = fit_svm(features, labels, costs=COSTS, difficult_train=difficult)
    for index, column in enumerate(labels.T):
        used = column != 0 if difficult == "exclude" else np.full(len(column), True)
        rows, targets = obvious_rows(features)[used], np.where(column[used] == 1, 1, -1)
        scores = [
            cross_val_score(
                obvious_machine(cost), rows, targets, cv=3, scoring="average_precision"
            ).mean()
            for cost in COSTS
        ]
        # The same solver on the same numbers; row lengths may differ in the last bit.
        np.testing.assert_allclose(model.cv_scores[index], scores, rtol=1e-9)
        best = COSTS[scores.index(max(scores))]
        assert model.costs[index] == best
        refit = obvious_machine(best).fit(rows, targets)
        np.testing.assert_allclose(model.weights[index], refit.coef_[0], rtol=1e-6, atol=1e-9)
        own = decision(model, features)[used, index]
        np.testing.assert_allclose(own, refit.decision_function(rows), rtol=1e-6, atol=1e-9)


def test_difficult_images_are_excluded_for_their_class_or_count_as_negatives(model):
    features, labels = multi_label_data(90, seed=1)
    decisions = decision(model, features)
    excluded = class_average_precisions(decisions, labels, "exclude")
    negative = class_average_precisions(decisions, labels, "negative")
    for index, column in enumerate(labels.T):
        used = column != 0
        assert excluded[index] == average_precision(decisions[used, index], column[used])
        assert negative[index] == average_precision(decisions[:, index], column)
    assert (excluded > negative).all()  # more negatives at random ranks lower the precision


def test_two_processes_fit_the_same_classifiers_as_one(train, model):
    shared = fit_svm(*train, costs=COSTS, jobs=2)
    assert np.array_equal(shared.weights, model.weights)
    assert np.array_equal(shared.cv_scores, model.cv_scores)


def test_the_same_seed_gives_the_same_classifiers(train, model):
    assert np.array_equal(fit_svm(*train, costs=COSTS).weights, model.weights)


def test_the_first_cost_wins_ties():
    # One feature separates the classes: every cost ranks perfectly.
    labels = np.tile([[1], [-1], [-1]], (10, 1))
    features = np.concatenate([labels.astype(float), np.ones((30, 1))], axis=1)
    assert fit_svm(features, labels, costs=(3.0, 0.5, 10.0)).costs.tolist() == [3.0]


def test_fits_that_do_not_converge_are_counted_without_a_warning():
    draw = np.random.default_rng(4)
    features = draw.standard_normal((60, 2))
    labels = draw.choice([1, -1], (60, 1))
    # Noise and a huge cost: neither the 3 folds nor the refit converge.
    assert fit_svm(features, labels, costs=(1e9,)).unconverged == 4
    assert fit_svm(features, labels, costs=(1e-3,)).unconverged == 0


def test_progress_counts_the_classes(train):
    calls = []
    fit_svm(*train, costs=(1.0,), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_the_grids_of_goyal_and_obow_end_with_the_sixteen_powers():
    assert C_GRIDS["goyal"][10:] == C_GRIDS["obow"][7:]
    assert len(C_GRIDS["obow"][7:]) == 16
    assert C_GRIDS["obow"][7] == 0.0625
    assert len(C_GRIDS["vissl"]) == 11


def test_a_class_with_fewer_positives_than_folds_is_named(train):
    features, labels = train
    rare = labels.copy()
    rare[:, 1] = -1
    rare[:2, 1] = 1
    with pytest.raises(UserError, match="class 1 has 2 positive images, expected at least 3"):
        fit_svm(features, rare, costs=COSTS)


def test_a_class_without_negatives_is_named(train):
    features, labels = train
    common = labels.copy()
    common[:, 2] = 1
    common[:5, 2] = 0
    with pytest.raises(UserError, match="class 2 has 0 negative images"):
        fit_svm(features, common, costs=COSTS, difficult_train="exclude")


def test_a_test_split_without_positives_of_a_class_is_rejected(model):
    features, labels = multi_label_data(20, seed=2)
    labels[:, 1] = -1
    with pytest.raises(UserError, match="class 1 has 0 positive images"):
        class_average_precisions(decision(model, features), labels)


def test_invalid_features_labels_and_costs_are_rejected(train, model):
    features, labels = train
    with pytest.raises(UserError, match=r"labels contain \[-2"):
        fit_svm(features, labels - 1)
    with pytest.raises(UserError, match="1 of 150 features are not finite"):
        fit_svm(np.where(np.arange(150)[:, None] == 3, np.nan, features), labels)
    with pytest.raises(UserError, match="Use one of the grids vissl, goyal, obow"):
        fit_svm(features, labels, costs=())
    with pytest.raises(UserError, match="same backbone and layer"):
        decision(model, features[:, :5])


def test_every_unusable_class_is_named_with_its_reasons():
    train = np.array([[1, 1, -1], [1, -1, 1], [-1, 1, 1], [-1, -1, 1], [0, -1, 1]])
    test = np.array([[1, 1, 1], [-1, -1, -1]])
    test[:, 1] = -1
    found = unusable_classes(train, test, ("a", "b", "c"), 2, "negative")
    assert found == {
        "b": "no positive test image",
        "c": "1 negative training images, expected at least 2, one for each fold",
    }


def test_ctrl_c_in_a_terminal_does_not_reach_the_processes_that_fit():
    get_reusable_executor().shutdown()  # processes of earlier tests
    before = signal.getsignal(signal.SIGINT)
    with svm_solver._ctrl_c_ignored():
        handlers = Parallel(n_jobs=2, return_as="generator")(
            delayed(signal.getsignal)(signal.SIGINT) for _ in range(2)
        )
    assert signal.getsignal(signal.SIGINT) is before
    assert set(handlers) == {signal.SIG_IGN}
