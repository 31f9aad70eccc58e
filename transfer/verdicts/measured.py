"""Scores with the outcomes that they were computed from, and where a run keeps both."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np

from msbreg.run import distributed
from msbreg.run.job import Job
from transfer.scoring.scores import Score
from transfer.verdicts.bootstrap import resample
from transfer.verdicts.outcomes import Outcomes, save_outcomes

DRAWS = 500
"""Resamples for the standard error of a score; it is then known to 3 % of itself."""


@dataclass(frozen=True)
class Measured(Score):
    """A score of this run.

    Attributes:
        outcomes: what it was computed from; None if it has no value.
    """

    outcomes: Outcomes | None = field(default=None, repr=False, compare=False)


def measured(score: Score, outcomes: Outcomes) -> Measured:
    """The score with its outcomes."""
    values = {each.name: getattr(score, each.name) for each in fields(Score)}
    return Measured(**values, outcomes=outcomes if math.isfinite(score.value) else None)


def record_scores(job: Job, scores: Sequence[Measured]) -> None:
    """Put scores into the run's record, and their outcomes into its folder; one process writes them.

    A score without a formula for its standard error, such as an average precision, gets the bootstrap's.

    Raises:
        RunFailed: the outcomes cannot be written.
    """
    if distributed.is_main():
        scores = [with_stderr(score) for score in scores]
    job.record.content["scores"] = [score.as_dict() for score in scores]
    known = [score.outcomes for score in scores if score.outcomes is not None]
    if known and distributed.is_main():
        save_outcomes(job.output, known)


def with_stderr(score: Measured) -> Measured:
    """The score with its standard error over resamples of the test images, if it has none.

    It stays unknown for a single image, and for a score that has no value on nearly all resamples.
    """
    if score.stderr is not None or score.outcomes is None or score.outcomes.count < 2:
        return score
    (found,) = resample([score.outcomes], DRAWS)
    defined = found.scores[np.isfinite(found.scores)]
    if len(defined) < DRAWS / 2:
        return score
    correction = score.outcomes.count / (score.outcomes.count - 1)
    return replace(score, stderr=math.sqrt(float(defined.var(ddof=1)) * correction))
