"""Metrics equal their slow twins and scikit-learn's, and follow the rules for ties."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score

from msbreg.run.errors import UserError
from tests.reference import classification as slow
from transfer.scoring.classification import (
    average_precision,
    class_accuracies,
    eleven_point_average_precision,
    mean_class_accuracy,
    standard_error,
    top_k_accuracy,
)

# Both sides add at most a few hundred float64 terms below 100.
ROUNDING = 1e-10


@pytest.fixture(params=["distinct", "tied"])
def ranking(request):
    """Scores and labels of 300 images, a sixth of them positive."""
    draw = np.random.default_rng(0)
    scores = draw.standard_normal(300)
    labels = np.where(scores + 2 * draw.standard_normal(300) > 2, 1, -1)
    return (scores if request.param == "distinct" else scores.round(1)), labels


@pytest.fixture
def predictions():
    """Coarse scores of 200 images for 6 classes, full of ties; class 4 has no image."""
    draw = np.random.default_rng(1)
    return draw.integers(0, 4, (200, 6)).astype(float), draw.choice([0, 1, 2, 3, 5], 200)


@pytest.mark.parametrize("k", [1, 3, 6])
def test_top_k_accuracy_equals_its_slow_twin(predictions, k):
    assert top_k_accuracy(*predictions, k) == slow.top_k_accuracy(*predictions, k)


def test_top_k_accuracy_counts_by_hand():
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3], [0.1, 0.2, 0.7], [0.4, 0.3, 0.3]])
    labels = np.array([1, 2, 0, 2])
    assert [top_k_accuracy(scores, labels, k) for k in (1, 2, 3)] == [25, 50, 100]


def test_classes_with_equal_scores_rank_by_index():
    level = np.zeros((3, 3))
    assert top_k_accuracy(level, np.array([0, 1, 2]), 1) == pytest.approx(100 / 3)
    assert top_k_accuracy(level, np.array([1, 1, 1]), 2) == 100


def test_class_accuracies_equal_their_slow_twin(predictions):
    scores, labels = predictions
    absent = np.concatenate([scores, np.full((len(scores), 1), -1)], axis=1)
    ours = class_accuracies(absent, labels)
    assert ours == pytest.approx(slow.class_accuracies(absent, labels), abs=ROUNDING, nan_ok=True)
    assert np.isnan(ours[-1])
    absent[:, 4] = -1  # scikit-learn warns if a class without images is predicted
    ours = class_accuracies(absent, labels)
    peer = 100 * balanced_accuracy_score(labels, absent.argmax(1))
    assert np.nanmean(ours) == pytest.approx(peer, abs=ROUNDING)


def test_average_precision_equals_its_slow_twin(ranking):
    expected = slow.average_precision(*ranking)
    assert average_precision(*ranking) == pytest.approx(expected, abs=ROUNDING)


def test_eleven_point_average_precision_equals_its_slow_twin(ranking):
    expected = slow.eleven_point_average_precision(*ranking)
    assert eleven_point_average_precision(*ranking) == pytest.approx(expected, abs=ROUNDING)


def test_interpolation_only_fills_the_valleys_of_the_curve():
    # Falling scores: miss, hit, hit. Precision 0, 1/2, 2/3, lifted to 2/3 everywhere.
    scores, labels = np.array([3.0, 2.0, 1.0]), np.array([-1, 1, 1])
    assert average_precision(scores, labels) == pytest.approx(100 * 2 / 3)
    plain = 100 * average_precision_score(labels == 1, scores)
    assert plain == pytest.approx(100 * (1 / 2 + 2 / 3) / 2)


def test_average_precision_equals_scikit_learns_if_nothing_is_interpolated():
    # Hits first, then misses between ever rarer hits: precision only falls.
    labels = np.array([1, 1, 0, 1, 0, 0, 0, 1, 0, 0])
    scores = -np.arange(10.0)
    hits_only_fall = 100 * average_precision_score(labels, scores)
    assert average_precision(scores, labels) == pytest.approx(hits_only_fall, abs=ROUNDING)


def test_eleven_points_read_the_curve_at_exact_tenths():
    # Ten positives alternate with misses; recall 0.3 is reached at the third, not the fourth.
    labels = np.array([1, 0] * 10)
    scores = -np.arange(20.0)
    heights = [1.0] + [hits / (2 * hits - 1) for hits in range(1, 11)]
    expected = 100 * np.mean(heights)
    assert eleven_point_average_precision(scores, labels) == pytest.approx(expected, abs=ROUNDING)


@pytest.mark.parametrize("score", [average_precision, eleven_point_average_precision])
def test_metrics_do_not_depend_on_the_order_of_the_images(ranking, score):
    scores, labels = ranking
    expected = score(scores, labels)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(scores))
        assert score(scores[order], labels[order]) == expected


def test_equal_scores_for_all_images_give_chance_precision():
    labels = np.array([1, 0, 0, 0, 1])
    assert average_precision(np.ones(5), labels) == pytest.approx(40)
    assert eleven_point_average_precision(np.ones(5), labels) == pytest.approx(40)


def test_a_perfect_ranking_has_average_precision_100(ranking):
    _, labels = ranking
    assert average_precision(labels.astype(float), labels) == pytest.approx(100)
    assert eleven_point_average_precision(labels.astype(float), labels) == pytest.approx(100)


def test_the_standard_error_is_the_deviation_over_repeated_samples():
    shares = np.random.default_rng(2).binomial(500, 0.7, 20_000) / 5
    # 20,000 samples estimate a deviation within 1 / sqrt(2 * 20,000) = 0.5 %; four times that.
    assert standard_error(70, 500) == pytest.approx(shares.std(), rel=0.02)


def test_nan_scores_are_rejected(predictions):
    scores, labels = predictions
    scores[3, 2] = np.nan
    with pytest.raises(UserError, match="1 of 1200 scores are NaN"):
        top_k_accuracy(scores, labels, 1)
    with pytest.raises(UserError, match="are NaN"):
        average_precision(np.array([np.nan, 1]), np.array([1, -1]))


def test_a_class_without_positives_is_rejected():
    with pytest.raises(UserError, match="none of the 2 labels is positive"):
        average_precision(np.array([0.1, 0.2]), np.array([-1, 0]))


def test_labels_out_of_range_and_empty_splits_are_rejected(predictions):
    scores, labels = predictions
    with pytest.raises(UserError, match=r"labels are in 0..5; expected 0..4"):
        top_k_accuracy(scores[:, :5], labels, 1)
    with pytest.raises(UserError, match="0 labels"):
        class_accuracies(scores[:0], labels[:0])
    with pytest.raises(UserError, match="top-7 accuracy of 6 classes"):
        top_k_accuracy(scores, labels, 7)
    with pytest.raises(UserError, match=r"expected 0..100 %"):
        standard_error(0.7, 0)


def test_the_mean_over_classes_leaves_out_classes_without_images(predictions):
    scores, labels = predictions
    mean, stderr = mean_class_accuracy(scores, labels)
    recalls = [(scores[labels == c].argmax(1) == c).mean() for c in np.unique(labels)]
    expected = 100 * np.mean(recalls)
    assert mean == pytest.approx(expected, abs=ROUNDING)
    # The standard error by drawing the images of each class again.
    draw = np.random.default_rng(2)
    members = [np.flatnonzero(labels == label) for label in (0, 1, 2, 3, 5)]
    means = []
    for _ in range(400):
        chosen = np.concatenate([draw.choice(each, len(each)) for each in members])
        means.append(mean_class_accuracy(scores[chosen], labels[chosen])[0])
    assert stderr == pytest.approx(np.std(means), rel=0.15)  # 400 draws: 3.5 % per standard error
