"""Whether a score is inside its published band, and common causes if it is not."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from transfer.calibration.bands import Band
from transfer.scoring.scores import Score

CAUSES = {
    "knn": (
        "interpolation (bicubic instead of bilinear changes kNN by tenths of a point), the temperature, "
        "another network of the file (--encoder), the normalization, or labels of the validation images in "
        "another order (then the score is near 0)"
    ),
    "linear": (
        "learning rate or batch size changed without the other, --route cached (no augmentation), a "
        "BatchNorm before the layer, or bfloat16 features"
    ),
    "svm": (
        "squashed instead of center-cropped images (about 0.6 points), another grid of costs, the "
        "treatment of difficult images, or a pooled map instead of the global average pool"
    ),
    "detection": (
        "frozen or unsynchronized BatchNorm, few images per GPU, no precise BatchNorm, another batch size "
        "at the same learning rate, or a single trial (AP75 has a std of 0.4)"
    ),
}
"""Protocol -> common causes of a deviation; see docs/frozen-protocols.md and docs/detection.md."""


@dataclass(frozen=True)
class Judgment:
    """A score beside its band.

    Attributes:
        band: the published score and its tolerance.
        value: our score; NaN if the run has none of this name.
        images: number of images that we scored.
        word: the judgment: ``inside``, ``outside`` or ``not comparable``.
        sentence: the result in words.
    """

    band: Band
    value: float
    images: int
    word: str
    sentence: str


def judge_scores(scores: Sequence[Score], bands: Sequence[Band]) -> list[Judgment]:
    """One judgment for each band.

    A score of another number of images is not comparable, even if it is inside the band.
    """
    by_name = {score.name: score for score in scores}
    return [_judge(by_name.get(band.score), band) for band in bands]


def _judge(score: Score | None, band: Band) -> Judgment:
    limits = f"{band.value:g} ± {band.tolerance:g}"
    if score is None or not math.isfinite(score.value):
        sentence = f"{band.score}: the run has no such score; published {limits}"
        return Judgment(band, math.nan, 0, "not comparable", sentence)
    difference = score.value - band.value
    ours = f"{band.score}: {score.value:.2f}, published {limits} ({band.source})"
    if score.n != band.images:
        sentence = (
            f"{ours}. Not comparable: {score.n:,} images were scored, the published number is of "
            f"{band.images:,}"
        )
        return Judgment(band, score.value, score.n, "not comparable", sentence)
    if round(abs(difference), 6) <= band.tolerance:
        sentence = f"{ours}. Inside the band: {difference:+.2f} points"
        return Judgment(band, score.value, score.n, "inside", sentence)
    excess = abs(difference) - band.tolerance
    side = "above" if difference > 0 else "below"
    sentence = (
        f"{ours}. Outside the band: {difference:+.2f} points, {excess:.2f} points {side} it. Tolerance: "
        f"{band.tolerance_source}. Common causes: {CAUSES[band.protocol]}"
    )
    return Judgment(band, score.value, score.n, "outside", sentence)
