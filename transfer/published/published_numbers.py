"""The published numbers: published.csv with the remarks of remarks.csv.

published.csv has one printed number per row. remarks.csv says of some of them where they were copied from,
and what to know before comparing them; a field that is empty there stands for every value.
"""

import csv
import functools
from dataclasses import dataclass, fields
from pathlib import Path

from transfer.published.published_tasks import TASKS
from transfer.scoring.scores import DataId, Score

FOLDER = Path(__file__).parent
COLUMNS = (
    *("source", "table", "task", "metric", "method", "variant", "backbone"),
    *("epochs", "batch_size", "value"),
)
MATCHED = COLUMNS[:6]
"""The columns by which remarks.csv refers to published.csv."""


@dataclass(frozen=True)
class PublishedNumber:
    """A number as printed in a paper, a poster or slides.

    Attributes:
        source, table: where it is printed.
        task, metric: what was measured.
        method, variant: what was trained.
        backbone: such as ``ResNet-50``; empty if unknown, like the next two.
        epochs, batch_size: of pre-training; None if unknown.
        printed: the number with the digits of the source.
        copied_from: where the source has it from; empty if it is its own or unknown.
        notes: what to know before comparing it.
    """

    source: str
    table: str
    task: str
    metric: str
    method: str
    variant: str
    backbone: str
    epochs: int | None
    batch_size: int | None
    printed: str
    copied_from: str
    notes: tuple[str, ...]

    @property
    def value(self) -> float:
        """The number, in the unit of the source."""
        return float(self.printed)

    @property
    def plain_variant(self) -> str:
        """The variant without remarks on where the number is printed."""
        return self.variant.partition("; printed ")[0]

    @property
    def label(self) -> str:
        """Method and variant: ``published_label``."""
        return published_label(self.method, self.plain_variant)


@dataclass(frozen=True)
class Published(PublishedNumber):
    """A published score: a ``Score`` with a source instead of a run.

    Attributes:
        score: the number as a score of our protocol for the same task, in its unit.
    """

    score: Score


@dataclass(frozen=True)
class Remark:
    """A row of remarks.csv: ``text`` about the numbers whose columns equal ``where``."""

    where: tuple[tuple[str, str], ...]
    kind: str
    text: str


@functools.cache
def published_numbers() -> tuple[PublishedNumber, ...]:
    """All rows of published.csv, in its order.

    >>> len(published_numbers())
    515
    """
    return tuple(_number(row) for row in _rows("published.csv"))


@functools.cache
def published_scores() -> tuple[Published, ...]:
    """The rows that are scores of an evaluation protocol.

    >>> one = published_scores()[0]
    >>> one.method, one.score.name, one.score.value, one.score.data.name
    ('BYOL', 'linear top-1', 71.56, 'imagenet100')
    """
    return tuple(_published(one) for one in published_numbers() if one.task in TASKS)


def published_label(method: str, variant: str) -> str:
    """Method and variant as a paper prints them.

    >>> published_label("MSBReg", "K=4"), published_label("SwAV", "")
    ('MSBReg (K = 4)', 'SwAV')
    """
    return f"{method} ({variant.replace('K=', 'K = ')})" if variant else method


@functools.cache
def remarks() -> tuple[Remark, ...]:
    """The rows of remarks.csv."""
    return tuple(
        Remark(tuple((name, row[name]) for name in MATCHED if row[name]), row["kind"], row["text"])
        for row in _rows("remarks.csv")
    )


def remarks_on(kind: str, **where: str) -> tuple[str, ...]:
    """The texts about a number, or about an empty cell of a published table.

    Args:
        kind: ``copied_from`` or ``note``.
        where: the columns of ``MATCHED``.

    >>> remarks_on("note", source="MSBReg paper", table="Table 5", method="PIRL", variant="",
    ...            task="iNaturalist18 linear", metric="top1")
    ("PIRL's paper has 34.1, which this table omits",)
    """
    return tuple(
        remark.text
        for remark in remarks()
        if remark.kind == kind and all(where[name] == value for name, value in remark.where)
    )


def _rows(name: str) -> list[dict[str, str]]:
    with (FOLDER / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _number(row: dict[str, str]) -> PublishedNumber:
    where = {name: row[name] for name in MATCHED}
    return PublishedNumber(
        **where,
        backbone=row["backbone"],
        epochs=int(row["epochs"]) if row["epochs"] else None,
        batch_size=int(row["batch_size"]) if row["batch_size"] else None,
        printed=row["value"],
        copied_from="; ".join(remarks_on("copied_from", **where)),
        notes=remarks_on("note", **where),
    )


def _published(number: PublishedNumber) -> Published:
    task = TASKS[number.task]
    measure = task.measures[number.metric]
    rules = measure.rules or task.rules
    if task.other_rules and number.method != "MSBReg":
        rules = task.other_rules
    score = Score(
        name=measure.score,
        value=round(number.value * measure.factor, 6),
        data=DataId(task.data.name, task.data.split),
        rules=rules,
        n=task.data.images,
        unit=measure.unit,
        higher_is_better=measure.higher_is_better,
    )
    shared = {one.name: getattr(number, one.name) for one in fields(PublishedNumber)}
    return Published(**shared, score=score)
