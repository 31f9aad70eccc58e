"""The paired difference of two accuracies equals its slow twin, and its interval behaves as stated."""

import numpy as np
import pytest

from tests.reference import paired_hits as slow
from transfer.scoring.paired_hits import paired_difference


def hits(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Hits of two classifiers, by how many images each gets right."""
    counts = (both, first, second, neither)
    return (
        np.repeat([True, True, False, False], counts),
        np.repeat([True, False, True, False], counts),
    )


@pytest.mark.parametrize(
    "counts", [(43, 0, 1, 0), (20, 12, 4, 14), (3, 5, 5, 7), (30, 1, 9, 0), (10, 0, 0, 10)]
)
def test_the_interval_and_the_test_equal_their_slow_twins(counts):
    found = paired_difference(*hits(*counts))
    _, first, second, _ = counts
    assert found.p == pytest.approx(slow.mcnemar(first, second))
    low, high = slow.score_interval(first, second, sum(counts), 1.959964)
    assert (found.low, found.high) == pytest.approx((100 * low, 100 * high), abs=0.1)  # the grid
    assert found.value == pytest.approx(100 * (first - second) / sum(counts))


def test_swapping_the_classifiers_mirrors_the_interval():
    first, second = hits(20, 12, 4, 14)
    one, other = paired_difference(first, second), paired_difference(second, first)
    assert (one.low, one.high, one.p) == pytest.approx((-other.high, -other.low, other.p))


def test_classifiers_that_never_differ_leave_a_wide_interval_for_few_images():
    few, many = paired_difference(*hits(5, 0, 0, 5)), paired_difference(*hits(500, 0, 0, 500))
    assert few.low < -20 < few.high
    assert -0.5 < many.low < 0 < many.high < 0.5


def test_the_interval_ends_at_100_points_if_only_one_classifier_is_ever_right():
    found = paired_difference(*hits(0, 8, 0, 0))
    assert (found.value, found.high) == (100, 100)
    assert 20 < found.low < 100


def test_the_interval_contains_the_true_difference_in_95_percent_of_samples():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        kinds = rng.choice(4, 60, p=[0.3, 0.25, 0.1, 0.35])
        found = paired_difference(np.isin(kinds, (0, 1)), np.isin(kinds, (0, 2)))
        covered += found.low <= 15 <= found.high
    assert covered / 400 == pytest.approx(0.95, abs=0.03)


def test_no_images_are_an_error():
    with pytest.raises(ValueError, match="0 and 0 images"):
        paired_difference(np.zeros(0, bool), np.zeros(0, bool))
