"""Scores and settings of made-up runs that follow the protocol of a published column exactly."""

from dataclasses import replace

from transfer.published.published_tasks import TASKS
from transfer.scoring.scores import DataId, Score


def score_for(task, metric, value=50.0, **changes):
    """A score of our protocol that answers the column; the fingerprint is that of a real split."""
    of = TASKS[task]
    measure = of.measures[metric]
    score = Score(
        name=measure.score,
        value=value,
        data=DataId(of.data.name, of.data.split, "fe91"),
        rules=measure.rules or of.rules,
        n=of.data.images,
        unit=measure.unit,
        higher_is_better=measure.higher_is_better,
        stderr=0.3,
    )
    return replace(score, **changes)


def settings_for(task, **changes):
    """The settings of such a run; dots in names are written as ``__``."""
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    return {**TASKS[task].defining, **TASKS[task].settings, "seed": 0, **changes}


COLUMNS = [(task, metric) for task, of in TASKS.items() for metric in of.measures]
