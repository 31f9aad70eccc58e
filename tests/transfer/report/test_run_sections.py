"""Curves, drawings and neighbors of runs are shown if they exist."""

import json

from PIL import Image

from tests.transfer.report.records import (
    network,
    write_detector,
    write_knn,
    write_neighbors,
    write_pretraining,
)
from transfer.report.collection import collect
from transfer.report.embedded_pictures import Budget
from transfer.report.run_sections import fine_tunings, neighbors, provenance, trainings

ROOM = (10**6, 100)


def displays(folder, room=ROOM):
    return fine_tunings(collect([folder]), Budget(*room))[0]


def test_a_detector_is_shown_with_facts_losses_and_drawings(tmp_path):
    write_detector(tmp_path / "ours", network())
    (ours,) = displays(tmp_path)
    assert ours.title == "msbreg resnet18-tiny on digits_voc_test"
    assert ours.scores == "box AP 20.0, box AP50 40.0, box AP75 10.0"
    assert ours.facts["engine"] == "torchvision 0.29.2"
    assert ours.facts["iterations"] == "40 of 40"
    assert ours.facts["learning rate"] == "0.02"
    assert "proposal scores" in ours.curve.figure
    assert [drawing.title for drawing in ours.drawings] == [
        "Precision and recall of boxes",
        "Most confident hits and misses beside the truth",
    ]
    assert ours.problems == []


def test_a_pretraining_is_shown_with_facts_and_curve(tmp_path):
    write_pretraining(tmp_path / "a", results={"views_seen": 90112, "sha256": "x"})
    ((item,), more) = trainings(collect([tmp_path]))
    assert more == 0
    assert item.title == "msbreg resnet18-tiny, seed 0"
    assert item.facts["epochs"] == "3 of 3"
    assert item.facts["views seen"] == "90,112"
    assert item.curve.rows == 4


def test_an_unfinished_run_shows_its_progress(tmp_path):
    write_detector(tmp_path / "late", network(), status="failed", yaml={"SOLVER.MAX_ITER": 90})
    (late,) = displays(tmp_path)
    assert late.facts["iterations"] == "40 of 90"
    assert late.scores == ""


def test_the_first_run_of_each_network_uses_the_budget_before_others(tmp_path):
    write_detector(tmp_path / "again", network(), config={"seed": 1})
    write_detector(tmp_path / "ours", network(), started="2027-01-01")
    write_detector(tmp_path / "other", network(5, name="other"))
    items = displays(tmp_path, room=(10**6, 4))
    assert [item.run.folder.name for item in items] == ["again", "other", "ours"]
    assert [len(item.drawings) for item in items] == [2, 2, 0]
    assert "Omitted to keep this page small: see" in items[-1].problems[0]


def test_only_files_in_the_folder_of_the_run_are_shown(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    names = ["../secret.png", 3, str(tmp_path / "secret.png"), "..", ""]
    write_detector(tmp_path / "runs" / "ours", network(), drawings=names)
    (ours,) = displays(tmp_path / "runs")
    assert ours.drawings == ours.problems == []


def test_neighbors_of_either_spelling_are_shown(tmp_path):
    run = write_knn(tmp_path / "knn", 60.0, network())
    write_neighbors(run, tmp_path / "images")
    (new,) = neighbors(collect([tmp_path]).networks, Budget(*ROOM))
    old = (run / "neighbors.json").read_text().replace('"neighbors":', '"neighbours":')
    (run / "neighbors.json").unlink()
    (run / "neighbours.json").write_text(old)
    (again,) = neighbors(collect([tmp_path]).networks, Budget(*ROOM))
    assert new.queries == again.queries
    assert [near["same"] for near in new.queries[0]["neighbors"]] == [True, False]
    assert new.problem == ""


def test_provenance_lists_each_set_of_weights_once(tmp_path):
    for name in ("a", "b"):
        write_knn(tmp_path / name, 60.0, network())
    write_knn(tmp_path / "c", 61.0, network(1))
    weights, more = provenance(collect([tmp_path]).networks)
    assert [(w.seed, len(w.runs)) for w in weights] == [("0", 2), ("1", 1)]
    assert more == 0
    assert json.loads(json.dumps(weights[0].facts))["sha256"] == "msbreg-0"
