"""Tables 6, 7, 8, 11 and 12 equal published.csv, and the user's ablations stand beside the paper's values."""

import functools

import pytest

from msbreg.run.config import plain
from msbreg.run.errors import UserError
from pretrain.ablation_results import NOTE
from pretrain.ablation_tables import TABLES
from pretrain.recipe import Config
from transfer.published.ablation_paper_tables import LAYOUTS, ablation_paper_tables
from transfer.published.paper_table import EMPTY
from transfer.published.published_numbers import published_numbers


def record(number, *, views=4, **means):
    """The content of a table.json; ``means`` gives some of its rows a mean over three seeds."""
    rows = []
    for row in TABLES[number].rows(Config(views=views)):
        mean = means.get(row.name.replace("-", "_").replace(".", "_"))
        score = {
            "score": "kNN monitor",
            "data": "digits, held-out training images",
            "seeds": {} if mean is None else {"0": mean, "1": mean, "2": mean},
            "mean": mean,
            "std": None if mean is None else 1.25,
        }
        rows.append(
            {
                "name": row.name,
                "columns": dict(row.columns),
                "settings": plain(dict(row.settings)),
                "scores": {"monitor": score},
                "failures": {},
            }
        )
    return {"table": number, "note": NOTE, "rows": rows}


def table(number, *records):
    return next(one for one in ablation_paper_tables(records, every=True) if one.number == number)


def columns(found, *, ours):
    """The value columns: (group, heading) -> texts."""
    return {
        (heading.group, heading.text): [row.cells[i].text for row in found.rows]
        for i, heading in enumerate(found.columns)
        if heading.numeric and heading.ours is ours
    }


@pytest.mark.parametrize("number", LAYOUTS)
def test_the_paper_s_values_are_those_of_published_csv(number):
    texts = [text for column in columns(table(number), ours=False).values() for text in column]
    printed = [
        one.printed
        for one in published_numbers()
        if (one.source, one.table) == ("MSBReg paper", f"Table {number}")
    ]
    assert sorted(texts) == sorted(printed)


@pytest.mark.parametrize("number", TABLES)
def test_every_row_of_an_ablation_stands_beside_the_paper_s_value_of_that_row(number):
    rows = list(TABLES[number].rows(Config(views=4)))
    means = {r.name.replace("-", "_").replace(".", "_"): r.paper for r in rows}
    found = table(number, record(number, **means))
    paper, ours = columns(found, ours=False), columns(found, ours=True)
    assert len(paper) == len(ours)
    pairs = 0
    for (_, left), (_, right) in zip(paper.items(), ours.items(), strict=True):
        for printed, text in zip(left, right, strict=True):
            assert text == f"{float(printed):.1f} ± 1.2 (3 seeds)"
            pairs += 1
    assert pairs == len(rows)


def test_only_tables_with_values_of_the_users_are_returned():
    assert ablation_paper_tables([]) == []
    assert ablation_paper_tables([record("8")]) == []
    assert [one.number for one in ablation_paper_tables([record("6", byol_bn_256_0=50.0)])] == ["6"]


def test_table_12_takes_its_networks_from_the_ablation_of_table_8():
    means = {"k2": 50.0, "k2_b_s": 51.0, "k4_b_s": 60.0, "k8": 70.0}
    found = table("12", record("8", **means))
    assert [row.cells[0].text for row in found.rows] == [
        *("BYOL", "BYOL+L_uniform", "BYOL+L_b+L_s", "MSBReg (K = 4)"),
    ]
    ((heading, texts),) = columns(found, ours=True).items()
    assert heading == ("Acc. (%)", "ours: kNN monitor, digits, held-out training images")
    assert [text.partition(" ")[0] for text in texts] == ["50.0", EMPTY, "51.0", "60.0"]
    ours = next(one for one in found.columns if one.ours)
    notes = dict(found.footnotes)
    assert [notes[mark] for mark in ours.marks] == [NOTE, "From the ablation of Table 8"]
    directions = {one.group: one.higher_is_better for one in found.columns if not one.ours}
    assert directions["Uniformity loss"] is directions["Alignment loss"] is False


def test_another_number_of_views_has_a_footnote():
    found = table("7", record("7", views=2, msbreg_300=60.0, byol_300=50.0))
    notes = dict(found.footnotes)
    byol, _, msbreg = (row.cells[-1] for row in found.rows)
    assert [notes[mark] for mark in msbreg.marks] == ["MSBReg (K = 2) here"]
    assert byol.marks == ()


def test_failed_seeds_are_shown():
    content = record("8", k2=50.0)
    content["rows"][0]["failures"] = {"2": "diverged"}
    content["rows"][1]["failures"] = {"0": "diverged", "1": "diverged"}
    (texts,) = columns(table("8", content), ours=True).values()
    assert texts[:3] == ["50.0 ± 1.2 (3 seeds), failed: seed 2", "failed: seed 0, 1", EMPTY]


def test_every_evaluation_of_every_record_has_a_column():
    content = record("6", byol_bn_256_0=50.0)
    for row in content["rows"]:
        row["scores"]["linear"] = {**row["scores"]["monitor"], "score": "linear top-1", "data": "d"}
    found = table("6", content, record("6", byol_bn_256_0=40.0))
    assert [one.text for one in found.columns if one.ours] == [
        "ours: kNN monitor, digits, held-out training images",
        "ours: linear top-1, d",
        "ours: kNN monitor, digits, held-out training images",
    ]


def change(content, path, value):
    *groups, last = path
    functools.reduce(lambda inner, name: inner[name], groups, content)[last] = value
    return content


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["table"], 8, "lacks table"),
        (["table"], "5", "is of Table 5; expected Table 6, 7, 8 or 11"),
        (["rows", 0, "name"], "k3", "row 'k3', which is not in Table 8"),
        (["rows", 0, "scores"], [], r"lacks rows\.scores"),
        (["rows", 0, "scores", "monitor", "mean"], "high", r"lacks rows\.scores\.mean"),
        (["rows", 0], "text", r"lacks rows\.a mapping"),
    ],
)
def test_a_record_of_something_else_is_refused(path, value, message):
    with pytest.raises(UserError, match=message):
        ablation_paper_tables([change(record("8"), path, value)])
