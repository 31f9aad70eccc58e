"""Saved predictions score again as the run that made them, and only on the data they are for."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.peers import truth_as_json, write_voc
from msbreg.data.catalog import load_scenes
from msbreg.run.record import SCHEMA
from tests.processes import Program
from tests.transfer.scoring.drawn import box_masks, coco_scenes, predict, voc_scenes
from tools.score import main
from transfer.detectors.results import numbers, score
from transfer.scoring.coco_results import write_coco_results
from transfer.scoring.predictions import save_predictions
from transfer.scoring.voc_ap import VocRules, voc_ap

ROOT = Path(__file__).resolve().parents[2]
COCO = "coco:truth.json:images"


@pytest.fixture
def voc(tmp_path):
    """VOC2007 with objects of five of its classes, and the folder of a run on it."""
    names = ("aeroplane", "bicycle", "bird", "boat", "bottle")
    drawn = replace(voc_scenes(np.random.default_rng(0), 30), classes=names)
    write_voc(tmp_path / "VOC2007", drawn)
    scenes = load_scenes("voc_2007_test", tmp_path, look_at_images=False)
    run = tmp_path / "run"
    run.mkdir()
    predictions = predict(np.random.default_rng(1), scenes, tied=True)
    save_predictions(run / "predictions.npz", scenes, predictions)
    return tmp_path, scenes, predictions


@pytest.fixture
def coco(tmp_path):
    """COCO's layout with images, and the folder of a run on it, with masks."""
    drawn = coco_scenes(np.random.default_rng(0), 10)
    (tmp_path / "truth.json").write_text(json.dumps(truth_as_json(drawn)))
    (tmp_path / "images").mkdir()
    for scene in drawn.scenes:
        Image.new("RGB", (scene.width, scene.height)).save(tmp_path / "images" / scene.file.name)
    scenes = load_scenes(COCO, tmp_path)
    run = tmp_path / "run"
    run.mkdir()
    predictions = predict(np.random.default_rng(1), scenes, masks=box_masks)
    save_predictions(run / "predictions.npz", scenes, predictions)
    return tmp_path, scenes, predictions


def printed(capsys, *arguments, code=0):
    assert main([str(argument) for argument in arguments]) == code
    return capsys.readouterr().out


def record(folder, **results):
    content = {
        "schema": SCHEMA,
        "kind": "detection",
        "status": "done",
        "results": results,
        "scores": [],
        "warnings": [],
        "seconds": 1.0,
        **dict.fromkeys(("digest", "card", "command", "started"), ""),
        "config": {},
        "environment": {},
    }
    (folder / "record.json").write_text(json.dumps(content))


def test_voc_numbers_equal_those_of_the_run(voc, capsys):
    root, scenes, predictions = voc
    found = json.loads(printed(capsys, root / "run", "--data", root, "--json"))
    assert found["numbers"] == numbers(score(scenes, predictions))
    assert found["numbers"]["box_AP"] == voc_ap(scenes, predictions).numbers["AP"]
    assert [row["class"] for row in found["classes"]["box"]["classes"]] == list(scenes.classes)


def test_coco_numbers_equal_those_of_the_run(coco, capsys):
    root, scenes, predictions = coco
    found = json.loads(printed(capsys, root / "run" / "predictions.npz", "--data", root, "--json"))
    assert found["numbers"] == numbers(score(scenes, predictions))
    assert {"box_APs", "mask_APs"} <= set(found["numbers"])


def test_metric_and_order_of_ties_can_be_selected(voc, capsys):
    root, scenes, predictions = voc
    options = ("--metric", "voc-area", "--ties", "stable", "--json")
    found = json.loads(printed(capsys, root / "run", "--data", root, *options))
    rules = VocRules("area", ties="stable")
    assert found["numbers"]["box_AP50"] == voc_ap(scenes, predictions, rules).summary()["AP50"]
    found = json.loads(printed(capsys, root / "run", "--data", root, "--metric", "coco", "--json"))
    assert found["classes"]["box"]["metric"] == "COCO bbox AP"


def test_the_numbers_are_compared_with_the_record(voc, capsys):
    root, scenes, predictions = voc
    results = numbers(score(scenes, predictions))
    record(root / "run", **results, iterations=3)
    assert "numbers agree with the run" in printed(capsys, root / "run", "--data", root)
    record(root / "run", **(results | {"box_AP": 12.5}))
    assert main([str(root / "run"), "--data", str(root)]) == 1
    assert "box_AP is" in capsys.readouterr().err


def test_classes_are_listed_in_a_table(voc, capsys):
    root, scenes, _ = voc
    out = printed(capsys, root / "run", "--data", root, "--classes")
    assert "voc_2007_test: 30 images" in out
    assert "box, VOC 11-point AP, percent" in out
    rows = [line.split()[0] for line in out.splitlines() if line.startswith(scenes.classes)]
    assert rows == list(scenes.classes)


def test_tables_and_drawings_are_written(coco, capsys):
    root, _, _ = coco
    printed(capsys, root / "run", "--data", root, "--output", root / "out")
    names = {"per_class.json", "curves_box.svg", "curves_mask.svg", "detections.webp"}
    assert {path.name for path in (root / "out").iterdir()} == names


def test_coco_results_are_written_and_scored(coco, capsys):
    root, scenes, predictions = coco
    printed(capsys, root / "run", "--data", root, "--to-coco", root / "here.json")
    write_coco_results(root / "there.json", scenes, predictions)
    assert (root / "here.json").read_bytes() == (root / "there.json").read_bytes()
    options = ("--scenes", COCO, "--data", root, "--json")
    found = json.loads(printed(capsys, root / "here.json", *options))["numbers"]
    expected = numbers(score(scenes, predictions))
    for name, value in expected.items():  # sides are rounded to float32 once more
        assert found[name] == (None if value is None else pytest.approx(value, abs=1e-4))


def test_an_error_is_one_message(voc, capsys):
    root, scenes, _ = voc
    assert main([str(root / "nowhere.npz")]) == 2
    assert "does not exist" in capsys.readouterr().err
    (root / "results.json").write_text("[]")
    assert main([str(root / "results.json")]) == 2
    assert "add --scenes NAME" in capsys.readouterr().err
    first = next(s for s in scenes.scenes if s.instances and not s.instances[0].difficult)
    file = root / "VOC2007" / "Annotations" / f"{first.id}.xml"
    file.write_text(file.read_text().replace("<difficult>0", "<difficult>1", 1))
    assert main([str(root / "run"), "--data", str(root)]) == 2
    assert "annotations that differ from those of voc_2007_test" in capsys.readouterr().err


def test_it_runs_as_a_script_in_any_folder(voc, tmp_path):
    root, _, _ = voc
    script = ROOT / "tools" / "score.py"
    code, out, message = Program(script, ["run", "--data", "."], cwd=root).wait()
    assert code == 0, message
    assert "box, VOC 11-point AP, percent" in out
