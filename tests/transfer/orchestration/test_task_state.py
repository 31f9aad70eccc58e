"""A run counts as done only with the weights, the card and the data of now."""

import dataclasses

import cv2
import numpy as np
import pytest

from tests.msbreg.data.segmentation.map_trees import folders_tree, save_map
from tests.transfer.boxes_data import make_voc, tiny_card
from tests.transfer.orchestration.tiny_suites import save_untrained, tiny_config
from transfer.orchestration import data_assignment
from transfer.orchestration.task_graph import changed, plan_suite
from transfer.orchestration.task_state import forget_data, standing


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MSBREG_CACHE", str(tmp_path / "cache"))
    forget_data()


def only_task(config):
    (task,) = plan_suite(config, config.all_checkpoints).tasks
    return task


@pytest.fixture
def done(tmp_path, make_folder):
    task = only_task(tiny_config(tmp_path, make_folder(train=20, val=4)))
    assert standing(task).state == "new"
    task.run()
    assert standing(task).state == "done"
    return task


def with_settings(task, **changes):
    return dataclasses.replace(task, config=changed(task.config, changes))


def test_other_weights_card_and_data_are_each_named(done, tmp_path):
    assert (
        standing(with_settings(done, k=(5,))).reason
        == "changed since then: the card (k = [5] here)"
    )
    assert "seed = 3 here" in standing(with_settings(done, seed=3)).reason
    image = tmp_path / "data" / "val" / "class0" / "new.png"
    cv2.imwrite(str(image), np.full((20, 20, 3), 9, np.uint8))
    forget_data()
    assert standing(done).reason == "changed since then: the data (other images in val)"
    image.unlink()
    forget_data()
    assert standing(done).state == "done"
    save_untrained(tmp_path / "checkpoint.pth", seed=8)
    assert standing(done).reason == "changed since then: the weights"


def test_settings_that_cannot_change_a_number_may_differ(done):
    assert standing(with_settings(done, workers=2, name="ours")).state == "done"


def test_the_same_content_at_another_place_is_still_done(done, tmp_path):
    (tmp_path / "checkpoint.pth").rename(tmp_path / "moved.pth")
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    moved = with_settings(
        done, checkpoint=str(tmp_path / "moved.pth"), data=str(tmp_path / "elsewhere")
    )
    assert standing(moved).state == "done"


def test_a_twin_is_done_for_every_checkpoint_of_its_architecture_and_input(tmp_path, make_folder):
    config = tiny_config(tmp_path, make_folder(train=20, val=4), random_seeds=1)
    twin = plan_suite(config, config.all_checkpoints).tasks[-1]
    twin.run()
    same = save_untrained(tmp_path / "same.pth", seed=9)
    larger = save_untrained(tmp_path / "larger.pth", seed=9, size=20)
    assert standing(with_settings(twin, twin_of=same)).state == "done"
    other = standing(with_settings(twin, twin_of=larger))
    assert other.reason == "changed since then: the input of the network"


def test_an_unfinished_run_continues_only_with_the_same_settings(done):
    file = done.folder / "record.json"
    file.write_text(file.read_text().replace('"status": "done"', '"status": "interrupted"'))
    assert standing(done).state == "unfinished"
    other = standing(with_settings(done, k=(5,)))
    assert other.state == "stale"
    assert "it is unfinished, and different: the settings (k = [5] here)" in other.reason


def test_a_run_of_another_protocol_is_not_continued(done):
    other = dataclasses.replace(done, script="linear")
    assert standing(other).reason == "it contains a run of knn, not of linear"


def test_a_detector_is_done_until_its_boxes_change(tmp_path, monkeypatch):
    monkeypatch.setattr(data_assignment, "CARDS", tmp_path)
    (tmp_path / "digits_knn.yaml").write_text("")
    voc = make_voc(tmp_path / "boxes") / "VOC2007"
    tiny_card(tmp_path, voc, MAX_ITER=1, STEPS="()", WARMUP_ITERS=0)
    config = tiny_config(tmp_path, "digits", detectors=("tiny",))
    task = plan_suite(config, config.all_checkpoints).tasks[-1]
    task.run()
    assert standing(task).state == "done"
    file = sorted((voc / "Annotations").glob("*.xml"))[0]  # of trainval
    text = file.read_text()
    file.write_text(
        text.replace(">red<", ">other<").replace(">blue<", ">red<").replace(">other<", ">blue<")
    )
    forget_data()
    assert "the data (other images in train)" in standing(task).reason


def test_label_maps_without_a_labeled_pixel_do_not_make_a_run_stale(tmp_path):
    """They are left out of training, so that the record covers the others."""
    root = folders_tree(tmp_path / "maps") or tmp_path / "maps"
    first = sorted((root / "labels" / "train").glob("*.png"))[0]
    height, width = cv2.imread(str(first), cv2.IMREAD_UNCHANGED).shape[:2]
    save_map(first, np.full((height, width), 255, np.uint8))
    config = tiny_config(tmp_path, root, only=("dense_knn",))
    task = with_settings(only_task(config), side=32, k=2, **{"memory.patches": 20})
    task.run()
    assert standing(task).state == "done"
