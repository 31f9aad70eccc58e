"""COCO's average precision and recall of boxes, masks and keypoints, by pycocotools' COCOeval.

Scenes and predictions are passed in memory instead of as JSON, and one loop is replaced: COCOeval's greedy
matching visits all pairs of detections and objects at each of ten thresholds and four size ranges. Most
pairs overlap too little to match at any threshold; here the loop skips them. The matches are the same, and
everything else (overlaps, sizes, ignored objects, accumulation, averages) is pycocotools' code.
"""

import contextlib
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pycocotools.cocoeval import COCOeval

from msbreg.data.coco_variants.keypoints import PIXEL_CENTER, labeled
from msbreg.data.run_lengths import all_to_rle, area
from msbreg.data.scenes import Instance, Prediction, RunLengths, Scene, Scenes
from msbreg.run.errors import UserError
from transfer.scoring.match_flags import ClassMatches, MatchFlags, coco_matches
from transfer.scoring.predictions import in_order
from transfer.scoring.scores import DetectionScores

# ---- COCOeval with annotations in memory and faster matching


Kind = Literal["bbox", "segm", "keypoints"]
Labeled = tuple[int, dict[str, Any]]
"""A label and an annotation: bbox, segmentation or keypoints, area, and score, or iscrowd and ignore."""


class Evaluation(COCOeval):
    """COCOeval for images 0..I-1 and categories 0..K-1.

    Annotation ids start at 1: COCOeval reads a match with id 0 as no match.

    Attributes:
        objects, detections: annotations by image and category.
    """

    def __init__(self, images: int, classes: int, kind: Kind) -> None:
        super().__init__(iouType=kind)
        self.params.imgIds = list(range(images))
        self.params.catIds = list(range(classes))
        self.objects: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
        self.detections: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
        self._near: dict[tuple[int, int], np.ndarray] = {}
        self._added = [0, 0]

    def add(self, image: int, objects: list[Labeled], detections: list[Labeled]) -> None:
        """Add the objects and detections of an image; the annotations are modified."""
        for which, (entries, into) in enumerate(
            [(objects, self.objects), (detections, self.detections)]
        ):
            for label, entry in entries:
                self._added[which] += 1
                entry["id"] = self._added[which]
                into[image, label].append(entry)

    def _prepare(self) -> None:
        """Set the attributes that ``evaluate`` of the base class reads."""
        self._gts, self._dts = self.objects, self.detections
        self.evalImgs: Any = defaultdict(list)
        self.eval: dict[str, Any] = {}

    def matches(self, label: int, places: Sequence[int]) -> ClassMatches:
        """The matches of a class, objects of all sizes; call it after ``evaluate``.

        Args:
            places: index in the split of each image.
        """
        first = label * len(self.params.areaRng) * len(places)  # the first range is all sizes
        own = self.evalImgs[first : first + len(places)]
        return coco_matches(own, places, len(self.params.iouThrs))

    def computeIoU(self, imgId: int, catId: int) -> list[Any]:  # the base class's name
        """Store overlaps that reach the lowest threshold; return none, so that the base loop is skipped."""
        ious = np.asarray(super().computeIoU(imgId, catId))  # (D, G), detections by score
        if ious.size and ious.max() >= self.params.iouThrs[0]:
            self._near[imgId, catId] = ious
        return []

    def evaluateImg(self, imgId: int, catId: int, aRng: list[float], maxDet: int) -> Any:
        """The base class's result, which has no matches, completed by the matches."""
        result = super().evaluateImg(imgId, catId, aRng, maxDet)
        ious = self._near.get((imgId, catId))
        if ious is not None:
            ignored = [entry["_ignore"] for entry in self.objects[imgId, catId]]
            order = np.argsort(
                ignored, kind="mergesort"
            )  # the order of gtIds, gtMatches and gtIgnore
            crowd = [self.objects[imgId, catId][i]["iscrowd"] for i in order]
            _match(result, ious[:, order], crowd, self.params.iouThrs)
        return result


def _match(
    result: dict[str, Any],
    ious: np.ndarray,  # (D, G)
    crowd: list[int],  # (G,)
    thresholds: np.ndarray,  # (T,), ascending
) -> None:
    """Match greedily by descending score, like the loop in COCOeval.evaluateImg.

    A detection is matched with the unmatched object of the highest IoU, if that reaches the threshold. The
    later object wins ties; ignored objects are matched only if there is no other. A crowd can be matched
    any number of times.
    """
    ignored = result["gtIgnore"].tolist()
    near: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for d, g in np.argwhere(ious >= thresholds[0]).tolist():
        near[d].append((g, float(ious[d, g])))
    for t, threshold in enumerate(thresholds.tolist()):
        lowest = min(threshold, 1 - 1e-10)  # so that equal boxes match despite rounding
        taken: set[int] = set()
        for d, objects in near.items():
            best, match = lowest, -1
            for g, iou in objects:  # ignored objects come last
                if g in taken and not crowd[g]:
                    continue
                if match > -1 and not ignored[match] and ignored[g]:
                    break
                if iou >= best:
                    best, match = iou, g
            if match > -1:
                taken.add(match)
                result["dtMatches"][t, d] = result["gtIds"][match]
                result["gtMatches"][t, match] = result["dtIds"][d]
                result["dtIgnore"][t, d] = ignored[match]


# ---- Scores


# In the order of COCOeval.stats.
_NUMBERS = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl"),
    *("AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
)
_KEYPOINT_NUMBERS = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")
_ALL_SIZES, _MOST_DETECTIONS = (
    0,
    -1,
)  # indices in COCOeval's axes of size ranges and of detections per image


@dataclass(frozen=True)
class CocoScores(DetectionScores):
    """Scores of boxes, masks or keypoints.

    ``numbers`` contains COCO's twelve metrics in percent: AP (mean over IoU .50:.95), AP50, AP75, AP of small
    (below 32^2 pixels), medium and large (96^2 and above) objects, and the average recall with 1, 10 and 100
    detections per image and class, and by size. NaN if the split has no such object. For keypoints: AP and
    average recall (AR) at all thresholds, at 0.50, at 0.75, and of medium and large objects, with 20
    detections per image; the overlap is the object keypoint similarity.
    """

    kind: Kind


def coco_ap(scenes: Scenes, predictions: Sequence[Prediction], kind: Kind = "bbox") -> CocoScores:
    """Score boxes ("bbox"), masks ("segm") or "keypoints" like Detectron2's COCOEvaluator.

    Sides of predicted boxes are float32 differences. The size of an object is its annotated area, otherwise
    the area of its mask, otherwise that of its box; the size of a detection is the area of its box or mask.
    Crowds are ignored regions, and for keypoints also the objects without labeled ones; the size of a
    detection with keypoints is that of its box. ``difficult`` is not used. Equal scores are ranked by
    ascending image id. Without any detection the score is 0 (in Detectron2 NaN).

    Raises:
        UserError: the split has no scenes or no classes; the predictions do not match it (see ``in_order``);
            or an object or a prediction lacks the masks or keypoints to score.
    """
    if not scenes.scenes or not scenes.classes:
        raise UserError(
            f"{scenes.name} has {len(scenes.scenes)} scenes and {len(scenes.classes)} classes; "
            "expected at least one of each."
        )
    ordered = in_order(scenes, predictions)
    evaluation = Evaluation(len(scenes.scenes), len(scenes.classes), kind)
    if kind == "keypoints" and scenes.keypoints is not None and scenes.keypoints.sigmas:
        evaluation.params.kpt_oks_sigmas = np.array(scenes.keypoints.sigmas)
    for place, index in enumerate(ranked(scenes)):
        scene = scenes.scenes[index]
        evaluation.add(place, objects_of(scene, kind), detections_of(scene, ordered[index], kind))
    with contextlib.redirect_stdout(io.StringIO()):  # COCOeval prints its progress
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return _scores(scenes, evaluation, kind)


def ranked(scenes: Scenes) -> list[int]:
    """Indices of the scenes by ascending id, which is the order of equal scores."""
    return sorted(range(len(scenes.scenes)), key=lambda i: _by_id(scenes.scenes[i]))


def objects_of(scene: Scene, kind: Kind) -> list[Labeled]:
    """Label and annotation of each object.

    Raises:
        UserError: an object lacks the mask or the keypoints to score.
    """
    boxes = [(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in (o.box for o in scene.instances)]
    sizes = [o.area for o in scene.instances]
    entries: list[dict[str, Any]] = [
        {"iscrowd": int(o.crowd), "ignore": int(o.crowd), "bbox": list(box)}
        for o, box in zip(scene.instances, boxes, strict=True)
    ]
    drawn = [i for i, o in enumerate(scene.instances) if o.mask is not None]
    if kind == "segm" and len(drawn) < len(entries):
        raise UserError(
            f"an object of scene {scene.id!r} has no mask; scoring masks needs one for each "
            "object.\nScore boxes, or use data with masks."
        )
    if kind == "keypoints":
        for instance, entry in zip(scene.instances, entries, strict=True):
            _add_keypoints(scene, instance, entry)
    if kind == "segm" or None in sizes:
        masks = _masks(scene)
        for i, mask, pixels in zip(drawn, masks, area(masks).tolist(), strict=True):
            entries[i]["segmentation"] = mask
            sizes[i] = float(pixels) if sizes[i] is None else sizes[i]
    for entry, size, (_, _, width, height) in zip(entries, sizes, boxes, strict=True):
        entry["area"] = width * height if size is None else size
    return [(o.label, entry) for o, entry in zip(scene.instances, entries, strict=True)]


def _add_keypoints(scene: Scene, instance: Instance, entry: dict[str, Any]) -> None:
    if instance.keypoints is None:
        raise UserError(
            f"an object of scene {scene.id!r} has no keypoints; scoring keypoints needs them for each "
            "object.\nScore boxes, or use data with keypoints."
        )
    points = pixel_indices(np.array(instance.keypoints).reshape(-1, 3))
    count = labeled(instance.keypoints)
    entry |= {"keypoints": points.ravel().tolist(), "num_keypoints": count}
    entry["ignore"] = int(instance.crowd or count == 0)


def pixel_indices(
    keypoints: np.ndarray,  # (..., 3)
) -> np.ndarray:  # (..., 3), of the same type
    """Keypoints whose coordinates are COCO's indices of pixels instead of the centers of pixels."""
    return keypoints - np.array([PIXEL_CENTER, PIXEL_CENTER, 0], dtype=keypoints.dtype)


def _masks(scene: Scene) -> list[RunLengths]:
    """The masks of the objects that have one."""
    given = [o.mask for o in scene.instances if o.mask is not None]
    try:
        return all_to_rle(given, scene.height, scene.width)
    except UserError as error:
        raise UserError(f"scene {scene.id!r} has {error}") from error


def detections_of(scene: Scene, prediction: Prediction, kind: Kind) -> list[Labeled]:
    """Label and annotation of each detection.

    Raises:
        UserError: the prediction lacks the masks or keypoints to score.
    """
    labels, scores = prediction.labels.tolist(), prediction.scores.astype(np.float32).tolist()
    if kind == "segm":
        if prediction.masks is None and labels:
            raise UserError(
                f"the prediction for scene {scene.id!r} has no masks.\n"
                "Score boxes, or use a detector with a mask head."
            )
        masks = prediction.masks or ()
        shapes = [{"segmentation": m, "area": a} for m, a in zip(masks, area(masks), strict=True)]
    else:
        boxes = prediction.boxes.astype(np.float32)
        sides = boxes[:, 2:] - boxes[:, :2]
        rows = np.concatenate([boxes[:, :2], sides], axis=1).tolist()
        shapes = [{"bbox": box, "area": box[2] * box[3]} for box in rows]
    if kind == "keypoints" and labels:
        if prediction.keypoints is None:
            raise UserError(
                f"the prediction for scene {scene.id!r} has no keypoints.\n"
                "Score boxes, or use a detector with a keypoint head."
            )
        points = pixel_indices(prediction.keypoints).reshape(len(labels), -1).tolist()
        shapes = [shape | {"keypoints": own} for shape, own in zip(shapes, points, strict=True)]
    return [
        (label, {"score": score, "iscrowd": 0, **shape})
        for label, score, shape in zip(labels, scores, shapes, strict=True)
    ]


def _by_id(scene: Scene) -> tuple[int, int | str]:
    """Sort key: numbers come before names."""
    return (0, scene.id) if isinstance(scene.id, int) else (1, scene.id)


def _scores(scenes: Scenes, evaluation: Evaluation, kind: Kind) -> CocoScores:
    order = ranked(scenes)
    found = evaluation.eval["precision"][..., _ALL_SIZES, _MOST_DETECTIONS]  # (T, 101, K)
    precision = np.where(found > -1, found, np.nan)  # -1 means "no such object"
    stats = [100 * float(value) if value > -1 else float("nan") for value in evaluation.stats]
    return CocoScores(
        metric=f"COCO {kind} AP",
        numbers=dict(
            zip(_KEYPOINT_NUMBERS if kind == "keypoints" else _NUMBERS, stats, strict=True)
        ),
        classes=scenes.classes,
        thresholds=tuple(evaluation.params.iouThrs.tolist()),
        class_ap=100 * precision.mean(axis=1),
        precision=precision,
        objects=_counted(scenes.classes, evaluation.objects),
        detections=_counted(scenes.classes, evaluation.detections),
        matches=MatchFlags(
            tuple(evaluation.matches(label, order) for label in range(len(scenes.classes))),
            "101-point",
        ),
        kind=kind,
    )


def _counted(
    classes: Sequence[str], entries: dict[tuple[int, int], list[dict[str, Any]]]
) -> np.ndarray:  # (K,) int64
    """Number of annotations of each class, without crowds."""
    counts = np.zeros(len(classes), dtype=np.int64)
    for (_, label), own in entries.items():
        counts[label] += sum(not entry["iscrowd"] for entry in own)
    return counts
