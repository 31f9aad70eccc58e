"""LVIS's average precision: COCO's, with rules for classes that are not annotated in every image.

Source: LVIS (Gupta et al., arXiv 1908.03195, section 2.2) and its package (lvis/eval.py, lvis/results.py),
which does not run with NumPy 1.24 or later. The rules that differ from COCO's:

- At most 300 detections count per image, over all classes.
- A detection counts only in images in which its class is annotated, or is listed as absent.
- A detection without a match is ignored if the image is listed as incomplete for its class.

Matching and accumulation are those of ``coco_ap``. Each class is evaluated on the images that show or predict
it: COCOeval's loops visit all pairs of 1,203 classes and 20,000 images.
"""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from msbreg.data.scenes import Federation, Prediction, Scene, Scenes
from msbreg.run.errors import UserError
from transfer.scoring.coco_ap import (
    Evaluation,
    Kind,
    Labeled,
    detections_of,
    objects_of,
    ranked,
)
from transfer.scoring.match_flags import ClassMatches, MatchFlags, coco_matches
from transfer.scoring.predictions import in_order
from transfer.scoring.scores import RECALLS, THRESHOLDS, DetectionScores

DETECTIONS = 300
"""Per image."""
_SIZES = ("s", "m", "l")
_FREQUENCIES = ("r", "c", "f")
_Class = list[tuple[int, list[Labeled], list[Labeled], bool]]
"""Each image that has objects or detections of a class: its index in the split, these, and whether the image
is incomplete."""


@dataclass(frozen=True)
class LvisScores(DetectionScores):
    """Scores of boxes or masks.

    ``numbers`` contains, in percent: AP (mean over IoU .50:.95), AP50, AP75, AP of small, medium and large
    objects (APs, APm, APl), AP of rare, common and frequent classes (APr, APc, APf), and the average recall
    with 300 detections per image (AR300), also by size (ARs300, ARm300, ARl300). NaN if there is no such
    object.
    """

    kind: Kind


class _ClassEvaluation(Evaluation):
    """The evaluation of one class, on the images of ``given``."""

    def __init__(self, given: _Class, kind: Kind) -> None:
        super().__init__(len(given), 1, kind)
        self.params.maxDets = [DETECTIONS]
        self.places = [place for place, _, _, _ in given]
        self.incomplete = [incomplete for _, _, _, incomplete in given]
        for image, (_, objects, detections, _) in enumerate(given):
            self.add(image, objects, detections)

    def evaluateImg(
        self, imgId: int, catId: int, aRng: list[float], maxDet: int
    ) -> Any:  # its name
        """The base class's result, with unmatched detections ignored in an incomplete image."""
        result = super().evaluateImg(imgId, catId, aRng, maxDet)
        if self.incomplete[imgId]:
            result["dtIgnore"] = np.logical_or(result["dtIgnore"], result["dtMatches"] == 0)
        return result


def lvis_ap(scenes: Scenes, predictions: Sequence[Prediction], kind: Kind = "bbox") -> LvisScores:
    """Score boxes ("bbox") or masks ("segm") like Detectron2's LVISEvaluator.

    The size of a detection is the area of its box or mask. Equal scores are ranked by ascending image id.

    Raises:
        UserError: the split is not federated, the predictions do not match it (see ``in_order``), or kind is
            "segm" and an object or a prediction has no mask.
    """
    federation = scenes.federation
    if federation is None or not scenes.scenes:
        raise UserError(
            f"{scenes.name} does not say which classes are annotated in which of its "
            f"{len(scenes.scenes)} images; LVIS's metric needs data such as lvis_v1_val"
        )
    ordered = in_order(scenes, predictions)
    by_class: list[_Class] = [[] for _ in scenes.classes]
    for index in ranked(scenes):
        scene = scenes.scenes[index]
        objects = _grouped(objects_of(scene, kind))
        detections = _grouped(_counted(scene, ordered[index], kind, federation))
        incomplete = federation.incomplete.get(scene.id, frozenset())
        for label in objects.keys() | detections.keys():
            own = (index, objects.get(label, []), detections.get(label, []), label in incomplete)
            by_class[label].append(own)
    evaluated = [_evaluate(of_class, kind) for of_class in by_class]
    precision = np.stack([p for p, _, _ in evaluated], axis=2)  # (T, 101, K, 4)
    recall = np.stack([r for _, r, _ in evaluated], axis=1)  # (T, K, 4)
    return LvisScores(
        metric=f"LVIS {kind} AP",
        numbers=_numbers(precision, recall, federation),
        classes=scenes.classes,
        thresholds=THRESHOLDS,
        class_ap=100 * precision[..., 0].mean(axis=1),
        precision=precision[..., 0],
        objects=np.array([sum(len(o) for _, o, _, _ in c) for c in by_class], dtype=np.int64),
        detections=np.array([sum(len(d) for _, _, d, _ in c) for c in by_class], dtype=np.int64),
        matches=MatchFlags(
            tuple(m for _, _, m in evaluated),
            "101-point",
            frequencies=tuple(federation.frequencies),
        ),
        kind=kind,
    )


def _counted(
    scene: Scene, prediction: Prediction, kind: Kind, federation: Federation
) -> list[Labeled]:
    """The detections that count in an image, best first."""
    entries = detections_of(scene, prediction, kind)
    order = np.argsort([-entry["score"] for _, entry in entries], kind="stable")[:DETECTIONS]
    judged = {o.label for o in scene.instances} | federation.absent.get(scene.id, frozenset())
    best = [entries[i] for i in order.tolist()]
    return [(label, entry) for label, entry in best if label in judged]


def _grouped(entries: list[Labeled]) -> dict[int, list[Labeled]]:
    """Label -> its annotations, relabeled as class 0."""
    groups: dict[int, list[Labeled]] = {}
    for label, entry in entries:
        groups.setdefault(label, []).append((0, entry))
    return groups


def _evaluate(
    given: _Class, kind: Kind
) -> tuple[np.ndarray, np.ndarray, ClassMatches]:  # (T, 101, 4), (T, 4)
    """Precision and recall of a class: of all, small, medium and large objects; NaN without such objects."""
    if not any(objects for _, objects, _, _ in given):
        shape = (len(THRESHOLDS), len(RECALLS), 1 + len(_SIZES))
        undefined = np.full((shape[0], shape[2]), np.nan)
        return np.full(shape, np.nan), undefined, coco_matches([], [], len(THRESHOLDS))
    evaluation = _ClassEvaluation(given, kind)
    with contextlib.redirect_stdout(io.StringIO()):  # COCOeval prints its progress
        evaluation.evaluate()
        evaluation.accumulate()
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    known = np.where(precision > -1, precision, np.nan)[:, :, 0, :, 0]
    matches = evaluation.matches(0, evaluation.places)
    return known, np.where(recall > -1, recall, np.nan)[:, 0, :, 0], matches


def _numbers(
    precision: np.ndarray,  # (T, 101, K, 4)
    recall: np.ndarray,  # (T, K, 4)
    federation: Federation,
) -> dict[str, float]:
    everything = precision[..., 0]
    numbers = {"AP": _mean(everything)}
    for name, threshold in (("AP50", 0.5), ("AP75", 0.75)):
        numbers[name] = _mean(everything[THRESHOLDS.index(threshold)])
    for place, size in enumerate(_SIZES, 1):
        numbers[f"AP{size}"] = _mean(precision[..., place])
    for frequency in _FREQUENCIES:
        own = [k for k, other in enumerate(federation.frequencies) if other == frequency]
        numbers[f"AP{frequency}"] = _mean(everything[:, :, own])
    for place, size in enumerate(("", *_SIZES)):
        numbers[f"AR{size}{DETECTIONS}"] = _mean(recall[..., place])
    return numbers


def _mean(values: np.ndarray) -> float:
    """Mean in percent over all classes with objects; NaN if there are none."""
    known = values[~np.isnan(values)]
    return 100 * float(known.mean()) if known.size else float("nan")
