"""Resamples: each image counts as often as it is drawn, and all networks share the draws."""

import numpy as np
import pytest

from tests.reference import resampled as slow
from transfer.scoring.scores import DataId, Score
from transfer.verdicts import bootstrap
from transfer.verdicts.bootstrap import resample, unit_weights
from transfer.verdicts.outcome_kinds import mean_outcomes

SCORE = Score("top-1", 0.0, DataId("drawn", "test"), "", n=1)


def test_weights_are_multinomial_counts():
    weights = np.concatenate(list(unit_weights(20, 20_000, np.random.default_rng(0))), axis=1)
    assert weights.shape == (20, 20_000)
    assert (weights.sum(axis=0) == 20).all()
    # Variance 20 * (1/20) * (19/20); its standard error over 20,000 draws is 0.01.
    np.testing.assert_allclose(weights.var(axis=1), 0.95, atol=0.06)
    np.testing.assert_allclose(weights.mean(axis=1), 1, atol=0.04)


def test_parts_that_fit_into_memory_are_joined(monkeypatch):
    monkeypatch.setattr(bootstrap, "_NUMBERS", 64)
    parts = list(unit_weights(10, 20, np.random.default_rng(0)))
    assert [part.shape for part in parts] == [(10, 6), (10, 6), (10, 6), (10, 2)]
    assert all((part.sum(axis=0) == 10).all() for part in parts)


def test_all_networks_are_scored_on_the_same_draws():
    rng = np.random.default_rng(1)
    hits = [rng.random(40) < 0.6 for _ in range(2)]
    outcomes = [mean_outcomes(SCORE, "", own) for own in hits]
    found = resample(outcomes, 30, 2)
    (weights,) = unit_weights(40, 30, np.random.default_rng(2))
    for own, resampled in zip(hits, found, strict=True):
        expected = [slow.accuracy(own, column) for column in weights.T]
        np.testing.assert_allclose(resampled.scores, expected)
        assert resampled.value == pytest.approx(100 * own.mean())
    (alone,) = resample(outcomes[1:], 30, 2)
    np.testing.assert_array_equal(alone.scores, found[1].scores)


def test_the_spread_of_an_accuracy_is_the_binomial_standard_error():
    hits = np.arange(400) < 300
    (found,) = resample([mean_outcomes(SCORE, "", hits)], 4000, 3)
    assert found.scores.std() == pytest.approx(100 * np.sqrt(0.75 * 0.25 / 400), rel=0.04)
