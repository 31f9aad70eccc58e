"""Scores: what protocols return, and everything that a report knows about them.

A published number is also a ``Score``, with a source instead of a run. Two scores belong in one column
only if their names, data and rules are equal; names are never parsed.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from msbreg.run.errors import UserError
from transfer.scoring.match_flags import MatchFlags


@dataclass(frozen=True)
class DataId:
    """Which images a score was measured on.

    Attributes:
        name: name of the data in tables, such as ``digits`` or ``VOC 2007``.
        split: such as ``test``; empty if the name includes it, as in ``voc_2007_test``.
        fingerprint: digest of the split's content; empty for a published number.
    """

    name: str
    split: str
    fingerprint: str = ""


@dataclass(frozen=True)
class Score:
    """A number with everything needed to compare it.

    Attributes:
        name: name of the quantity, as in the header of a table: ``top-1``, ``box AP50``.
        value: in ``unit``; NaN if the quantity is undefined.
        unit: ``%`` for percent, otherwise the unit's symbol.
        higher_is_better: whether a larger value is better.
        data: the images that were scored.
        rules: definition of the quantity: ``VOC 11-point``, ``20 neighbors, weighted vote``.
        n: number of images that were scored.
        stderr: standard error of ``value`` over samples of the test images; None if unknown.
        per_class: the quantity of each class; None if it is not defined per class.

    >>> score = Score("20-NN top-1", 61.5, DataId("digits", "val"), "20 neighbors", n=720, stderr=1.8)
    >>> f"{score.value} ± {score.stderr} {score.unit} on {score.data.name} {score.data.split}"
    '61.5 ± 1.8 % on digits val'
    """

    name: str
    value: float
    data: DataId
    rules: str
    n: int
    unit: str = "%"
    higher_is_better: bool = True
    stderr: float | None = None
    per_class: Mapping[str, float] | None = None

    def as_dict(self) -> dict[str, Any]:
        """As JSON types, for a record; values that are not finite become null."""

        def number(value: float | None) -> float | None:
            return value if value is not None and math.isfinite(value) else None

        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(Score)}
        fields["data"] = dataclasses.asdict(self.data)
        fields["value"], fields["stderr"] = number(self.value), number(self.stderr)
        if self.per_class is not None:
            fields["per_class"] = {name: number(value) for name, value in self.per_class.items()}
        return fields


def score_from_dict(fields: Any) -> Score:
    """The inverse of ``Score.as_dict``.

    Raises:
        UserError: a field is missing, unknown or has the wrong type; the message names it.
    """
    expected = {field.name for field in dataclasses.fields(Score)}
    if not isinstance(fields, dict) or set(fields) != expected:
        found = sorted(fields) if isinstance(fields, dict) else type(fields).__name__
        raise UserError(f"a score has the fields {sorted(expected)}, found {found}")

    def number(value: Any, what: str) -> float:
        if value is None:
            return math.nan
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{what} of a score is {str(value)[:80]!r}; expected a number or null")
        try:
            return float(value)
        except OverflowError as error:
            raise UserError(f"{what} of a score is out of range for a float") from error

    data, per_class = fields["data"], fields["per_class"]
    if not isinstance(data, dict) or not all(isinstance(v, str) for v in data.values()):
        raise UserError(f"data of a score is {str(data)[:80]!r}; expected name, split, fingerprint")
    texts = [fields[name] for name in ("name", "rules", "unit")]
    if not all(isinstance(text, str) for text in texts) or type(fields["n"]) is not int:
        raise UserError(
            f"name, rules and unit of a score are {texts!r} and n is {fields['n']!r}; expected strings "
            "and an integer"
        )
    if per_class is not None and not isinstance(per_class, dict):
        raise UserError(f"per_class of a score is {type(per_class).__name__}; expected a mapping")
    return Score(
        name=fields["name"],
        value=number(fields["value"], "value"),
        data=DataId(**{name: data.get(name, "") for name in ("name", "split", "fingerprint")}),
        rules=fields["rules"],
        n=fields["n"],
        unit=fields["unit"],
        higher_is_better=fields["higher_is_better"] is True,
        stderr=None if fields["stderr"] is None else number(fields["stderr"], "stderr"),
        per_class=None
        if per_class is None
        else {str(name): number(value, "per_class") for name, value in per_class.items()},
    )


# ---- Average precision of boxes or masks, by any metric


THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))
"""IoU thresholds of COCO's primary metric, which Detectron2 also uses for VOC."""
RECALLS = np.linspace(0, 1, 101)
"""Recalls at which precision-recall curves are sampled: COCO's recThrs."""


@dataclass(frozen=True)
class DetectionScores:
    """Detection scores of one split.

    Attributes:
        metric: such as "VOC 11-point AP" or "COCO bbox AP".
        numbers: AP, AP50, AP75 and the other values of the metric, in percent; NaN if undefined (for
            example if the split has no small objects).
        classes: names of the K classes, in label order.
        thresholds: T IoU thresholds.
        class_ap: (T, K) average precision in percent; NaN for a class that the metric excludes.
        precision: (T, 101, K) interpolated precision in [0, 1] at ``RECALLS``: the highest at this recall
            or above, 0 if the recall is not reached; NaN for a class without objects.
        objects: (K,) number of annotated objects, without difficult ones and crowds.
        detections: (K,) number of scored predictions.
        matches: which detections match an object, from which AP, AP50 and AP75 can be computed again.
    """

    metric: str
    numbers: dict[str, float]
    classes: tuple[str, ...]
    thresholds: tuple[float, ...]
    class_ap: np.ndarray
    precision: np.ndarray
    objects: np.ndarray
    detections: np.ndarray
    matches: MatchFlags

    @property
    def absent(self) -> tuple[str, ...]:
        """Classes without objects."""
        return tuple(n for n, count in zip(self.classes, self.objects, strict=True) if not count)

    def summary(self) -> dict[str, float | None]:
        """The numbers, with None instead of NaN."""
        return {name: _known(value) for name, value in self.numbers.items()}

    def table(self) -> list[dict[str, str | int | float | None]]:
        """One row per class, in label order: objects, detections, AP, AP50, AP75.

        AP is the mean over all thresholds in percent; None if the metric excludes the class.
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
