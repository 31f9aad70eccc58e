"""COCO's average precision and recall of boxes and masks, by pycocotools.

pycocotools counts and averages (``COCOeval.evaluate``, ``accumulate``, ``summarize``); here is only
how scenes and predictions reach it: as objects in memory instead of through JSON.
"""

import contextlib
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pycocotools.cocoeval import COCOeval

from msbreg.errors import UserError
from transfer.scenes.masks import area, to_rle
from transfer.scenes.types import Instance, Prediction, Scene, Scenes
from transfer.scoring.checks import in_order
from transfer.scoring.detection_scores import DetectionScores

Kind = Literal["bbox", "segm"]

# In the order of COCOeval.stats.
_NUMBERS = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl"),
    *("AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
)
_ALL_SIZES, _MOST_DETECTIONS = 0, -1  # of COCOeval's axes of areas and of detections per image


@dataclass(frozen=True)
class CocoScores(DetectionScores):
    """Scores of boxes or masks.

    ``numbers`` has COCO's twelve, in percent: AP (mean over IoU .50:.95), AP50, AP75, AP of small
    (below 32^2 pixels), medium and large (from 96^2 on) objects, and the average recalls with 1, 10
    and 100 detections per image and class, and by size. NaN where the split has no such object.
    """

    kind: Kind


def coco_ap(scenes: Scenes, predictions: Sequence[Prediction], kind: Kind = "bbox") -> CocoScores:
    """Score boxes ("bbox") or masks ("segm"), as Detectron2's COCOEvaluator.

    Sides of predicted boxes are differences in float32, as there. The size of an object is the area
    that the annotation states, else that of its mask, else of its box; the size of a detection is that
    of its box, or of its mask. Crowds are ignored regions; "difficult" has no meaning here. Images
    rank by ascending id where scores are equal. No detection at all scores 0 (Detectron2: NaN).

    Raises:
        UserError: the split has no scene or no class; the predictions do not fit it, as ``in_order``
            says; or masks are to be scored and an object or a prediction has none.
    """
    if not scenes.scenes or not scenes.classes:
        raise UserError(
            f"{scenes.name} has {len(scenes.scenes)} scenes and {len(scenes.classes)} classes; "
            "expected at least one of each."
        )
    ordered = in_order(scenes, predictions)
    ranks = sorted(range(len(ordered)), key=lambda i: _by_id(scenes.scenes[i]))
    evaluation = _Evaluation(len(scenes.scenes), len(scenes.classes), kind)
    for place, index in enumerate(ranks):
        evaluation.add(place, scenes.scenes[index], ordered[index], kind)
    with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress by print
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return _scores(scenes, evaluation, kind)


class _Evaluation(COCOeval):
    """COCOeval that is given its objects and detections instead of two ``COCO`` to look them up in.

    Images are 0..I-1 and categories 0..K-1 here. Annotations are numbered from 1: to COCOeval a
    match with annotation 0 is no match.
    """

    def __init__(self, images: int, classes: int, kind: Kind) -> None:
        super().__init__(iouType=kind)
        self.params.imgIds = list(range(images))
        self.params.catIds = list(range(classes))
        self.objects: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
        self.detections: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
        self.counted = np.zeros(classes, dtype=np.int64)
        self._numbers = {"object": 0, "detection": 0}

    def add(self, image: int, scene: Scene, prediction: Prediction, kind: Kind) -> None:
        """Take what is in one scene and what was found there."""
        for instance in scene.instances:
            self._numbers["object"] += 1
            entry = _object(scene, instance, kind)
            entry["id"] = self._numbers["object"]
            self.objects[image, instance.label].append(entry)
            self.counted[instance.label] += not instance.crowd
        for label, entry in _detections(scene, prediction, kind):
            self._numbers["detection"] += 1
            entry["id"] = self._numbers["detection"]
            self.detections[image, label].append(entry)

    def _prepare(self) -> None:
        """Called by ``evaluate``: what the base class looks up."""
        self._gts, self._dts = self.objects, self.detections
        self.evalImgs: Any = defaultdict(list)
        self.eval: dict[str, Any] = {}


def _object(scene: Scene, instance: Instance, kind: Kind) -> dict[str, Any]:
    x0, y0, x1, y1 = instance.box
    entry: dict[str, Any] = {"iscrowd": int(instance.crowd), "ignore": int(instance.crowd)}
    size = instance.area
    if kind == "segm" or (size is None and instance.mask is not None):
        if instance.mask is None:
            raise UserError(
                f"an object of scene {scene.id!r} has no mask; expected one of each object to score "
                "masks.\nScore boxes, or give data with masks."
            )
        try:
            entry["segmentation"] = to_rle(instance.mask, scene.height, scene.width)
        except UserError as error:
            raise UserError(f"scene {scene.id!r} has {error}") from error
        size = float(area([entry["segmentation"]])[0]) if size is None else size
    entry["bbox"] = [x0, y0, x1 - x0, y1 - y0]
    entry["area"] = (x1 - x0) * (y1 - y0) if size is None else size
    return entry


def _detections(
    scene: Scene, prediction: Prediction, kind: Kind
) -> list[tuple[int, dict[str, Any]]]:
    """Each detection's label and its entry."""
    labels, scores = prediction.labels.tolist(), prediction.scores.astype(np.float32).tolist()
    if kind == "segm":
        if prediction.masks is None and labels:
            raise UserError(
                f"the prediction for scene {scene.id!r} has no masks; expected them to score masks.\n"
                "Score boxes, or predict with a detector that has a mask head."
            )
        masks = prediction.masks or ()
        shapes = [{"segmentation": m, "area": a} for m, a in zip(masks, area(masks), strict=True)]
    else:
        boxes = prediction.boxes.astype(np.float32)
        sides = boxes[:, 2:] - boxes[:, :2]
        rows = np.concatenate([boxes[:, :2], sides], axis=1).tolist()
        shapes = [{"bbox": box, "area": box[2] * box[3]} for box in rows]
    return [
        (label, {"score": score, **shape})
        for label, score, shape in zip(labels, scores, shapes, strict=True)
    ]


def _by_id(scene: Scene) -> tuple[int, int | str]:
    """Numbers before names."""
    return (0, scene.id) if isinstance(scene.id, int) else (1, scene.id)


def _scores(scenes: Scenes, evaluation: _Evaluation, kind: Kind) -> CocoScores:
    found = evaluation.eval["precision"][..., _ALL_SIZES, _MOST_DETECTIONS]  # (T, 101, K)
    precision = np.where(found > -1, found, np.nan)  # -1 stands for "no such object"
    stats = [100 * float(value) if value > -1 else float("nan") for value in evaluation.stats]
    detections = np.zeros(len(scenes.classes), dtype=np.int64)
    for (_, label), entries in evaluation.detections.items():
        detections[label] += len(entries)
    return CocoScores(
        metric=f"COCO {kind} AP",
        numbers=dict(zip(_NUMBERS, stats, strict=True)),
        classes=scenes.classes,
        thresholds=tuple(evaluation.params.iouThrs.tolist()),
        class_ap=100 * precision.mean(axis=1),
        precision=precision,
        objects=evaluation.counted,
        detections=detections,
        kind=kind,
    )
