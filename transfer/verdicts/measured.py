"""Scores with the outcomes that they were computed from, and where a run keeps both."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from msbreg.run import distributed
from msbreg.run.job import Job
from transfer.scoring.scores import Score
from transfer.verdicts.outcomes import Outcomes, save_outcomes


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

    Raises:
        RunFailed: the outcomes cannot be written.
    """
    job.record.content["scores"] = [score.as_dict() for score in scores]
    known = [score.outcomes for score in scores if score.outcomes is not None]
    if known and distributed.is_main():
        save_outcomes(job.output, known)
