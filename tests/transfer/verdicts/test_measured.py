"""Standard errors of scores that have no formula for theirs."""

import math
from dataclasses import replace

import numpy as np
import pytest

from transfer.scoring.scores import DataId, Score
from transfer.verdicts.measured import measured, with_stderr
from transfer.verdicts.outcome_kinds import mean_outcomes


def score_of(hits: np.ndarray):
    value = 100 * float(np.mean(hits))
    score = Score("top-1", value, DataId("digits", "val"), "rules", n=len(hits))
    return measured(score, mean_outcomes(score, "images", hits))


def test_the_standard_error_of_a_share_is_that_of_its_formula():
    found = with_stderr(score_of(np.arange(400) < 100))
    assert found.stderr == pytest.approx(100 * math.sqrt(0.25 * 0.75 / 399), rel=0.1)
    assert found.outcomes is not None


def test_a_known_standard_error_is_kept_and_a_single_image_has_none():
    assert with_stderr(replace(score_of(np.arange(9) < 3), stderr=7.0)).stderr == 7.0
    assert with_stderr(score_of(np.ones(1))).stderr is None
