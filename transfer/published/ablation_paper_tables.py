"""Tables 6, 7, 8, 11 and 12 of the paper (arXiv 2207.03552), with a user's own ablations beside them.

The user's values come from the files table.json of pretrain/ablate.py, whose rows have the names that
``_name_*`` derive from published.csv. Table 12 has no ablation of its own: three of its four networks are
rows of Table 8.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msbreg.run.errors import UserError
from msbreg.run.json_files import NUMBER, Shape, is_number, misfits
from transfer.published.paper_table import (
    EMPTY,
    SOURCE,
    Cell,
    Heading,
    Marks,
    PaperTable,
    TableRow,
    value_text,
)
from transfer.published.published_numbers import (
    PublishedNumber,
    published_label,
    published_numbers,
)
from transfer.published.result_tables import PAPER

OUR_DECIMALS = 1


@dataclass(frozen=True)
class Place:
    """Where a published number stands.

    Attributes:
        name: of the row in table.json; empty if no ablation has it.
        labels: its cells before the values.
        group: heading above its columns; empty if the table has one column of values.
    """

    name: str
    labels: tuple[str, ...]
    group: str = ""


@dataclass(frozen=True)
class Layout:
    """What a table of an ablation contains.

    Attributes:
        labels: headings of the cells before the values.
        place: published number -> where it stands.
        records_of: number of the table in table.json.
        data: the published score, its data and network.
    """

    title: str
    labels: tuple[str, ...]
    place: Callable[[PublishedNumber], Place]
    records_of: str
    data: str


def _variant(number: PublishedNumber) -> dict[str, str]:
    """``K=4; Lc=1`` as a mapping."""
    pairs = (part.partition("=") for part in number.variant.split("; ") if part)
    return {name: value for name, _, value in pairs}


def _place_6(number: PublishedNumber) -> Place:
    of = _variant(number)
    weight = f"{float(of['lambda_b']):g}"
    method = "msbreg" if number.method == "MSBReg" else "byol"
    return Place(
        f"{method}-{of['norm'].lower()}-{number.batch_size}-{weight}",
        (number.method, of["norm"], str(number.batch_size), weight),
    )


def _place_7(number: PublishedNumber) -> Place:
    names = {"BYOL": "byol", "BYOL+multi-crop": "byol-multicrop", "MSBReg": "msbreg"}
    return Place(
        f"{names[number.method]}-{number.epochs}",
        (published_label(number.method, number.variant),),
        f"{number.epochs} epochs",
    )


def _place_8(number: PublishedNumber) -> Place:
    of = _variant(number)
    terms = ("Lc", "Lb", "Ls")
    views = of.get("K", "2")
    name = "-".join([f"k{views}", *(term[1] for term in terms[1:] if of[term] == "1")])
    label = published_label(number.method, f"K={views}" if "K" in of else "")
    return Place(name, (label, *("yes" if of[term] == "1" else "no" for term in terms)))


def _place_11(number: PublishedNumber) -> Place:
    of = _variant(number)
    weights = tuple(f"{float(of[name]):g}" for name in ("lambda_s", "lambda_b"))
    name = f"k{of['K']}-s{weights[0]}-b{weights[1]}"
    return Place(name, weights, f"K = {of['K']}")


def _place_12(number: PublishedNumber) -> Place:
    names = {"BYOL": "k2", "BYOL+L_b+L_s": "k2-b-s", "MSBReg": "k4-b-s"}
    name = names.get(number.method, "") if number.metric == "top1" else ""
    group = "Acc. (%)" if number.metric == "top1" else number.metric.capitalize()
    return Place(name, (published_label(number.method, number.variant),), group)


_IMAGENET100 = "linear top-1 of ImageNet-100, ResNet-18"
LAYOUTS: dict[str, Layout] = {
    "6": Layout(
        "Brownian loss against collapse without BatchNorm",
        ("Method", "Norm", "Batch size", "λ_b"),
        _place_6,
        "6",
        "linear top-1 of STL-10, ResNet-18",
    ),
    "7": Layout(
        "More views against multi-crop",
        ("Method",),
        _place_7,
        "7",
        "linear top-1 of ImageNet, ResNet-50",
    ),
    "8": Layout("Terms of the loss", ("Method", "L_c", "L_b", "L_s"), _place_8, "8", _IMAGENET100),
    "11": Layout("Weights of the terms", ("λ_s", "λ_b"), _place_11, "11", _IMAGENET100),
    "12": Layout("Alignment and uniformity", ("Method",), _place_12, "8", _IMAGENET100),
}
"""Number of the table -> its content. Table 13 repeats Table 6."""


def ablation_paper_tables(
    records: Sequence[Mapping[str, Any]], *, every: bool = False
) -> list[PaperTable]:
    """Tables 6, 7, 8, 11 and 12 with the user's values in columns beside the published ones.

    Args:
        records: contents of table.json files of pretrain/ablate.py.
        every: also return tables without any value of the user's.

    Raises:
        UserError: a record is not a table of pretrain/ablate.py.

    >>> [table.number for table in ablation_paper_tables([], every=True)]
    ['6', '7', '8', '11', '12']
    """
    for record in records:
        _check(record)
    tables = [
        _table(number, layout, [one for one in records if one["table"] == layout.records_of])
        for number, layout in LAYOUTS.items()
    ]
    return [table for table in tables if every or table.has_ours]


# ---- The records

_RECORD: Shape = {"table": str, "note": str, "rows": list}
_ROW: Shape = {"name": str, "columns": dict, "scores": dict, "failures": dict}
_SCORE: Shape = {
    **{"score": (str, type(None)), "data": (str, type(None)), "seeds": dict},
    **{"mean": (*NUMBER, type(None)), "std": (*NUMBER, type(None))},
}


def _check(record: Any) -> None:
    expected = "expected the content of a table.json that pretrain/ablate.py wrote"
    wrong = misfits(record, _RECORD)
    if not wrong:
        for row in record["rows"]:
            wrong += [f"rows.{name}" for name in misfits(row, _ROW)]
            scores = row["scores"].values() if not wrong else ()
            wrong += [f"rows.scores.{name}" for one in scores for name in misfits(one, _SCORE)]
    if wrong:
        raise UserError(
            f"the record of an ablation lacks {', '.join(dict.fromkeys(wrong))}, or has another type; "
            f"{expected}"
        )
    numbers = sorted({layout.records_of for layout in LAYOUTS.values()}, key=int)
    if record["table"] not in numbers:
        raise UserError(
            f"the record of an ablation is of Table {record['table'][:20]}; expected Table "
            f"{', '.join(numbers[:-1])} or {numbers[-1]}"
        )
    places = _places(LAYOUTS[record["table"]], record["table"])
    known = {place.name for place, _ in places}
    unknown = [row["name"] for row in record["rows"] if row["name"] not in known]
    if unknown:
        raise UserError(
            f"the record of an ablation has the row {unknown[0][:60]!r}, which is not in Table "
            f"{record['table']}; {expected}"
        )


@dataclass(frozen=True)
class _Ours:
    """One of the user's columns: an evaluation of an ablation."""

    record: Mapping[str, Any]
    evaluation: str

    @property
    def heading(self) -> str:
        known = (row["scores"].get(self.evaluation) for row in self.record["rows"])
        one = next((score for score in known if score and score["data"]), None)
        return f"ours: {one['score']}, {one['data']}" if one else f"ours: {self.evaluation}"

    def cell(self, name: str) -> tuple[str, float | None]:
        """The text of a row's cell, and its value."""
        row = next((row for row in self.record["rows"] if row["name"] == name), None)
        score = row["scores"].get(self.evaluation) if row else None
        if row is None or score is None:
            return EMPTY, None
        failed = f"failed: seed {', '.join(row['failures'])}" if row["failures"] else ""
        if not is_number(score["mean"]):
            return failed or EMPTY, None
        seeds = len(score["seeds"])
        scope = f"({seeds} seeds)" if seeds > 1 else "(1 seed)"
        text = value_text(score["mean"], score["std"], scope, OUR_DECIMALS)
        return f"{text}, {failed}" if failed else text, float(score["mean"])


def _columns_of(record: Mapping[str, Any]) -> Iterator[_Ours]:
    evaluations = dict.fromkeys(name for row in record["rows"] for name in row["scores"])
    return (_Ours(record, evaluation) for evaluation in evaluations)


# ---- The tables


def _places(layout: Layout, number: str) -> list[tuple[Place, PublishedNumber]]:
    return [
        (layout.place(one), one)
        for one in published_numbers()
        if (one.source, one.table) == (PAPER, f"Table {number}")
    ]


def _table(number: str, layout: Layout, records: Sequence[Mapping[str, Any]]) -> PaperTable:
    marks = Marks()
    placed = _places(layout, number)
    groups = list(dict.fromkeys(place.group for place, _ in placed))
    ours = [column for record in records for column in _columns_of(record)]
    headings = [Heading(text) for text in layout.labels]
    answered = {place.group for place, _ in placed if place.name}
    for group in groups:
        better = not group.endswith("loss")
        headings.append(Heading("paper", group, numeric=True, higher_is_better=better))
        headings += [
            Heading(one.heading, group, marks.of(_notes(one, number)), numeric=True, ours=True)
            for one in ours
            if group in answered
        ]
    by_labels: dict[tuple[str, ...], dict[str, tuple[Place, PublishedNumber]]] = {}
    for place, one in placed:
        by_labels.setdefault(place.labels, {})[place.group] = (place, one)
    rows = []
    for labels, of_group in by_labels.items():
        cells = [Cell(text) for text in labels]
        for group in groups:
            place, one = of_group[group]
            cells.append(Cell(one.printed, marks.of(one.notes), one.value))
            if group in answered:
                cells += [_our_cell(column, place, marks) for column in ours]
        rows.append(TableRow(tuple(cells)))
    title = f"{layout.title} ({layout.data})"
    return PaperTable(number, title, SOURCE, tuple(headings), tuple(rows), marks.footnotes)


def _notes(column: _Ours, number: str) -> list[str]:
    """What to know about one of the user's columns."""
    another = column.record["table"] != number
    return [
        column.record["note"],
        f"From the ablation of Table {column.record['table']}" if another else "",
    ]


def _our_cell(column: _Ours, place: Place, marks: Marks) -> Cell:
    text, value = column.cell(place.name) if place.name else (EMPTY, None)
    return Cell(text, marks.of([_other_views(column, place)]) if value is not None else (), value)


def _other_views(column: _Ours, place: Place) -> str:
    """A footnote if the user's MSBReg has another number of views than the paper's."""
    row = next(row for row in column.record["rows"] if row["name"] == place.name)
    label = str(row["columns"].get("method", ""))
    published = place.labels[0]
    if "(K = " in label and "(K = " in published and label != published:
        return f"{label} here"
    return ""
