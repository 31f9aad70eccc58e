"""Predictions survive saving and loading, belong to one split, and are checked against it."""

import dataclasses
import os

import numpy as np
import pytest

from msbreg.data.scenes import Instance
from msbreg.run.errors import UserError
from tests.transfer.scoring.drawn import box_masks, coco_scenes, predict, voc_scenes
from transfer.scoring.predictions import in_order, load_predictions, save_predictions, split_digest


@pytest.fixture
def scenes():
    return coco_scenes(np.random.default_rng(0), 8)


@pytest.fixture
def predictions(scenes):
    return predict(np.random.default_rng(1), scenes, masks=box_masks)


def same(a, b):
    assert a.scene == b.scene
    for name in ("boxes", "scores", "labels"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert getattr(a, name).dtype == getattr(b, name).dtype
    assert a.masks == b.masks


def changed(predictions, index, **values):
    """The predictions with one of them altered."""
    out = list(predictions)
    out[index] = dataclasses.replace(out[index], **values)
    return out


def busiest(predictions):
    return max(range(len(predictions)), key=lambda i: len(predictions[i].scores))


@pytest.mark.parametrize("masks", [True, False])
def test_predictions_survive_saving_and_loading(tmp_path, scenes, masks):
    given = predict(np.random.default_rng(1), scenes, masks=box_masks if masks else None)
    save_predictions(tmp_path / "p.npz", scenes, given[::-1], {"engine": "torchvision", "n": 3})
    found = load_predictions(tmp_path / "p.npz")
    for loaded, original in zip(found.predictions, given, strict=True):
        same(loaded, original)
    assert (found.scenes, found.classes) == (scenes.name, scenes.classes)
    assert found.extra == {"engine": "torchvision", "n": 3}
    found.check_split(scenes)


def test_scene_ids_remain_strings_or_integers(tmp_path):
    scenes = voc_scenes(np.random.default_rng(0), 4)
    save_predictions(tmp_path / "p.npz", scenes, predict(np.random.default_rng(1), scenes))
    loaded = load_predictions(tmp_path / "p.npz")
    assert [p.scene for p in loaded.predictions] == ["000000", "000001", "000002", "000003"]


def test_empty_predictions_can_be_saved_and_loaded(tmp_path, scenes):
    nothing = [
        dataclasses.replace(
            p, boxes=p.boxes[:0], scores=p.scores[:0], labels=p.labels[:0], masks=()
        )
        for p in predict(np.random.default_rng(1), scenes)
    ]
    save_predictions(tmp_path / "p.npz", scenes, nothing)
    found = load_predictions(tmp_path / "p.npz").predictions
    for loaded, original in zip(found, nothing, strict=True):
        same(loaded, original)


def test_equal_predictions_give_equal_bytes(tmp_path, scenes, predictions):
    save_predictions(tmp_path / "a.npz", scenes, predictions)
    save_predictions(tmp_path / "b.npz", scenes, predictions)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a.npz", "b.npz"]


def test_numpy_reads_the_file_without_pickle(tmp_path, scenes, predictions):
    save_predictions(tmp_path / "p.npz", scenes, predictions)
    with np.load(tmp_path / "p.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["boxes"], np.concatenate([p.boxes for p in predictions]))


@pytest.mark.parametrize(
    "cut",
    [
        lambda b: b[: len(b) // 2],
        lambda b: b"",
        lambda b: b"text",
        lambda b: b[:400] + b"\0" * 40 + b[440:],
    ],
)
def test_a_damaged_file_is_rejected(tmp_path, scenes, predictions, cut):
    path = tmp_path / "p.npz"
    save_predictions(path, scenes, predictions)
    path.write_bytes(cut(path.read_bytes()))
    with pytest.raises(UserError, match="not a valid predictions file"):
        load_predictions(path)


def test_other_archives_and_missing_files_are_rejected(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_predictions(tmp_path / "p.npz")
    np.savez(tmp_path / "p.npz", boxes=np.zeros((1, 4)))
    with pytest.raises(UserError, match="KeyError"):
        load_predictions(tmp_path / "p.npz")
    np.savez(tmp_path / "p.npz", header=np.array([{}], dtype=object))
    with pytest.raises(UserError, match="allow_pickle=False"):
        load_predictions(tmp_path / "p.npz")


def test_masks_in_a_file_that_do_not_match_their_image_are_rejected(tmp_path, scenes, predictions):
    index = busiest(predictions)
    broken = tuple({"size": mask["size"], "counts": "0"} for mask in predictions[index].masks)
    save_predictions(tmp_path / "p.npz", scenes, changed(predictions, index, masks=broken))
    name = scenes.scenes[index].id
    with pytest.raises(UserError, match=f"scene {name}: a mask of size"):
        load_predictions(tmp_path / "p.npz")


def test_different_annotations_or_classes_make_a_different_split(tmp_path, scenes, predictions):
    save_predictions(tmp_path / "p.npz", scenes, predictions)
    found = load_predictions(tmp_path / "p.npz")
    first = scenes.scenes[0]
    extra = dataclasses.replace(first, instances=(*first.instances, Instance((0, 0, 9, 9), 1)))
    other = dataclasses.replace(scenes, scenes=(extra, *scenes.scenes[1:]))
    with pytest.raises(UserError, match="with annotations that differ from those of coco_drawn"):
        found.check_split(other)
    renamed = dataclasses.replace(scenes, classes=("a", "b", "c", "d", "e"))
    with pytest.raises(UserError, match=r"5 classes \(cat, dog, cow, \.\.\.\)"):
        found.check_split(renamed)


def test_the_digest_of_a_split_does_not_depend_on_its_folder(scenes):
    moved = dataclasses.replace(
        scenes,
        name="renamed",
        scenes=tuple(dataclasses.replace(s, file=s.file / "x") for s in scenes.scenes),
    )
    assert split_digest(moved) == split_digest(scenes)
    mirrored = dataclasses.replace(scenes, scenes=scenes.scenes[::-1])
    assert split_digest(mirrored) != split_digest(scenes)


def test_a_scene_of_another_split_is_rejected(scenes, predictions):
    with pytest.raises(UserError, match="scene 1, which is not one of the 8 of coco_drawn"):
        in_order(scenes, changed(predictions, 0, scene=1))


def test_a_scene_without_an_entry_is_rejected(scenes, predictions):
    with pytest.raises(UserError, match="1 of the 8 scenes of coco_drawn have no prediction.*893"):
        in_order(scenes, [*predictions[:1], *predictions[2:]])


def test_a_scene_with_two_entries_is_rejected(scenes, predictions):
    with pytest.raises(UserError, match="scene 900 of coco_drawn has two predictions"):
        in_order(scenes, [*predictions, predictions[0]])


def spoiled(prediction, what):
    """One value of the prediction made wrong."""
    boxes, scores, labels = (
        getattr(prediction, name).copy() for name in ("boxes", "scores", "labels")
    )
    masks = prediction.masks
    if what == "score":
        scores[-1] = np.nan
    elif what == "box":
        boxes[0, 2] = np.inf
    elif what == "edges":
        boxes[0] = (9, 0, 8, 5)
    elif what == "label":
        labels[0] = 5
    elif what == "below":
        labels[0] = -1
    elif what == "shape":
        boxes = boxes[1:]
    elif what == "size":
        masks = ({"size": [200, 201], "counts": masks[0]["counts"]}, *masks[1:])
    elif what == "count":
        masks = masks[1:]
    return {"boxes": boxes, "scores": scores, "labels": labels, "masks": masks}


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("score", "not finite"),
        ("box", "not finite"),
        ("edges", "right edge is left of"),
        ("label", r"labels in \d..5; expected 0..4"),
        ("below", r"labels in -1..\d; expected 0..4"),
        ("shape", r"expected \(N, 4\), \(N,\), \(N,\)"),
        ("size", r"mask of size \[200, 201\]; expected \[200, 200\]"),
        ("count", r"masks for \d+ objects; expected one for each"),
    ],
)
def test_invalid_predictions_are_reported_with_their_scene(scenes, predictions, what, message):
    index = busiest(predictions)
    wrong = changed(predictions, index, **spoiled(predictions[index], what))
    name = scenes.scenes[index].id
    with pytest.raises(UserError, match=f"prediction for scene {name} of coco_drawn.*{message}"):
        in_order(scenes, wrong)


def test_masks_for_only_some_scenes_are_rejected(tmp_path, scenes, predictions):
    index = busiest(predictions)
    with pytest.raises(UserError, match="has no masks, but others have"):
        save_predictions(tmp_path / "p", scenes, changed(predictions, index, masks=None))
    assert not list(tmp_path.iterdir())
