"""Results in records of schema 1 are converted to scores."""

import json

import pytest

from msbreg.run.errors import UserError
from msbreg.run.record import read_record
from tests.transfer.report.records import network, write_detector, write_knn, write_svm
from transfer.report.schema1 import scores_of


def read(folder):
    return scores_of(folder, read_record(folder))


def test_a_knn_result_is_a_score_of_the_validation_split(tmp_path):
    (score,), problems = read(write_knn(tmp_path / "a", 61.2, network()))
    assert (score.name, score.value, score.stderr, score.n) == ("20-NN top-1", 61.2, 2.0, 500)
    assert (score.data.name, score.data.split, score.data.fingerprint) == ("digits", "val", "bb")
    assert score.rules == "cosine similarity s, 20 neighbors, weights exp(s / 0.07)"
    assert problems == []


def test_the_score_of_an_svm_belongs_to_its_test_split(tmp_path):
    folder = write_svm(tmp_path / "a", network(), {"cat": 50.0, "dog": 70.0})
    record = json.loads((folder / "record.json").read_text())
    record["config"] |= {"train_split": "val", "test_split": "test"}
    record["data"] = {"val": {"images": 7, "fingerprint": "vv"}} | record["data"]
    (folder / "record.json").write_text(json.dumps(record))
    (score,), _ = read(folder)
    assert (score.n, score.data.split, score.value) == (100, "test", 60.0)
    assert score.per_class == {"cat": 50.0, "dog": 70.0}


def test_boxes_and_masks_have_their_own_rules_and_classes(tmp_path):
    results = {f"{w}_{n}": 10.0 for w in ("mask", "box") for n in ("AP75", "AP50", "AP")}
    folder = write_detector(tmp_path / "a", network(), results, metric="COCO bbox AP, COCO segm AP")
    scores, _ = read(folder)
    assert [score.name for score in scores] == [
        f"{what} {name}" for what in ("box", "mask") for name in ("AP", "AP50", "AP75")
    ]
    assert [score.rules for score in scores] == ["COCO bbox AP"] * 3 + ["COCO segm AP"] * 3
    assert scores[0].per_class == {"zero": 12.5, "one": 50.0}
    assert scores[3].per_class is None  # the file has no masks


def test_an_unknown_metric_is_used_as_the_rules(tmp_path):
    folder = write_detector(tmp_path / "a", network(), metric="VOC AP, 11 points")
    assert {score.rules for score in read(folder)[0]} == {"VOC AP, 11 points"}


def test_a_result_that_is_not_a_number_is_not_a_score(tmp_path):
    results = {"box_AP": None, "box_AP50": float("nan"), "box_AP75": 4.0}
    folder = write_detector(tmp_path / "a", network(0), results)
    assert [score.name for score in read(folder)[0]] == ["box AP75"]


@pytest.mark.parametrize("content", ["[]", '{"box": 3}', '{"box": {"classes": [3]}}', "{"])
def test_unreadable_per_class_scores_are_reported_and_the_other_scores_kept(tmp_path, content):
    folder = write_detector(tmp_path / "a", network())
    (folder / "per_class.json").write_text(content)
    scores, (problem,) = read(folder)
    assert len(scores) == 3
    assert "a/per_class.json is not" in problem


def test_a_record_without_its_split_is_rejected_by_name(tmp_path):
    folder = write_knn(tmp_path / "a", 61.2, network(), data={"train": {"images": 9}})
    with pytest.raises(
        UserError, match=r"complete record of knn; missing or of the wrong type: data\.val"
    ):
        read(folder)


def test_a_kind_that_is_unknown_to_schema_1_has_no_scores(tmp_path):
    folder = write_knn(tmp_path / "a", 61.2, network())
    record = json.loads((folder / "record.json").read_text()) | {"kind": "segmentation"}
    assert scores_of(folder, record) == ([], [])
