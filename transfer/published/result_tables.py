"""Tables 1 to 5 and 10 of the paper (arXiv 2207.03552), with a user's own rows."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from transfer.published.paper_table import (
    EMPTY,
    SOURCE,
    Cell,
    Heading,
    Marks,
    OurRow,
    OurScore,
    PaperTable,
    TableRow,
)
from transfer.published.published_numbers import (
    PublishedNumber,
    published_numbers,
    remarks_on,
)
from transfer.published.published_tasks import TASKS
from transfer.published.task_matching import protocol_differences, task_of

PAPER = "MSBReg paper"


@dataclass(frozen=True)
class Column:
    """A column of scores; ``epochs`` if the table has one for each number of epochs."""

    heading: str
    task: str
    metric: str
    group: str = ""
    epochs: int | None = None


@dataclass(frozen=True)
class Layout:
    """What a table of the paper contains.

    Attributes:
        backbones: those of the published rows.
        shows: further columns after the method: ``backbone``, ``batch size``.
        decimals: of the user's values.
    """

    title: str
    columns: tuple[Column, ...]
    backbones: tuple[str, ...] = ("ResNet-50",)
    shows: tuple[str, ...] = ()
    decimals: int = 1


_SMALL = ("ImageNet-100", "STL-10")
_CLASSIFICATION, _DETECTION = "Classification (%)", "VOC detection"
_C4, _COCO = "VOC07+12 detection Faster R-CNN C4", "COCO Mask R-CNN FPN 90k"

LAYOUTS: dict[str, Layout] = {
    "1": Layout(
        "Linear and 5-NN classification of ImageNet-100 and STL-10",
        (
            Column("Top-1 (%)", "ImageNet-100 linear", "top1", _SMALL[0]),
            Column("Top-5 (%)", "ImageNet-100 linear", "top5", _SMALL[0]),
            Column("5-NN (%)", "ImageNet-100 kNN", "5-NN top1", _SMALL[0]),
            Column("Top-1 (%)", "STL-10 linear", "top1", _SMALL[1]),
            Column("5-NN (%)", "STL-10 kNN", "5-NN top1", _SMALL[1]),
        ),
        backbones=("ResNet-18", "ResNet-50"),
        shows=("backbone",),
        decimals=2,
    ),
    "2": Layout(
        "Linear classification of ImageNet, top-1 (%)",
        tuple(
            Column(str(epochs), "ImageNet linear", "top1", "Epochs", epochs)
            for epochs in (100, 200, 400)
        ),
        shows=("batch size",),
    ),
    "3": Layout(
        "Classification of ImageNet with 1 % and 10 % of the labels",
        tuple(
            Column(share, f"ImageNet semi-supervised {share}", metric, group)
            for metric, group in (("top1", "Top-1 (%)"), ("top5", "Top-5 (%)"))
            for share in ("1%", "10%")
        ),
    ),
    "4": Layout(
        "kNN classification of ImageNet",
        tuple(Column(f"{k}-NN (%)", "ImageNet kNN", f"{k}-NN top1") for k in (20, 200)),
    ),
    "5": Layout(
        "Transfer: classification with frozen features, and detection",
        (
            Column("VOC07", "VOC07 linear SVM", "mAP", _CLASSIFICATION),
            Column("Places", "Places205 linear", "top1", _CLASSIFICATION),
            Column("iNat18", "iNaturalist18 linear", "top1", _CLASSIFICATION),
            Column("AP50", _C4, "AP50", _DETECTION),
            Column("AP75", _C4, "AP75", _DETECTION),
            Column("APall", _C4, "AP", _DETECTION),
        ),
    ),
    "10": Layout(
        "Instance segmentation of COCO",
        (Column("APbb", _COCO, "AP_bb"), Column("APmk", _COCO, "AP_mk")),
    ),
}
"""Number of the table -> its columns, in the order of the paper."""


def paper_tables(rows: Sequence[OurRow], *, every: bool = False) -> list[PaperTable]:
    """Tables 1, 2, 3, 4, 5 and 10 with the user's rows after the published ones.

    A score whose protocol differs from that of its column, or may differ, has a footnote that says in what;
    so has a row with another backbone than the published ones.

    Args:
        every: also return tables in which no user's row has a cell.

    >>> [table.number for table in paper_tables([], every=True)], paper_tables([])
    (['1', '2', '3', '4', '5', '10'], [])
    """
    tables = [_table(number, layout, rows) for number, layout in LAYOUTS.items()]
    return [table for table in tables if every or table.has_ours]


def backbone_name(arch: str) -> str:
    """The name of an architecture as papers print it.

    >>> backbone_name("resnet50"), backbone_name("resnet18-small"), backbone_name("vit_small")
    ('ResNet-50', 'ResNet-18, small stem', 'vit_small')
    """
    found = re.fullmatch(r"resnet(\d+)(?:-(small|cifar))?", arch)
    if not found:
        return arch
    return f"ResNet-{found[1]}" + (f", {found[2]} stem" if found[2] else "")


# ---- A table


def _table(number: str, layout: Layout, ours: Sequence[OurRow]) -> PaperTable:
    marks = Marks()
    headings = (
        Heading("Method"),
        *(Heading(name.capitalize()) for name in layout.shows),
        *(
            Heading(
                column.heading,
                column.group,
                marks.of([TASKS[column.task].unstated]),
                numeric=True,
            )
            for column in layout.columns
        ),
    )
    table = f"Table {number}"
    rows = [_published_row(table, layout, row, marks) for row in _published_rows(table)]
    rows += [row for one in ours for row in _our_rows(layout, one, marks)]
    return PaperTable(number, layout.title, SOURCE, headings, tuple(rows), marks.footnotes)


@dataclass
class _Value:
    """A value before its footnotes have marks."""

    text: str = EMPTY
    value: float | None = None
    notes: list[str] = field(default_factory=list)


def _row(
    label: str, label_notes: Iterable[str], shown: Sequence[str], values: Sequence[_Value], *,
    marks: Marks, ours: bool = False,
) -> TableRow:  # fmt: skip
    """A row; notes on all of its values stand once, at the label."""
    filled = [one for one in values if one.value is not None]
    shared = filled[0].notes if len(filled) > 1 else []
    common = [note for note in shared if all(note in one.notes for one in filled)]
    elsewhere = {note for one in filled for note in one.notes}
    cells = [Cell(label, marks.of([*label_notes, *common])), *(Cell(text) for text in shown)]
    for one in values:
        known = common if one.value is not None else elsewhere  # an empty cell repeats no note
        marked = marks.of(note for note in one.notes if note not in known)
        cells.append(Cell(one.text, marked, one.value))
    return TableRow(tuple(cells), ours)


# ---- Published rows


def _published_rows(table: str) -> list[list[PublishedNumber]]:
    """The numbers of each row of a table, in the order of the paper."""
    rows: dict[tuple[object, ...], list[PublishedNumber]] = {}
    for number in published_numbers():
        if (number.source, number.table) == (PAPER, table):
            key = (number.method, number.plain_variant, number.backbone, number.batch_size)
            rows.setdefault(key if table == "Table 2" else key[:3], []).append(number)
    return list(rows.values())


def _published_row(
    table: str, layout: Layout, numbers: Sequence[PublishedNumber], marks: Marks
) -> TableRow:
    first = numbers[0]
    values = [_published_value(table, column, numbers) for column in layout.columns]
    shown = {
        "backbone": first.backbone,
        "batch size": EMPTY if first.batch_size is None else f"{first.batch_size:,}",
    }
    return _row(first.label, (), [shown[name] for name in layout.shows], values, marks=marks)


def _published_value(table: str, column: Column, numbers: Sequence[PublishedNumber]) -> _Value:
    first = numbers[0]
    for one in numbers:
        if (one.task, one.metric) != (column.task, column.metric):
            continue
        if column.epochs is not None and _column_epochs(one.epochs) != column.epochs:
            continue
        copied = f"Copied from {one.copied_from}" if one.copied_from else ""
        notes = [copied, *one.notes, _other_epochs(column, one.epochs)]
        return _Value(one.printed, one.value, [note for note in notes if note])
    about = remarks_on(
        "note",
        **{"source": PAPER, "table": table, "method": first.method, "variant": first.variant},
        **{"task": column.task, "metric": column.metric},
    )
    return _Value(notes=[] if column.epochs is not None else list(about))


# ---- The user's rows


def _our_rows(layout: Layout, row: OurRow, marks: Marks) -> list[TableRow]:
    """One row; more if several scores, of different protocols, answer the same column."""
    answers = [(task_of(one.score, one.settings), one) for one in row.scores]
    by_column = [
        [one for task, one in answers if task == (column.task, column.metric)]
        if column.epochs in (None, _column_epochs(row.epochs))
        else []
        for column in layout.columns
    ]
    backbone = backbone_name(row.arch)
    another = ""
    if not any(backbone == b or backbone.startswith(f"{b},") for b in layout.backbones):
        another = f"Backbone {backbone}; the published rows have {' or '.join(layout.backbones)}"
    shown = {
        "backbone": backbone,
        "batch size": EMPTY if row.batch_size is None else f"{row.batch_size:,}",
    }
    return [
        _row(
            row.label,
            [another],
            [shown[name] for name in layout.shows],
            [
                _our_value(layout, column, row, score)
                for column, score in zip(layout.columns, scores, strict=True)
            ],
            marks=marks,
            ours=True,
        )
        for scores in zip_longest(*by_column)
    ]


def _our_value(layout: Layout, column: Column, row: OurRow, one: OurScore | None) -> _Value:
    if one is None or not math.isfinite(one.score.value):
        return _Value()
    notes = [protocol_differences(one.score, one.settings), _other_epochs(column, row.epochs)]
    return _Value(one.text(layout.decimals), one.score.value, [note for note in notes if note])


def _column_epochs(epochs: int | None) -> int:
    """The column of Table 2: the first with at least as many epochs, else the last, as in the paper."""
    columns = [column.epochs or 0 for column in LAYOUTS["2"].columns]
    return next((one for one in columns if epochs is not None and epochs <= one), columns[-1])


def _other_epochs(column: Column, epochs: int | None) -> str:
    if column.epochs is None or column.epochs == epochs:
        return ""
    if not epochs:
        return "Epochs unknown" if epochs is None else "Not pre-trained"
    return f"{epochs:,} epochs"
