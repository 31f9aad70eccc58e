"""What an average precision over boxes or masks comes as, whichever metric it is."""

import math
from dataclasses import dataclass

import numpy as np

THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))
"""IoU of COCO's primary metric, taken over by Detectron2 for VOC."""
RECALLS = np.linspace(0, 1, 101)
"""Where precision-recall curves are sampled, COCO's recThrs."""


@dataclass(frozen=True)
class DetectionScores:
    """Scores of one split.

    Attributes:
        metric: such as "VOC 11-point AP" or "COCO bbox AP".
        numbers: AP, AP50, AP75 and what else the metric has, in percent; NaN where it has no meaning
            (no small object in the split, say).
        classes: the K names, in the order of the labels.
        thresholds: the T IoU thresholds.
        class_ap: (T, K) average precision in percent; NaN for a class that the metric leaves out.
        precision: (T, 101, K) interpolated precision in [0, 1] at ``RECALLS``: the highest at that
            recall or above, 0 where it is not reached; NaN for a class without objects.
        objects: (K,) annotated objects that count (neither difficult nor crowds).
        detections: (K,) predictions that were scored.
    """

    metric: str
    numbers: dict[str, float]
    classes: tuple[str, ...]
    thresholds: tuple[float, ...]
    class_ap: np.ndarray
    precision: np.ndarray
    objects: np.ndarray
    detections: np.ndarray

    @property
    def absent(self) -> tuple[str, ...]:
        """Classes without an object to find."""
        return tuple(n for n, count in zip(self.classes, self.objects, strict=True) if not count)

    def summary(self) -> dict[str, float | None]:
        """The numbers as JSON knows them: NaN becomes null."""
        return {name: _known(value) for name, value in self.numbers.items()}

    def table(self) -> list[dict[str, str | int | float | None]]:
        """One row a class, in the order of the labels: objects, detections, AP, AP50, AP75.

        AP is the mean over all thresholds, in percent; None where the class is left out.
        """
        half, three_quarters = (_index(self.thresholds, value) for value in (0.5, 0.75))
        return [
            {
                "class": name,
                "objects": int(self.objects[k]),
                "detections": int(self.detections[k]),
                "AP": _known(self.class_ap[:, k].mean()),
                "AP50": None if half is None else _known(self.class_ap[half, k]),
                "AP75": None
                if three_quarters is None
                else _known(self.class_ap[three_quarters, k]),
            }
            for k, name in enumerate(self.classes)
        ]


def _index(thresholds: tuple[float, ...], value: float) -> int | None:
    return thresholds.index(value) if value in thresholds else None


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
