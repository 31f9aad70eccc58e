"""Score: what a protocol returns, and all that a report may know of it.

A published number is also a ``Score``, with a source in place of a run. Two scores belong in one
column only if their name, data and rules are equal; nothing is ever decoded from a name.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from msbreg.run.errors import UserError


@dataclass(frozen=True)
class DataId:
    """Which images a score was measured on.

    Attributes:
        name: what tables call the data, such as ``digits`` or ``VOC 2007``.
        split: such as ``test``; empty where the name includes it, as in ``voc_2007_test``.
        fingerprint: content identity of the split; empty for a published number.
    """

    name: str
    split: str
    fingerprint: str = ""


@dataclass(frozen=True)
class Score:
    """One number with everything needed to compare it.

    Attributes:
        name: of the quantity, in the words of a table's head: ``top-1``, ``box AP50``.
        value: in ``unit``; NaN where the quantity is undefined.
        unit: ``%`` for percent, else the unit's symbol.
        higher_is_better: the direction of improvement.
        data: the images that were scored.
        rules: the definition of the quantity: ``VOC 11-point``, ``20 neighbors, weighted vote``.
        n: number of images that were scored.
        stderr: standard error of ``value`` by sampling of the test images; None where unknown.
        per_class: the quantity of each class; None where it has none.

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
        """In JSON's types, for a record; a value that is not finite becomes null."""

        def number(value: float | None) -> float | None:
            return value if value is not None and math.isfinite(value) else None

        fields = dataclasses.asdict(self)
        fields["value"], fields["stderr"] = number(self.value), number(self.stderr)
        if self.per_class is not None:
            fields["per_class"] = {name: number(value) for name, value in self.per_class.items()}
        return fields


def score_from_dict(fields: Any) -> Score:
    """The inverse of ``Score.as_dict``.

    Raises:
        UserError: the fields are not those of a score; the message says which.
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
            raise UserError(f"{what} of a score is beyond the range of float") from error

    data, per_class = fields["data"], fields["per_class"]
    if not isinstance(data, dict) or not all(isinstance(v, str) for v in data.values()):
        raise UserError(f"data of a score is {str(data)[:80]!r}; expected name, split, fingerprint")
    texts = [fields[name] for name in ("name", "rules", "unit")]
    if not all(isinstance(text, str) for text in texts) or type(fields["n"]) is not int:
        raise UserError(
            f"a score is named {texts!r} with n = {fields['n']!r}; expected text, an integer"
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


# ---- What an average precision over boxes or masks comes as, whichever metric it is


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
