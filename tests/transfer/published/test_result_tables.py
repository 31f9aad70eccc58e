"""Tables 1 to 5 and 10 equal published.csv, and a user's scores join in the right columns."""

import math
from dataclasses import replace

import pytest

from msbreg.backbones.architectures import ARCHITECTURES
from tests.transfer.published.made_up import score_for, settings_for
from transfer.published.paper_table import EMPTY, OurRow, OurScore, as_text
from transfer.published.published_numbers import published_numbers
from transfer.published.published_tasks import TASKS
from transfer.published.result_tables import LAYOUTS, PAPER, backbone_name, paper_tables
from transfer.scoring.scores import DataId

NUMBERS = ["1", "2", "3", "4", "5", "10"]
CELLS = [
    (number, column, index)
    for number, layout in LAYOUTS.items()
    for index, column in enumerate(layout.columns)
]


def ours(*scores, arch="resnet50", epochs=None, batch_size=None):
    return OurRow("mine", arch, tuple(scores), epochs, batch_size)


def exact(task, metric, value=12.34, **changes):
    return OurScore(score_for(task, metric, value), settings=settings_for(task, **changes))


def table(number, *rows):
    return next(one for one in paper_tables(rows, every=True) if one.number == number)


def our_rows(number, *rows):
    """The user's rows of a table as {heading: cell}, and the footnotes."""
    found = table(number, *rows)
    labels = [(heading.group, heading.text) for heading in found.columns]
    mine = [dict(zip(labels, row.cells, strict=True)) for row in found.rows if row.ours]
    return mine, dict(found.footnotes)


# ---- Published values


@pytest.mark.parametrize("number", NUMBERS)
def test_the_values_of_a_table_are_those_of_published_csv_in_its_order(number):
    cells = [cell for row in table(number).rows for cell in row.cells if cell.value is not None]
    printed = [
        one for one in published_numbers() if (one.source, one.table) == (PAPER, f"Table {number}")
    ]
    assert sorted(cell.text for cell in cells) == sorted(one.printed for one in printed)
    assert all(cell.value == float(cell.text) for cell in cells)
    labels = list(dict.fromkeys(one.method for one in printed))
    rows = [row.cells[0].text for row in table(number).rows]
    assert list(dict.fromkeys(text.partition(" (")[0] for text in rows)) == labels


@pytest.mark.parametrize(
    ("number", "label", "texts"),
    [
        ("1", "SimCLR", ["ResNet-50", EMPTY, EMPTY, EMPTY, "90.51", "85.68"]),
        ("1", "MSBReg (K = 8)", ["ResNet-18", "81.56", "95.20", "75.24", "93.19", "90.56"]),
        ("2", "W-MSE 4", ["1,024", "69.3", EMPTY, "72.56"]),
        ("2", "SwAV (with multi-crop)", ["4,096", "72.1", "73.9", "74.6"]),
        ("2", "MSBReg (K = 4)", ["512", "70.7", "73.8", "74.6"]),
        ("3", "OBoW", [EMPTY, EMPTY, "82.9", "90.7"]),
        ("3", "MSBReg (K = 4)", ["58.6", "70.6", "81.9", "90.1"]),
        ("4", "PCL", ["54.5", EMPTY]),
        ("5", "PIRL", ["81.1", "49.8", EMPTY, "80.7", "59.7", "54.0"]),
        ("5", "MSBReg (K = 4)", ["87.8", "56.4", "47.9", "83.0", "63.5", "56.7"]),
        ("10", "BYOL", ["41.6", "37.2"]),
    ],
)
def test_rows_are_those_of_the_paper(number, label, texts):
    (row,) = [row for row in table(number).rows if row.cells[0].text == label]
    assert [cell.text for cell in row.cells[1:]] == texts


def test_copies_cautions_and_epochs_have_footnotes():
    found = table("2")
    notes = dict(found.footnotes)
    rows = {row.cells[0].text: row.cells for row in found.rows}
    assert notes[rows["SimCLR"][0].marks[0]].startswith("Copied from SimSiam's reproductions")
    assert [notes[mark] for mark in rows["MSBReg (K = 4)"][-1].marks] == ["300 epochs"]
    found = table("5")
    notes = dict(found.footnotes)
    pirl = next(row.cells for row in found.rows if row.cells[0].text == "PIRL")
    assert (pirl[3].text, notes[pirl[3].marks[0]][:20]) == (EMPTY, "PIRL's paper has 34.")


@pytest.mark.parametrize("number", NUMBERS)
def test_every_footnote_is_used_and_every_mark_has_one(number):
    found = table(number, ours(*(exact(c.task, c.metric) for n, c, _ in CELLS if n == number)))
    marked = [*found.columns, *(cell for row in found.rows for cell in row.cells)]
    used = [mark for one in marked for mark in one.marks]
    assert list(dict.fromkeys(used)) == [mark for mark, _ in found.footnotes]
    assert len({text for _, text in found.footnotes}) == len(found.footnotes)


# ---- The user's rows


@pytest.mark.parametrize(
    ("number", "column", "index"), CELLS, ids=lambda value: getattr(value, "metric", str(value))
)
def test_a_score_joins_in_its_column_and_in_no_other_table(number, column, index):
    arch = "resnet18" if number == "1" else "resnet50"
    row = ours(exact(column.task, column.metric), arch=arch, epochs=column.epochs)
    (found,) = paper_tables([row])
    assert found.number == number
    (cells,) = [one.cells for one in found.rows if one.ours]
    values = cells[-len(LAYOUTS[number].columns) :]
    assert [i for i, cell in enumerate(values) if cell.value is not None] == [index]
    assert values[index].text == f"{12.34:.{LAYOUTS[number].decimals}f}"
    assert values[index].marks == ()
    assert cells[0].marks == ()


def test_the_users_rows_come_last_with_label_spread_and_scope():
    score = replace(exact("ImageNet kNN", "20-NN top1", 66.04), spread=0.21, scope="(3 seeds)")
    found = table("4", ours(score))
    assert [row.ours for row in found.rows] == [False] * 6 + [True]
    assert [cell.text for cell in found.rows[-1].cells] == ["mine", "66.0 ± 0.2 (3 seeds)", EMPTY]
    assert next(line for line in as_text(found) if line.startswith(">")).split()[:2] == [
        ">",
        "mine",
    ]


def test_only_tables_with_a_value_of_the_users_are_returned():
    digits = OurScore(score_for("ImageNet kNN", "20-NN top1", data=DataId("digits", "val"), n=720))
    assert paper_tables([ours(digits)]) == []
    assert [one.number for one in paper_tables([ours(digits)], every=True)] == NUMBERS


def test_an_undefined_score_is_an_empty_cell():
    assert paper_tables([ours(exact("ImageNet kNN", "20-NN top1", math.nan))]) == []


@pytest.mark.parametrize(
    ("epochs", "heading", "note"),
    [
        (100, "100", None),
        (200, "200", None),
        (300, "400", "300 epochs"),
        (50, "100", "50 epochs"),
        (1000, "400", "1,000 epochs"),
        (0, "100", "Not pre-trained"),
        (None, "400", "Epochs unknown"),
    ],
)
def test_table_2_has_the_column_of_the_epochs_or_a_footnote(epochs, heading, note):
    row = ours(exact("ImageNet linear", "top1"), epochs=epochs, batch_size=2048)
    (cells,), notes = our_rows("2", row)
    assert [key for key, cell in cells.items() if cell.value is not None] == [("Epochs", heading)]
    assert [notes[mark] for mark in cells["Epochs", heading].marks] == ([note] if note else [])
    assert cells["", "Batch size"].text == "2,048"


def test_another_backbone_has_a_footnote():
    row = ours(exact("ImageNet kNN", "20-NN top1"), arch="resnet18")
    (cells,), notes = our_rows("4", row)
    assert [notes[mark] for mark in cells["", "Method"].marks] == [
        "Backbone ResNet-18; the published rows have ResNet-50"
    ]


@pytest.mark.parametrize(
    ("arch", "marked"), [("resnet18", 0), ("resnet18-small", 0), ("resnet50", 0), ("resnet34", 1)]
)
def test_table_1_prints_the_backbone_and_has_a_footnote_for_a_third_one(arch, marked):
    (cells,), _ = our_rows("1", ours(exact("STL-10 linear", "top1"), arch=arch))
    assert cells["", "Backbone"].text == backbone_name(arch)
    assert len(cells["", "Method"].marks) == marked


def test_narrow_networks_are_not_called_resnet_18():
    names = {backbone_name(arch) for arch in ARCHITECTURES}
    assert len(names) == len(ARCHITECTURES)
    assert backbone_name("resnet18-narrow") == "resnet18-narrow"


def test_an_unlike_protocol_has_a_footnote_that_says_what_differs():
    task = "VOC07 linear SVM"
    row = ours(exact(task, "mAP", transform__squash=True), exact("Places205 linear", "top1"))
    (cells,), notes = our_rows("5", row)
    voc, places = (cells["Classification (%)", name] for name in ("VOC07", "Places"))
    assert [notes[mark] for mark in voc.marks] == [
        f"Unlike {TASKS[task].protocol}: transform.squash True (published: False)"
    ]
    assert places.marks == ()


def test_a_score_without_known_settings_has_a_footnote():
    row = ours(OurScore(score_for("ImageNet kNN", "20-NN top1")))
    (cells,), notes = our_rows("4", row)
    (mark,) = cells["", "20-NN (%)"].marks
    assert notes[mark].endswith("the settings of this run are unknown")


def test_scores_of_several_protocols_are_not_merged_but_get_a_row_each():
    kinds = (
        exact("Places205 linear", "top1", 50.0),
        exact("Places205 linear", "top1", 51.0, epochs=14),
    )
    rows, notes = our_rows("5", ours(*kinds, exact("VOC07 linear SVM", "mAP")))
    texts = [[row["Classification (%)", name].text for name in ("VOC07", "Places")] for row in rows]
    assert texts == [["12.3", "50.0"], [EMPTY, "51.0"]]
    (mark,) = rows[1]["", "Method"].marks or rows[1]["Classification (%)", "Places"].marks
    assert "epochs 14 (published: 28)" in notes[mark]
