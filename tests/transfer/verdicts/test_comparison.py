"""Verdicts: intervals, p-values, words, seeds, and what cannot be compared."""

import dataclasses

import numpy as np
import pytest
import scipy.stats

from benchmarks.coverage import Case, accuracy, coverage
from msbreg.run.errors import UserError
from transfer.scoring.scores import DataId, Score
from transfer.verdicts.comparison import Comparison, compare, holm, interval_of, judge
from transfer.verdicts.outcome_kinds import mean_outcomes, ratio_outcomes

DATA = DataId("drawn", "test", "1234")
SCORE = Score("top-1", 0.0, DATA, "rules", n=1)


def top1(hits, units="u", score=SCORE):
    return mean_outcomes(score, units, np.asarray(hits, bool))


def pair(rng, images, ours, theirs, agreement=0.8):
    """Hits of two networks of these accuracies; they share their luck with most images."""
    shared = rng.random(images)
    return [
        top1(np.where(rng.random(images) < agreement, shared, rng.random(images)) < accuracy)
        for accuracy in (ours, theirs)
    ]


def judged(ours, theirs, **options):
    (verdict,) = judge([compare([ours], [theirs], higher_is_better=True, **options)])
    return verdict


def test_the_interval_of_paired_accuracies_is_that_of_the_closed_formula():
    ours, theirs = pair(np.random.default_rng(0), 500, 0.7, 0.6)
    verdict = judged(ours, theirs, draws=20_000)
    difference = 100.0 * (ours.arrays["hits"].astype(int) - theirs.arrays["hits"].astype(int))
    assert verdict.difference == pytest.approx(difference.mean())
    # One more image that differs adds (100 / 500)^2 to the variance.
    stderr = np.sqrt(difference.var(ddof=1) / 500 + 0.2**2)
    half = scipy.stats.t.ppf(0.975, 499) * stderr
    assert verdict.high - verdict.difference == pytest.approx(half, rel=0.02)
    assert verdict.low == pytest.approx(2 * verdict.difference - verdict.high)
    assert (verdict.units, verdict.seeds) == (500, (1, 1))


def test_p_is_below_five_percent_exactly_if_the_interval_excludes_zero():
    rng = np.random.default_rng(1)
    for _ in range(30):
        verdict = judged(*pair(rng, 200, 0.7, 0.62), draws=200)
        assert (verdict.p < 0.05) == (verdict.low > 0 or verdict.high < 0)


def test_the_other_order_has_the_opposite_difference_and_the_same_p():
    rng = np.random.default_rng(5)
    score = dataclasses.replace(SCORE, name="rel", unit="%", higher_is_better=False)
    one, other = (  # only one of them has errors above 100 %
        ratio_outcomes(score, "u", rng.random(20) * most, np.ones(20), scale=100.0)
        for most in (0.9, 2.0)
    )
    (verdict,) = judge([compare([one], [other], higher_is_better=False)])
    (opposite,) = judge([compare([other], [one], higher_is_better=False)])
    assert (verdict.difference, verdict.p) == (-opposite.difference, opposite.p)
    assert (verdict.low, verdict.high) == (-opposite.high, -opposite.low)
    assert (verdict.word, opposite.word) == ("better", "worse")


def test_comparisons_follow_the_seed_of_the_generator():
    networks = pair(np.random.default_rng(2), 200, 0.7, 0.6)
    assert judged(*networks, seed=3) == judged(*networks, seed=3)
    assert judged(*networks, seed=3) != judged(*networks, seed=4)


def test_words_say_what_our_network_is():
    rng = np.random.default_rng(3)
    strong, weak = pair(rng, 2000, 0.8, 0.6)
    assert judged(strong, weak).word == "better"
    assert judged(weak, strong).word == "worse"
    first, second = pair(rng, 100, 0.6, 0.6)
    assert judged(first, second).word == "unclear"
    (verdict,) = judge([compare([first], [second], higher_is_better=True)], margin=50)
    assert verdict.word == "same"
    (verdict,) = judge([compare([strong], [weak], higher_is_better=False)])
    assert (verdict.word, verdict.difference > 0) == ("worse", True)


def test_equal_outcomes_are_the_same_only_if_there_are_enough_images():
    hits = np.random.default_rng(4).random(1000) < 0.6
    many, few = judged(top1(hits), top1(hits)), judged(top1(hits[:30]), top1(hits[:30]))
    assert (many.difference, many.p, many.word) == (0, 1, "same")
    assert (few.difference, few.p, few.word) == (0, 1, "unclear")


def test_a_few_images_that_differ_decide_nothing():
    """McNemar's exact test of 4 wins and no loss has p = 0.125."""
    ours = np.ones(300, bool)
    theirs = np.arange(300) >= 4
    verdict = judged(top1(ours), top1(theirs))
    assert verdict.p > 0.05
    assert verdict.word == "unclear"


def comparison(p):
    """One with this p-value."""
    t = scipy.stats.t.isf(p / 2, 100)
    return Comparison("s", "", DATA, True, t, 1.0, 100, 101, (1, 1))


def test_the_word_uses_the_p_value_corrected_for_all_comparisons():
    alone = judge([comparison(0.03)])
    assert (alone[0].word, alone[0].p_adjusted) == ("better", pytest.approx(0.03))
    of_three = judge([comparison(0.03), comparison(0.001), comparison(0.6)])
    assert [verdict.word for verdict in of_three] == ["unclear", "better", "unclear"]
    assert [verdict.p_adjusted for verdict in of_three] == pytest.approx([0.06, 0.003, 0.6])
    assert judge([]) == []


def test_holms_correction_never_reorders_and_never_exceeds_one():
    assert holm([0.01, 0.02, 0.03]) == pytest.approx([0.03, 0.04, 0.04])
    assert holm([0.9, 0.5]) == [1, 1]


def test_the_variation_between_seeds_widens_the_interval():
    rng = np.random.default_rng(5)
    images = rng.random(2000)
    near = [top1(images < accuracy) for accuracy in (0.699, 0.7, 0.701)]
    far = [top1(images < accuracy) for accuracy in (0.62, 0.7, 0.78)]
    other = [top1(images < accuracy) for accuracy in (0.649, 0.65, 0.651)]
    narrow, wide = (compare(own, other, higher_is_better=True) for own in (near, far))
    assert narrow.seeds == wide.seeds == (3, 3)
    assert narrow.difference == pytest.approx(wide.difference, abs=0.6)
    # Our seeds give nearly all of the variance, s^2 / 3, with two degrees of freedom.
    spread = np.std([100 * own.arrays["hits"].mean() for own in far], ddof=1)
    assert wide.stderr == pytest.approx(spread / np.sqrt(3), rel=0.03)
    assert wide.degrees == pytest.approx(2, abs=0.2)
    assert narrow.stderr < 1
    assert judge([narrow])[0].word == "better"
    assert judge([wide])[0].word == "unclear"


def test_networks_without_any_variance_are_compared():
    errors, pixels = np.full(9, 0.5), np.ones(9)
    equal = ratio_outcomes(SCORE, "u", errors, pixels, scale=100, root=True)
    larger = ratio_outcomes(SCORE, "u", 2 * errors, pixels, scale=100, root=True)
    assert judged(equal, equal).p == 1
    assert judged(equal, larger).p < 1e-9  # sums of floats differ a little


def test_one_network_may_have_a_single_seed():
    rng = np.random.default_rng(6)
    ours, theirs = pair(rng, 300, 0.7, 0.4)
    twins = [theirs, *(pair(rng, 300, 0.7, 0.4)[1] for _ in range(2))]
    (verdict,) = judge([compare([ours], twins, higher_is_better=True)])
    assert (verdict.seeds, verdict.word) == ((1, 3), "better")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"score": "top-5"}, "the scores are top-1 and top-5"),
        ({"rules": "other rules"}, "their rules are rules and other rules"),
        ({"data": DataId("drawn", "test", "5678")}, r"drawn test \(1234\) and drawn test \(5678\)"),
        ({"units": "w"}, "the names or the order of the images differ, with digests u and w"),
    ],
)
def test_different_scores_or_images_are_not_compared(change, words):
    ours = top1(np.ones(4))
    with pytest.raises(UserError, match=words):
        compare([ours], [dataclasses.replace(ours, **change)], higher_is_better=True)


def test_a_single_image_or_no_network_is_an_error():
    with pytest.raises(UserError, match="has 1 test image; expected at least 2"):
        judged(top1([1]), top1([0]))
    with pytest.raises(UserError, match="0 and 1 outcomes; expected at least one of each"):
        compare([], [top1([1, 0])], higher_is_better=True)


def test_the_interval_of_one_score_is_the_binomial_one():
    hits = np.arange(500) < 400
    low, high = interval_of(top1(hits), draws=20_000)
    half = scipy.stats.t.ppf(0.975, 499) * 100 * np.sqrt(0.8 * 0.2 / 499 + 1 / 500**2)
    assert (low + high) / 2 == pytest.approx(80)
    assert (high - low) / 2 == pytest.approx(half, rel=0.02)


def test_the_interval_of_one_score_stays_within_its_range():
    low, high = interval_of(top1([1] * 30))
    assert (high, low) == (100, pytest.approx(100 - scipy.stats.t.ppf(0.975, 29) * 100 / 30))
    assert interval_of(top1([0] * 30))[0] == 0


@pytest.mark.parametrize(
    "case",
    [
        Case("paired accuracies", accuracy, 300),
        Case("seeds", accuracy, 300, seeds=(3, 3), spread=0.1),
    ],
    ids=lambda case: case.name,
)
def test_intervals_contain_the_difference_of_the_population_in_95_percent_of_the_data_sets(case):
    found = coverage(case, 400, draws=200, truth_images=20_000)
    # Two and a half binomial standard errors of 400 data sets.
    assert 92.3 <= found.covered <= 97.7
    # Without counting a part of the variance twice, which would give 20 % more with seeds.
    assert found.stderr == pytest.approx(found.error, rel=0.1)
