"""Whether the outcomes in a run's folder give the scores in its record."""

import math
from pathlib import Path

import pytest

from msbreg.run.record import read_record
from transfer.scoring.scores import score_from_dict
from transfer.verdicts.outcomes import load_outcomes
from transfer.verdicts.weighted_scores import recorded_value


def check_outcomes(folder: Path) -> None:
    """Every recorded score with a value has outcomes of the same identity, and they give this value."""
    record = read_record(folder)
    assert record is not None
    scores = [score_from_dict(fields) for fields in record["scores"]]
    scores = [score for score in scores if not math.isnan(score.value)]
    outcomes = load_outcomes(folder)
    assert [(o.score, o.rules, o.data) for o in outcomes] == [
        (s.name, s.rules, s.data) for s in scores
    ]
    assert outcomes
    for score, own in zip(scores, outcomes, strict=True):
        # The same terms are added in another order.
        assert recorded_value(own) == pytest.approx(score.value, rel=1e-12, abs=1e-12), score.name
