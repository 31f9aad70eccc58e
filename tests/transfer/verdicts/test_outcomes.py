"""Outcomes on disk: what was written is read again, and damaged files are named."""

import dataclasses
import json

import numpy as np
import pytest

from msbreg.run.errors import UserError
from transfer.scoring.predictions import packed
from transfer.scoring.scores import DataId, Score
from transfer.verdicts import outcomes as files
from transfer.verdicts.measured import measured
from transfer.verdicts.outcome_kinds import (
    group_outcomes,
    mean_iou_outcomes,
    mean_outcomes,
    ranking_outcomes,
)
from transfer.verdicts.outcomes import (
    FILE,
    digest_of_units,
    load_outcomes,
    outcomes_of,
    save_outcomes,
)

UNITS = digest_of_units(["a", "b", "c", "d"])
HITS, LABELS = np.array([1, 0, 1, 1], bool), np.array([0, 1, 1, 0])


def score(name):
    return Score(name, 75.0, DataId("digits", "val", "fe91"), "rules", n=4)


def two():
    return (
        mean_outcomes(score("top-1"), UNITS, HITS),
        group_outcomes(score("mean per class"), UNITS, HITS, LABELS, 2),
    )


def test_saved_outcomes_are_read_again(tmp_path):
    decisions = np.random.default_rng(0).normal(size=(4, 3))
    labels = np.array([[1, -1, 0]] * 4)
    unions = np.array([[4, 0], [0, 9], [1, 1], [0, 0]])
    saved = (
        *two(),
        ranking_outcomes(score("mAP"), UNITS, decisions, labels, curve="area"),
        mean_iou_outcomes(score("mIoU"), UNITS, unions // 2, unions),
    )
    save_outcomes(tmp_path, saved)
    loaded = load_outcomes(tmp_path)
    for before, after in zip(saved, loaded, strict=True):
        for name in ("score", "rules", "data", "units", "count", "kind", "settings"):
            assert getattr(before, name) == getattr(after, name)
        assert before.arrays.keys() == after.arrays.keys()
        for name, array in before.arrays.items():
            np.testing.assert_array_equal(array, after.arrays[name])
    assert not list(tmp_path.glob(".*"))  # no temporary file


def test_equal_outcomes_give_equal_files_and_shared_arrays_are_stored_once(tmp_path):
    save_outcomes(tmp_path, two())
    first = (tmp_path / FILE).read_bytes()
    save_outcomes(tmp_path, two())
    assert (tmp_path / FILE).read_bytes() == first
    with np.load(tmp_path / FILE) as stored:
        assert len(stored.files) == 3  # the header, hits and classes


def test_fifty_thousand_images_take_less_than_a_tenth_of_a_megabyte(tmp_path):
    rng = np.random.default_rng(0)
    hits, labels = rng.random(50_000) < 0.7, np.repeat(np.arange(1000), 50)
    each = (
        mean_outcomes(score("top-1"), UNITS, hits),
        mean_outcomes(score("top-5"), UNITS, hits | (rng.random(50_000) < 0.5)),
        group_outcomes(score("mean per class"), UNITS, hits, labels, 1000),
    )
    save_outcomes(tmp_path, each)
    assert (tmp_path / FILE).stat().st_size < 100_000


def test_a_run_of_an_earlier_version_has_none(tmp_path):
    assert load_outcomes(tmp_path) == ()


def test_the_outcomes_of_a_score_have_its_name_rules_and_data():
    assert outcomes_of(score("mean per class"), two()) is not None
    assert outcomes_of(score("mIoU"), two()) is None
    other = dataclasses.replace(score("top-1"), data=DataId("digits", "val", "0000"))
    assert outcomes_of(other, two()) is None


def test_a_score_without_a_value_has_none():
    undefined = Score("mIoU", float("nan"), DataId("x", ""), "", n=4)
    assert measured(undefined, two()[0]).outcomes is None


def test_a_damaged_file_is_named(tmp_path):
    save_outcomes(tmp_path, two())
    content = (tmp_path / FILE).read_bytes()
    for damaged in (b"", b"no archive", content[: len(content) // 2], content[:50] + content[51:]):
        (tmp_path / FILE).write_bytes(damaged)
        with pytest.raises(UserError, match=r"outcomes\.npz is not a valid file of outcomes"):
            load_outcomes(tmp_path)


def test_a_file_of_another_format_is_named(tmp_path):
    write(tmp_path, {"format": 99, "outcomes": []}, {})
    with pytest.raises(UserError, match="has format 99; this version reads 1"):
        load_outcomes(tmp_path)


def test_a_file_that_claims_to_be_huge_is_not_read(tmp_path, monkeypatch):
    save_outcomes(tmp_path, two())
    monkeypatch.setattr(files, "LARGEST", 100)
    with pytest.raises(UserError, match="not a valid file of outcomes"):
        load_outcomes(tmp_path)


def write(folder, header, arrays):
    content = {"header": np.frombuffer(json.dumps(header).encode(), np.uint8)} | arrays
    (folder / FILE).write_bytes(packed(content))


@pytest.mark.parametrize(
    ("changes", "arrays"),
    [
        ({"kind": "median"}, {}),
        ({"count": 0}, {}),
        ({"count": 5}, {}),
        ({"count": 10**12}, {}),
        ({"settings": {"groups": 10**12}}, {}),
        ({"settings": {"groups": 2.5}}, {}),
        ({"score": 3}, {}),
        ({"settings": {}}, {}),
        ({"arrays": {}}, {}),
        ({"data": {"name": "digits"}}, {}),
        ({}, {"h": np.array([1, 0, np.nan, 1])}),
        ({}, {"h": np.array(["a", "b", "c", "d"])}),
        ({}, {"g": np.array([0, 1, 2, 0])}),
        ({}, {"g": np.array([0, 1, -1, 0])}),
    ],
)
def test_arrays_that_do_not_fit_together_are_rejected(tmp_path, changes, arrays):
    entry = {
        "score": "mean per class",
        "rules": "",
        "units": UNITS,
        "count": 4,
        "kind": "mean of groups",
        "data": {"name": "digits", "split": "val"},
        "settings": {"groups": 2},
        "arrays": {"hits": "h", "groups": "g"},
    }
    right = {"h": HITS.astype(np.uint8), "g": LABELS}
    write(tmp_path, {"format": 1, "outcomes": [entry]}, right)
    assert load_outcomes(tmp_path)[0].count == 4
    write(tmp_path, {"format": 1, "outcomes": [entry | changes]}, right | arrays)
    with pytest.raises(UserError, match="not a valid file of outcomes"):
        load_outcomes(tmp_path)
