"""Predictions in COCO's results JSON: to submit them, or to score those of other programs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from msbreg.data.annotated_images import quote
from msbreg.data.coco_variants.keypoints import PIXEL_CENTER
from msbreg.data.run_lengths import boxes_around, characters, check_runs
from msbreg.data.scenes import KeypointSet, Prediction, RunLengths, Scene, Scenes
from msbreg.run.errors import UserError
from msbreg.run.files import open_regular, write_atomically
from transfer.scoring.coco_ap import pixel_indices
from transfer.scoring.predictions import in_order


def write_coco_results(path: Path, scenes: Scenes, predictions: Sequence[Prediction]) -> None:
    """Write a list of ``{"image_id", "category_id", "bbox": [x, y, w, h], "score", ...}``.

    Entries also have ``segmentation`` or ``keypoints`` if the predictions have masks or keypoints.

    Category ids are those of the data set, or 1..K if it has none; sides are float32 differences, as in
    Detectron2.

    Raises:
        UserError: the predictions do not match the split; see ``in_order``.
    """
    ids = _category_ids(scenes)
    entries: list[dict[str, Any]] = []
    for prediction in in_order(scenes, predictions):
        boxes = prediction.boxes.astype(np.float32)
        rows = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()
        scores = prediction.scores.astype(np.float32).tolist()
        for index, (row, score, label) in enumerate(
            zip(rows, scores, prediction.labels.tolist(), strict=True)
        ):
            entry = {"image_id": prediction.scene, "category_id": ids[label]}
            entry |= {"bbox": row, "score": score}
            if prediction.masks is not None:
                mask = prediction.masks[index]
                counts = characters(mask).decode("ascii")
                entry["segmentation"] = {"size": list(mask["size"]), "counts": counts}
            if prediction.keypoints is not None:
                entry["keypoints"] = pixel_indices(prediction.keypoints)[index].ravel().tolist()
            entries.append(entry)
    write_atomically(path, json.dumps(entries).encode())


def read_coco_results(path: Path, scenes: Scenes) -> tuple[Prediction, ...]:
    """Read such a list: one prediction per scene, best first; empty for scenes that are not in the list.

    Corners and scores are converted to float32, like those of detectors: sides may differ from the file in
    the seventh digit, and scores that only differ beyond it become ties, in the order of the file. Entries
    without a box get the bounding box of their mask.

    Raises:
        UserError: the file does not exist or is not such a list, or an entry does not match the split.
    """
    try:
        with open_regular(path) as file:
            entries = json.loads(file.read())
    except (
        OSError,
        ValueError,
        RecursionError,
    ) as error:  # ValueError: also for more than 4,300 digits
        raise UserError(
            f"{path} cannot be read as JSON ({error}); expected COCO's results."
        ) from error
    if not isinstance(entries, list):
        raise UserError(
            f"{path} contains a {type(entries).__name__}; expected a list of detections."
        )
    known = {scene.id: scene for scene in scenes.scenes}
    labels = {number: label for label, number in enumerate(_category_ids(scenes))}
    with_masks = any(isinstance(e, dict) and "segmentation" in e for e in entries)
    with_points = any(isinstance(e, dict) and "keypoints" in e for e in entries)
    rows: dict[str | int, list[_Row]] = {scene.id: [] for scene in scenes.scenes}
    for number, entry in enumerate(entries, 1):
        try:
            scene = known[_one_of(entry, "image_id", known)]
            label = labels[_one_of(entry, "category_id", labels)]
            row = _row(entry, scene, label, with_masks)
            points = _points(entry, scenes.keypoints) if with_points else None
            rows[scene.id].append((*row, points))
        except UserError as error:
            raise UserError(f"{path}: detection {number} of {len(entries)} {error}") from error
    count = len(scenes.keypoints.names) if with_points and scenes.keypoints is not None else None
    found = tuple(_prediction(scene, rows[scene.id], with_masks, count) for scene in scenes.scenes)
    return tuple(in_order(scenes, found))


_LARGEST = float(np.finfo(np.float32).max) / 2  # the sum of two is still finite
_Row = tuple[list[float], float, int, RunLengths | None, list[float] | None]
"""Box as XYXY, score, label, mask, keypoints."""


def _points(entry: dict[str, Any], expected: KeypointSet | None) -> list[float]:
    """x, y, score of each keypoint, at the centers of pixels."""
    given, count = entry.get("keypoints"), 0 if expected is None else len(expected.names)
    if not isinstance(given, list) or len(given) != 3 * count or not all(map(_is_number, given)):
        raise UserError(
            f"has keypoints {quote(given)}; expected {3 * count} numbers: x, y, score for each of the "
            f"{count} keypoints of the data"
        )
    return [v + (PIXEL_CENTER if i % 3 < 2 else 0) for i, v in enumerate(given)]


def _row(
    entry: dict[str, Any], scene: Scene, label: int, with_masks: bool
) -> tuple[list[float], float, int, RunLengths | None]:
    mask = entry.get("segmentation")
    if with_masks:
        if not isinstance(mask, dict) or not isinstance(mask.get("counts"), str):
            raise UserError(
                f"of scene {scene.id!r} has no compressed run lengths as segmentation; expected them for "
                "all detections or for none"
            )
        try:
            check_runs([mask], scene.height, scene.width)
        except (UserError, KeyError, TypeError) as error:
            raise UserError(f"of scene {scene.id!r} has {error}") from error
    score, box = entry.get("score"), entry.get("bbox")
    if box is None and mask is not None:
        corners = boxes_around([mask])[0].tolist()
    elif isinstance(box, list) and len(box) == 4 and all(map(_is_number, box)):
        corners = [box[0], box[1], box[0] + box[2], box[1] + box[3]]
    else:
        raise UserError(
            f"of scene {scene.id!r} has the bbox {quote(box)}; expected [x, y, width, height]"
        )
    if not _is_number(score):
        raise UserError(f"of scene {scene.id!r} has the score {quote(score)}; expected a number")
    return corners, float(score), label, mask if with_masks else None


def _is_number(value: Any) -> TypeGuard[float]:
    """Whether it is a number in the range of float32."""
    return isinstance(value, (int, float)) and (value != value or abs(value) <= _LARGEST)


def _prediction(
    scene: Scene, rows: list[_Row], with_masks: bool, keypoints: int | None
) -> Prediction:
    rows = sorted(rows, key=lambda row: -row[1])  # stable
    return Prediction(
        scene.id,
        np.array([row[0] for row in rows], dtype=np.float64).reshape(-1, 4).astype(np.float32),
        np.array([row[1] for row in rows], dtype=np.float32),
        np.array([row[2] for row in rows], dtype=np.int64),
        tuple(row[3] for row in rows if row[3] is not None) if with_masks else None,
        None
        if keypoints is None
        else np.array([row[4] for row in rows], dtype=np.float32).reshape(-1, keypoints, 3),
    )


def _category_ids(scenes: Scenes) -> tuple[int, ...]:
    return scenes.category_ids or tuple(range(1, len(scenes.classes) + 1))


def _one_of(entry: Any, key: str, known: dict[Any, Any]) -> Any:
    """The entry's value of a key, which must be one of ``known``."""
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, (str, int)) or value not in known:
        some = ", ".join(repr(name) for name in list(known)[:5])
        raise UserError(
            f"has the {key} {quote(value)}, which is not in the split; expected one of its "
            f"{len(known)}: {some}{', ...' if len(known) > 5 else ''}.\n"
            "Use the data that the results are for."
        )
    return value
