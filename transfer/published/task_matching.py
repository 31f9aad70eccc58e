"""Which published column a score of a run answers, and in what its protocol differs from the column's."""

import math
import re
from collections.abc import Mapping
from typing import Any

from msbreg.run.config import flat
from msbreg.run.record import matches
from transfer.published.published_data import ScoredImages
from transfer.published.published_numbers import Published, published_scores
from transfer.published.published_tasks import ABLATIONS, TASKS, Measure, Task
from transfer.scoring.scores import Score

Settings = Mapping[str, Any]
"""The settings of a run, by dotted name: see ``settings_of``."""


def settings_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run by dotted name, as it used them, from its record.

    >>> settings_of({"config": {"k": [20], "transform": {"crop": None}},
    ...              "resolved": {"transform": {"crop": 224}}})
    {'k': [20], 'transform.crop': 224}
    """
    settings = flat(dict(record.get("config") or {}))
    for name, value in (record.get("resolved") or {}).items():
        settings = {k: v for k, v in settings.items() if not matches(k, {name})}
        settings |= flat({name: value})
    return settings


def task_of(score: Score, settings: Settings | None = None) -> tuple[str, str] | None:
    """The (task, metric) of published.csv that a score answers; None if there is none.

    Args:
        settings: of the run, from ``settings_of``. With them, runs that would be taken for another task, such
            as a schedule of 180,000 iterations for COCO's of 90,000, are recognized. Without, the task is
            the first that the score itself does not contradict.

    >>> from transfer.scoring.scores import DataId
    >>> rules = "cosine similarity s, 20 neighbors, weights exp(s / 0.07)"
    >>> task_of(Score("20-NN top-1", 66.0, DataId("imagenet", "val"), rules, n=50_000))
    ('ImageNet kNN', '20-NN top1')
    """
    found = [
        (name, metric)
        for name, task in TASKS.items()
        for metric, measure in task.measures.items()
        if _answers(score, task, measure, settings)
    ]
    # A folder called imagenet may contain ImageNet-100: the number of images decides.
    found.sort(key=lambda one: TASKS[one[0]].data.images != score.n)
    return found[0] if found else None


def baselines_of(
    score: Score, settings: Settings | None = None, *, ablations: bool = False
) -> tuple[Published, ...]:
    """The published scores of the same task and metric, each once, in the order of published.csv.

    Args:
        settings: as in ``task_of``.
        ablations: also those of tables that vary a method instead of comparing methods.
    """
    task = task_of(score, settings)
    found: list[Published] = []
    for one in published_scores():
        wanted = ablations or (one.source, one.table) not in ABLATIONS
        if (one.task, one.metric) == task and wanted and not any(_repeats(one, o) for o in found):
            found.append(one)
    return tuple(found)


def _repeats(one: Published, earlier: Published) -> bool:
    """Whether a number is an earlier one again, printed elsewhere."""
    names = {one.method.replace("BMWReg", "MSBReg"), earlier.method}  # the poster's name of MSBReg
    epochs = {one.epochs, earlier.epochs} - {None}
    return len(names) == 1 and len(epochs) <= 1 and one.value == earlier.value


def protocol_differences(score: Score, settings: Settings | None = None) -> str:
    """In what a score differs from the protocol behind the published column that it answers.

    Empty if nothing is known to differ and all settings of the protocol are given. Differences of single
    baselines from this protocol are in their ``notes``.

    Raises:
        KeyError: the score answers no published column.

    >>> from transfer.scoring.scores import DataId
    >>> rules = "cosine similarity s, 20 neighbors, weights exp(s / 0.1)"
    >>> score = Score("20-NN top-1", 66.0, DataId("imagenet", "val"), rules, n=5000)
    >>> print(protocol_differences(score))  # doctest: +ELLIPSIS
    Unlike NPID's and DINO's protocol (...): 5,000 images scored (published: 50,000); scored by
    "cosine similarity s, 20 neighbors, weights exp(s / 0.1)" (published: "cosine similarity s, 20
    neighbors, weights exp(s / 0.07)"). The settings of this run are unknown
    """
    found = task_of(score, settings)
    if found is None:
        raise KeyError(f"{score.name} on {score.data.name} answers no published column")
    task = TASKS[found[0]]
    rules = task.measures[found[1]].rules or task.rules
    parts = []
    if _is_guess(score, task.data, settings):
        parts.append(
            f'the data "{score.data.name}" were taken for {task.data.name} by the number of images'
        )
    if score.n != task.data.images:
        parts.append(f"{score.n:,} images scored (published: {task.data.images:,})")
    if score.rules != rules:
        parts.append(f'scored by "{score.rules}" (published: "{rules}")')
    expected = {**task.defining, **task.settings}
    known = {k: settings[k] for k in expected if k in settings} if settings is not None else {}
    parts += [
        f"{_short(name)} {_text(value)} (published: {_text(expected[name])})"
        for name, value in known.items()
        if not _equal(value, expected[name])
    ]
    text = f"Unlike {task.protocol}: {'; '.join(parts)}" if parts else ""
    unknown = ", ".join(_short(name) for name in expected if name not in known)
    if not unknown:
        return text
    if parts:
        return f"{text}. " + (
            f"Unknown settings: {unknown}" if known else "The settings of this run are unknown"
        )
    if known:
        return f"As {task.protocol}, as far as known; unknown settings: {unknown}"
    return f"Not compared with {task.protocol}: the settings of this run are unknown"


def _answers(score: Score, task: Task, measure: Measure, settings: Settings | None) -> bool:
    """Whether nothing that is known of a score contradicts the task."""
    if (score.name, score.unit) != (measure.score, measure.unit):
        return False
    if not re.search(task.requires, score.rules) or not _is_data(score, task.data, settings):
        return False
    return all(
        _equal(settings[name], value)
        for name, value in task.defining.items()
        if settings is not None and name in settings
    )


_LAYOUTS = frozenset(layout for task in TASKS.values() for layout in task.data.layouts)


def _is_data(score: Score, data: ScoredImages, settings: Settings | None) -> bool:
    """Whether a score was measured on these images, as far as it is known.

    The layout in the run's settings decides, else the name of the data together with their number.
    """
    if score.data.split != data.split:
        return False
    if score.per_class and data.classes and len(score.per_class) != data.classes:
        return False
    layout, colon, _ = str((settings or {}).get("data") or "").partition(":")
    if colon and layout in _LAYOUTS:
        return layout in data.layouts
    if _name(score) in data.names:
        return True
    return score.n == data.images and (data.unique or _name(score) in data.shared)


def _name(score: Score) -> str:
    return re.sub(r"[-_ ]", "", score.data.name.lower())


def _is_guess(score: Score, data: ScoredImages, settings: Settings | None) -> bool:
    """Whether the data were recognized by nothing but their number of images."""
    given = str((settings or {}).get("data") or "").partition(":")[0] in data.layouts
    return not given and _name(score) not in (*data.names, *data.shared)


def _equal(value: Any, expected: Any) -> bool:
    """Whether two settings are equal; lists and tuples are, and numbers up to rounding."""
    if isinstance(value, list | tuple) and isinstance(expected, list | tuple):
        return len(value) == len(expected) and all(map(_equal, value, expected))
    numbers = (int, float)
    if isinstance(value, numbers) and isinstance(expected, numbers):
        same_kind = isinstance(value, bool) == isinstance(expected, bool)
        return same_kind and math.isclose(value, expected, rel_tol=1e-6)
    return bool(value == expected)


def _short(name: str) -> str:
    return name.removeprefix("yaml.")


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    return f"{value:g}" if isinstance(value, float) else "null" if value is None else str(value)
