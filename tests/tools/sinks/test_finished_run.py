"""Completed runs as tracking services see them."""

import json
import shutil
from dataclasses import replace

import pytest

from tests.transfer.report.records import (
    network,
    score,
    write_detector,
    write_knn,
    write_pretraining,
    write_scores,
)
from tools.sinks.finished_run import finished_runs, metric_name
from transfer.scoring.scores import score_from_dict


def only(folder):
    (run,) = finished_runs([folder])
    return run


def test_a_run_has_its_settings_scores_and_identity(tmp_path):
    folder = write_scores(
        tmp_path / "run",
        network(),
        score(71.5, stderr=2.0),
        score(90.0, name="top-5"),
        config={"steps": 3, "transform": {"resize": 256}},
    )
    run = only(folder)
    assert run.name == "msbreg resnet18-tiny colorization defaults"
    assert run.kind == "colorization"
    assert run.settings["transform.resize"] == 256
    assert run.settings["record.network_sha256"] == "msbreg-0"
    assert run.settings["record.commit"] == "0123456789ab"
    assert run.metrics == {
        "pets test/top-1 [some rules]": 71.5,
        "pets test/top-1 [some rules] standard error": 2.0,
        "pets test/top-5 [some rules]": 90.0,
    }
    assert run.history == ()


def test_scores_of_other_rules_or_data_have_other_names():
    one = score_from_dict(score(1.0))
    others = [replace(one, rules="other"), replace(one, data=replace(one.data, split="val"))]
    assert len({metric_name(each) for each in (one, *others)}) == 3


def test_records_of_schema_1_have_their_scores(tmp_path):
    run = only(write_knn(tmp_path / "run", 61.5, network()))
    assert list(run.metrics.values()) == [61.5, 2.0]


def test_undefined_scores_are_left_out(tmp_path):
    assert only(write_scores(tmp_path / "run", network(), score(None))).metrics == {}


def test_the_history_is_the_curve_by_its_own_steps(tmp_path):
    run = only(write_pretraining(tmp_path / "run", epochs=2))
    assert [step for step, _ in run.history] == [0, 10, 20]
    assert run.history[1][1]["total"] == 1.2
    assert "spectrum" not in run.history[0][1]
    detector = only(write_detector(tmp_path / "detector", network()))
    assert [step for step, _ in detector.history] == [20, 40, 40]
    assert detector.history[2][1]["scores.box_AP50"] == 40.0


def test_copies_of_a_run_have_one_id_and_other_runs_another(tmp_path):
    first = write_scores(tmp_path / "a", network(), score(71.5))
    shutil.copytree(first, tmp_path / "copy")
    write_scores(tmp_path / "b", network(), score(71.6))
    ids = [only(tmp_path / name).id for name in ("a", "copy", "b")]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize("status", ["running", "failed", "interrupted"])
def test_runs_that_are_not_completed_are_left_out_with_a_reason(tmp_path, status):
    folder = write_scores(tmp_path / "run", network(), score(71.5), status=status)
    assert only(folder) == f"{folder}: the run is not completed ({status})"


def test_damaged_files_are_left_out_with_a_reason(tmp_path):
    write_scores(tmp_path / "a", network(), {"name": "no score"})
    write_pretraining(tmp_path / "b")
    (tmp_path / "b" / "curve.jsonl").write_text("{]\n")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "record.json").write_text(json.dumps({"schema": 9}))
    reasons = list(finished_runs([tmp_path]))
    assert "a score has the fields" in reasons[0]
    assert "is not valid JSON (line 1" in reasons[1]
    assert "has schema '9'" in reasons[2]
