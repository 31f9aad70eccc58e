"""pycocotools reads our results JSON, and reading it restores the predictions."""

import json
import os

import numpy as np
import pytest

from msbreg.data.run_lengths import encode
from msbreg.run.errors import UserError
from tests.reference import coco_ap as slow
from tests.transfer.scoring.drawn import box_masks, coco_scenes, predict, voc_scenes
from transfer.scoring.coco_ap import coco_ap
from transfer.scoring.coco_results import read_coco_results, write_coco_results


@pytest.fixture
def scenes():
    return coco_scenes(np.random.default_rng(0), 12)


@pytest.fixture
def predictions(scenes):
    return predict(np.random.default_rng(1), scenes, masks=box_masks)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_pycocotools_reads_the_file_and_gives_our_scores(tmp_path, scenes, predictions, kind):
    write_coco_results(tmp_path / "results.json", scenes, predictions)
    entries = json.loads((tmp_path / "results.json").read_text())
    if kind == "segm":  # or pycocotools would measure sizes by boxes
        entries = [{k: v for k, v in entry.items() if k != "bbox"} for entry in entries]
        (tmp_path / "results.json").write_text(json.dumps(entries))
    (tmp_path / "truth.json").write_text(json.dumps(slow.truth_as_json(scenes)))
    expected, _ = slow.evaluate(tmp_path / "truth.json", tmp_path / "results.json", kind)
    ours = list(coco_ap(scenes, predictions, kind).numbers.values())
    np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("masks", [True, False])
def test_predictions_survive_writing_and_reading(tmp_path, scenes, masks):
    given = predict(np.random.default_rng(1), scenes, masks=box_masks if masks else None)
    write_coco_results(tmp_path / "r.json", scenes, given)
    for a, b in zip(read_coco_results(tmp_path / "r.json", scenes), given, strict=True):
        assert a.scene == b.scene
        np.testing.assert_allclose(a.boxes, b.boxes, rtol=1e-6, atol=1e-5)  # x + (x' - x)
        np.testing.assert_array_equal(a.scores, b.scores)
        np.testing.assert_array_equal(a.labels, b.labels)
        assert a.masks == b.masks


def test_category_ids_are_the_data_sets_or_count_from_1(tmp_path, scenes, predictions):
    write_coco_results(tmp_path / "r.json", scenes, predictions)
    ids = {entry["category_id"] for entry in json.loads((tmp_path / "r.json").read_text())}
    assert ids <= {2, 3, 17, 40, 90}
    voc = voc_scenes(np.random.default_rng(0))
    write_coco_results(tmp_path / "v.json", voc, predict(np.random.default_rng(1), voc))
    entries = json.loads((tmp_path / "v.json").read_text())
    assert {entry["category_id"] for entry in entries} == {1, 2, 3, 4}
    assert entries[0]["image_id"].startswith("0000")


def test_detections_are_sorted_by_score_and_missing_scenes_are_empty(tmp_path, scenes):
    name = scenes.scenes[2].id
    lines = [
        {"image_id": name, "category_id": 17, "bbox": [1, 2, 3, 4], "score": score}
        for score in (0.25, 0.75)
    ]
    (tmp_path / "r.json").write_text(json.dumps(lines))
    found = read_coco_results(tmp_path / "r.json", scenes)
    assert [len(p.scores) for p in found] == [0, 0, 2] + [0] * 9
    assert found[2].scores.tolist() == [0.75, 0.25]
    assert found[2].boxes[0].tolist() == [1, 2, 4, 6]
    assert found[2].labels.tolist() == [2, 2]


def test_a_mask_without_a_box_gets_its_bounding_box(tmp_path, scenes, predictions):
    write_coco_results(tmp_path / "r.json", scenes, predictions)
    entries = json.loads((tmp_path / "r.json").read_text())
    for entry in entries:
        del entry["bbox"]
    (tmp_path / "r.json").write_text(json.dumps(entries))
    found = read_coco_results(tmp_path / "r.json", scenes)
    assert (found[0].boxes % 1 == 0).all()
    assert coco_ap(scenes, found, "segm").numbers == coco_ap(scenes, predictions, "segm").numbers


GOOD = {"image_id": 900, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.5}
FULL = encode(np.ones((1, 200, 200), bool))[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 1}, "image_id 1, which is not in the split; expected one of its 12: 900"),
        ({"image_id": [1]}, r"image_id \[1\], which"),
        ({"category_id": 1}, "category_id 1, which is not in the split.*2, 3, 17, 40, 90"),
        ({"score": None}, "of scene 900 has the score None; expected a number"),
        ({"score": 10**400}, r"of scene 900 has the score 1000.*\.\.\.; expected a number"),
        ({"bbox": [1, 2, 10**400, 4]}, r"of scene 900 has the bbox \[1, 2, 1000.*\.\.\.; expected"),
        ({"bbox": [1, 2, 1e300, 4]}, r"of scene 900 has the bbox \[1, 2, 1e\+300, 4\]; expected"),
        ({"image_id": 10**400}, r"image_id 1000.*\.\.\., which is not in the split"),
        ({"segmentation": {"size": [200, 200], "counts": "\ud800"}}, "not valid COCO run"),
        ({"segmentation": {"size": 250_000_000, "counts": "0"}}, "of scene 900 has"),
        ({"bbox": [1, 2, 3]}, r"of scene 900 has the bbox \[1, 2, 3\]; expected \[x, y, width"),
        ({"bbox": [1, 2, -3, 4]}, "scene 900 of coco_drawn has a box whose right edge"),
        ({"score": float("nan")}, "scene 900 of coco_drawn has scores or boxes that are not"),
        ({"segmentation": {"size": [5, 5], "counts": "0"}}, r"of scene 900 has a mask of size \[5"),
        ({"segmentation": {"size": [200, 200], "counts": "0"}}, "of scene 900 has a mask of size"),
        ({"segmentation": {"counts": "0"}}, "of scene 900 has 'size'"),
        ({"segmentation": [[1, 1, 5, 5, 1, 5]]}, "of scene 900 has no compressed run lengths"),
    ],
)
def test_an_invalid_entry_is_named(tmp_path, scenes, change, message):
    (tmp_path / "r.json").write_text(json.dumps([GOOD | change]))
    with pytest.raises(UserError, match=f"(?s){message}"):
        read_coco_results(tmp_path / "r.json", scenes)


def test_masks_for_only_some_detections_are_rejected(tmp_path, scenes):
    (tmp_path / "r.json").write_text(json.dumps([GOOD | {"segmentation": FULL}, GOOD]))
    with pytest.raises(UserError, match="detection 2 of 2 of scene 900 has no compressed"):
        read_coco_results(tmp_path / "r.json", scenes)


@pytest.mark.parametrize(
    "content", ["", "{}", "[1]", '[{"image_id": 900', "\xff", "[" * 100_000, "[" + "1" * 5000 + "]"]
)
def test_a_file_that_is_not_a_list_of_detections_is_rejected(tmp_path, scenes, content):
    (tmp_path / "r.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"r\.json"):
        read_coco_results(tmp_path / "r.json", scenes)
    os.mkfifo(tmp_path / "pipe.json")
    for name in ("absent.json", "pipe.json"):
        with pytest.raises(UserError, match="cannot be read"):
            read_coco_results(tmp_path / name, scenes)
