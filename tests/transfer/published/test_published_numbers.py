"""published.csv and remarks.csv: columns, values, and what refers to what."""

import csv
import math
import re
from collections import Counter

import pytest

from msbreg.run.json_files import is_number
from transfer.published.published_numbers import (
    COLUMNS,
    FOLDER,
    MATCHED,
    published_numbers,
    published_scores,
    remarks,
)
from transfer.published.published_tasks import ABLATIONS, NOT_SCORES, TASKS

SOURCES = {"MSBReg paper": 270, "BMWReg poster": 35, "BYOL slides": 36, "SSL slides": 174}


def rows(name):
    with (FOLDER / name).open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        return tuple(reader.fieldnames), list(reader)


def find(source, table, method, task, metric="top1", **others):
    (one,) = (
        number
        for number in published_numbers()
        if (number.source, number.table, number.method) == (source, table, method)
        and (number.task, number.metric) == (task, metric)
        and all(getattr(number, name) == value for name, value in others.items())
    )
    return one


def test_the_columns_are_the_documented_ones_and_every_source_has_its_rows():
    columns, content = rows("published.csv")
    assert columns == COLUMNS
    assert Counter(row["source"] for row in content) == SOURCES


def test_every_value_is_a_finite_number_as_printed():
    for number in published_numbers():
        assert re.fullmatch(r"-?\d+(\.\d+)?", number.printed), number
        assert math.isfinite(number.value)


def test_no_number_is_listed_twice():
    names = (*MATCHED, "epochs", "batch_size", "backbone")
    keys = Counter(tuple(getattr(number, name) for name in names) for number in published_numbers())
    assert [key for key, count in keys.items() if count > 1] == []


def test_every_row_is_a_score_of_a_task_or_is_listed_as_none():
    assert set(TASKS) & set(NOT_SCORES) == set()
    assert {number.task for number in published_numbers()} == set(TASKS) | set(NOT_SCORES)
    scores = [number for number in published_numbers() if number.task in TASKS]
    assert [one.printed for one in published_scores()] == [one.printed for one in scores]


def test_every_metric_of_a_task_has_published_scores():
    used = {(one.task, one.metric) for one in published_scores()}
    assert used == {(task, metric) for task, of in TASKS.items() for metric in of.measures}


def test_a_published_score_is_a_score_without_a_fingerprint():
    for one in published_scores():
        fields = one.score.as_dict()
        assert is_number(fields["value"])
        assert fields["data"]["fingerprint"] == ""
        assert one.score.rules
        assert one.score.stderr is None
        if one.score.unit == "%":
            assert 0 <= one.score.value <= 100


def test_depth_errors_are_in_the_units_of_our_scores():
    values = {
        one.metric: (one.score.value, one.score.unit, one.score.higher_is_better)
        for one in published_scores()
        if one.task == "NYUv2 depth" and one.method == "BYOL"
    }
    assert values["rms"] == (54.1, "cm", False)
    assert values["rel"] == (12.9, "%", False)
    assert values["pct<1.25"] == (84.6, "%", True)


def test_the_encoder_is_frozen_in_the_rules_of_msbreg_at_1_percent_only():
    rules = {
        one.method: one.score.rules
        for one in published_scores()
        if one.task == "ImageNet semi-supervised 1%"
    }
    assert rules.pop("MSBReg").startswith("linear layer on a frozen network")
    assert set(rules.values()) == {"fine-tuned network, trained on train-1pct"}


# ---- Remarks


def test_every_remark_is_about_a_published_number_or_an_empty_cell_of_its_table():
    columns, content = rows("remarks.csv")
    assert columns == (*MATCHED, "kind", "text")
    assert {row["kind"] for row in content} == {"copied_from", "note"}
    numbers = published_numbers()
    for remark in remarks():
        assert remark.text
        where = dict(remark.where)
        told = [
            n for n in numbers if all(getattr(n, name) == value for name, value in where.items())
        ]
        if not told:  # the cell is empty: its row and its column exist
            in_table = [
                n for n in numbers if (n.source, n.table) == (where["source"], where["table"])
            ]
            assert where["method"] in {n.method for n in in_table}, remark
            assert where["task"] in {n.task for n in in_table}, remark


@pytest.mark.parametrize("method", ["BYOL", "SimCLR", "MoCo v2", "SwAV", "SimSiam"])
def test_the_baselines_of_table_2_are_those_of_simsiam(method):
    for epochs in (100, 200, 400):
        variant = {"variant": "w.o. multi-crop"} if method == "SwAV" else {}
        copy = find("MSBReg paper", "Table 2", method, "ImageNet linear", epochs=epochs, **variant)
        original = find(
            "SSL slides", "SimSiam comparison", method, "ImageNet linear", epochs=epochs
        )
        assert copy.printed == original.printed
        assert copy.copied_from.startswith("SimSiam")


@pytest.mark.parametrize("method", ["MoCo v2", "BYOL", "Barlow Twins"])
@pytest.mark.parametrize(
    ("task", "metric"),
    [
        ("VOC07 linear SVM", "mAP"),
        ("Places205 linear", "top1"),
        ("iNaturalist18 linear", "top1"),
    ],
)
def test_classification_baselines_of_table_5_are_those_of_barlow_twins(method, task, metric):
    copy = find("MSBReg paper", "Table 5", method, task, metric)
    assert copy.printed == find("SSL slides", "Barlow Twins Table 3", method, task, metric).printed
    assert copy.copied_from == "Barlow Twins, arXiv 2103.03230, Table 3"


def test_a_number_that_other_sources_print_differently_has_a_note():
    copy = find("MSBReg paper", "Table 5", "SwAV", "Places205 linear")
    other = find("SSL slides", "Barlow Twins Table 3", "SwAV", "Places205 linear", variant="")
    assert (copy.printed, other.printed) == ("56.5", "56.7")
    assert copy.notes == ("Barlow Twins and VICReg have 56.7",)


@pytest.mark.parametrize(
    ("table", "method", "task", "metric", "note"),
    [
        ("Table 1", "SimCLR", "STL-10 linear", "top1", "used ResNet-18 for STL-10"),
        ("Table 1", "BYOL", "STL-10 kNN", "5-NN top1", "91.99 (linear) and 88.64 (5-NN)"),
        ("Table 3", "Barlow Twins", "ImageNet semi-supervised 1%", "top1", "has 55.0"),
        ("Table 4", "MSBReg", "ImageNet kNN", "20-NN top1", "BYOL 66.7"),
        ("Table 4", "MSBReg", "ImageNet kNN", "200-NN top1", "BYOL 64.9"),
        ("Table 5", "BoWNet", "VOC07+12 detection Faster R-CNN C4", "AP", "have 55.8"),
        ("Table 5", "MSBReg", "VOC07+12 detection Faster R-CNN C4", "AP50", "within the noise"),
        ("Table 5", "SwAV", "VOC07+12 detection Faster R-CNN C4", "AP50", "learning rate 0.1 "),
    ],
)
def test_cautions_stand_at_their_numbers_and_at_no_other_metric(table, method, task, metric, note):
    (found,) = find("MSBReg paper", table, method, task, metric).notes
    assert note in found


def test_numbers_of_unknown_origin_are_not_said_to_be_copied():
    assert (
        find("MSBReg paper", "Table 10", "OBoW", *("COCO Mask R-CNN FPN 90k", "AP_bb")).copied_from
        == ""
    )
    own = [n for n in published_numbers() if n.method == "MSBReg"]
    assert {n.copied_from for n in own} == {""}


def test_tables_of_ablations_exist():
    assert {(n.source, n.table) for n in published_numbers()} >= ABLATIONS
