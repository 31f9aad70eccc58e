"""Whether predictions fit a split, and what identifies one."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from msbreg.data.scenes import Prediction, Scene, Scenes
from msbreg.run.errors import UserError


def split_digest(scenes: Scenes) -> str:
    """SHA-256 of all in a split that a score depends on, not of folders and pixels.

    Classes, ids, sizes and annotations, and the year, which decides the metric.
    """
    head = [scenes.classes, scenes.category_ids, scenes.year]
    digest = hashlib.sha256(json.dumps(head).encode())
    for scene in scenes.scenes:
        objects = [(o.box, o.label, o.mask, o.area, o.crowd, o.difficult) for o in scene.instances]
        content = [scene.id, scene.height, scene.width, objects]
        digest.update(json.dumps(content, default=_number).encode())
    return digest.hexdigest()


def in_order(scenes: Scenes, predictions: Sequence[Prediction]) -> list[Prediction]:
    """Give the predictions in the order of the split.

    Raises:
        UserError: a prediction for a scene that is not in the split or has one already, a scene
            without a prediction (nothing found is an entry of length 0), arrays of other shapes than
            ``Prediction`` states, scores or boxes that are not finite, a box with its edges in the
            wrong order, a label that is no class, a mask of another size than the image.
    """
    known = {scene.id: scene for scene in scenes.scenes}
    by_scene: dict[str | int, Prediction] = {}
    for prediction in predictions:
        if prediction.scene not in known:
            raise UserError(
                f"a prediction is for scene {prediction.scene!r}, which is not one of the "
                f"{len(known)} of {scenes.name}.\nGive the split that the predictions are for."
            )
        if prediction.scene in by_scene:
            raise UserError(
                f"scene {prediction.scene!r} of {scenes.name} has two predictions; expected one."
            )
        by_scene[prediction.scene] = prediction
    absent = [scene.id for scene in scenes.scenes if scene.id not in by_scene]
    if absent:
        raise UserError(
            f"{len(absent)} of the {len(known)} scenes of {scenes.name} have no prediction, the "
            f"first is {absent[0]!r}; expected an entry for each, of length 0 where nothing is found."
        )
    for scene in scenes.scenes:
        wrong = _misfit(scene, by_scene[scene.id], len(scenes.classes))
        if wrong:
            raise UserError(f"the prediction for scene {scene.id!r} of {scenes.name} {wrong}.")
    return [by_scene[scene.id] for scene in scenes.scenes]


def _misfit(scene: Scene, prediction: Prediction, classes: int) -> str | None:
    """What is wrong with a prediction, in words that follow "the prediction ..."."""
    boxes, scores, labels = prediction.boxes, prediction.scores, prediction.labels
    n = len(scores)
    shapes = (boxes.shape, scores.shape, labels.shape)
    if shapes != ((n, 4), (n,), (n,)):
        return f"has boxes, scores, labels of shapes {shapes}; expected (N, 4), (N,), (N,)"
    if not (np.isfinite(scores).all() and np.isfinite(boxes).all()):
        return "has scores or boxes that are not finite numbers; the detector diverged"
    if (boxes[:, 2:] < boxes[:, :2]).any():
        return "has a box whose right edge is left of its left edge, or bottom above top"
    if n and not (labels.min() >= 0 and labels.max() < classes):
        return f"has labels in {labels.min()}..{labels.max()}; expected 0..{classes - 1}"
    if prediction.masks is None:
        return None
    if len(prediction.masks) != n:
        return f"has {len(prediction.masks)} masks of {n} objects; expected one each"
    for mask in prediction.masks:
        if list(mask["size"]) != [scene.height, scene.width]:
            return (
                f"has a mask of size {list(mask['size'])}; "
                f"expected [{scene.height}, {scene.width}], its image's"
            )
    return None


def _number(value: Any) -> Any:
    """NumPy's scalars as JSON's numbers."""
    return value.item()
