"""pycocotools' COCOeval, given its entries in memory, and without the loops that find nothing.

COCOeval's greedy matching goes through all pairs of detections and objects at each of ten thresholds
and four ranges of sizes. Most pairs overlap too little to match at any; here the loop sees the others
only. What it finds is the same, and everything else (overlaps, sizes, ignoring, accumulation,
averages) is pycocotools' own.
"""

from collections import defaultdict
from typing import Any, Literal

import numpy as np
from pycocotools.cocoeval import COCOeval

Kind = Literal["bbox", "segm"]
Labelled = tuple[int, dict[str, Any]]
"""A label and an entry: bbox or segmentation, area, and score or iscrowd and ignore."""


class Evaluation(COCOeval):
    """COCOeval of images 0..I-1 and categories 0..K-1.

    Annotations are numbered from 1: to COCOeval a match with annotation 0 is no match.

    Attributes:
        objects, detections: entries by image and category.
    """

    def __init__(self, images: int, classes: int, kind: Kind) -> None:
        super().__init__(iouType=kind)
        self.params.imgIds = list(range(images))
        self.params.catIds = list(range(classes))
        self.objects: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
        self.detections: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
        self._near: dict[tuple[int, int], np.ndarray] = {}
        self._added = [0, 0]

    def add(self, image: int, objects: list[Labelled], detections: list[Labelled]) -> None:
        """Take what is in one image and what was found there; the entries become the evaluation's."""
        for which, (entries, into) in enumerate(
            [(objects, self.objects), (detections, self.detections)]
        ):
            for label, entry in entries:
                self._added[which] += 1
                entry["id"] = self._added[which]
                into[image, label].append(entry)

    def _prepare(self) -> None:
        """Called by ``evaluate``: what the base class looks up."""
        self._gts, self._dts = self.objects, self.detections
        self.evalImgs: Any = defaultdict(list)
        self.eval: dict[str, Any] = {}

    def computeIoU(self, imgId: int, catId: int) -> list[Any]:  # named by the base class
        """Keep overlaps that reach the lowest threshold; tell the base class that there are none."""
        ious = np.asarray(super().computeIoU(imgId, catId))  # (D, G), detections by score
        if ious.size and ious.max() >= self.params.iouThrs[0]:
            self._near[imgId, catId] = ious
        return []

    def evaluateImg(self, imgId: int, catId: int, aRng: list[float], maxDet: int) -> Any:
        """The base class's result, which has no match, with the matches."""
        result = super().evaluateImg(imgId, catId, aRng, maxDet)
        ious = self._near.get((imgId, catId))
        if ious is not None:
            ignored = [entry["_ignore"] for entry in self.objects[imgId, catId]]
            order = np.argsort(ignored, kind="mergesort")  # as gtIds, gtMatches and gtIgnore
            crowd = [self.objects[imgId, catId][i]["iscrowd"] for i in order]
            _match(result, ious[:, order], crowd, self.params.iouThrs)
        return result


def _match(
    result: dict[str, Any],
    ious: np.ndarray,  # (D, G)
    crowd: list[int],  # (G,)
    thresholds: np.ndarray,  # (T,), rising
) -> None:
    """Match greedily by falling score, as the loop of COCOeval.evaluateImg does.

    Of the free objects that overlap enough a detection takes the one that it overlaps most, the later
    of two equal ones, and an ignored object only if there is no other. A crowd is always free.
    """
    ignored = result["gtIgnore"].tolist()
    near: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for d, g in np.argwhere(ious >= thresholds[0]).tolist():
        near[d].append((g, float(ious[d, g])))
    for t, threshold in enumerate(thresholds.tolist()):
        lowest = min(threshold, 1 - 1e-10)  # so that equal boxes match in spite of rounding
        taken: set[int] = set()
        for d, objects in near.items():
            best, match = lowest, -1
            for g, iou in objects:  # ignored ones last
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
