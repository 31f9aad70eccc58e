"""Verdicts on two networks: better, worse, the same, or unclear.

**One network each.** The difference of two scores on the same N test images varies with the choice of these
images. Its variance is that over paired bootstrap resamples, times N / (N - 1), plus that of one more image
on which the networks differ (``variance_of_one_unit``). The interval is the difference +- Student's t
quantile times the root of the variance. Such a verdict is about these two networks on images like these; what
another seed would have given is not in it.

**Several seeds each.** Seeds and images are crossed: every seed is scored on every image. With S seeds of one
method, a score is mu + seed + images + (seed x images), and the variance of the mean over seeds is

    (var_seed + var_seed_x_images) / S + var_images.

The sample variance s^2 of the scores over seeds estimates the sum in parentheses, since both terms vary from
seed to seed on fixed images. The bootstrap over images estimates var_images + var_seed_x_images / S; the part
that s^2 already contains is the variance over resamples of the deviations between seeds, and is subtracted.
The degrees of freedom are Satterthwaite's (Biometrics Bulletin 2, 1946), as in Welch's t test. For crossed
random effects and the bootstrap see Owen (Annals of Applied Statistics 1, 2007).

If only one of the two networks has several seeds, the other is compared as it is, not as a sample of its
method: a published checkpoint against untrained twins, for example.

p-values are those of the same t statistic, so that p < 0.05 exactly if the 95 % interval excludes 0. They are
corrected for the number of comparisons by Holm's method (Scandinavian Journal of Statistics 6, 1979).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.stats

from msbreg.run.errors import UserError
from transfer.scoring.scores import DataId
from transfer.verdicts.bootstrap import DRAWS, Resampled, resample
from transfer.verdicts.outcomes import Outcomes

LEVEL = 0.05
"""Of the corrected p-values, and one minus the coverage of the intervals."""
MARGIN = 1.0
"""Differences of at most so many percentage points (or other units of the score) are called the same."""

Word = Literal["better", "worse", "same", "unclear"]


@dataclass(frozen=True)
class Comparison:
    """The difference between the scores of two networks, and how sure it is.

    Attributes:
        score, rules, data: what was compared.
        higher_is_better: whether a larger value is better.
        difference: ours - theirs, means over seeds, in the score's unit.
        stderr: standard error of the difference.
        degrees: degrees of freedom of the standard error.
        units: number of test images.
        seeds: number of seeds of ours and theirs; (1, 1): only test images count.
    """

    score: str
    rules: str
    data: DataId
    higher_is_better: bool
    difference: float
    stderr: float
    degrees: float
    units: int
    seeds: tuple[int, int]

    @property
    def p(self) -> float:
        """The two-sided p-value of no difference."""
        if not self.stderr:  # every image has the same difference
            return float(not self.difference)
        return float(2 * scipy.stats.t.sf(abs(self.difference) / self.stderr, self.degrees))

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the difference."""
        half = _quantile(self.degrees) * self.stderr
        return self.difference - half, self.difference + half


@dataclass(frozen=True)
class Verdict:
    """What a comparison says about *our* network.

    Attributes:
        difference: ours - theirs, in the score's unit.
        low, high: 95 % interval of the difference, not corrected for the number of comparisons.
        p, p_adjusted: two-sided p-value, and corrected by Holm's method for all comparisons of the report.
        word: better or worse: the corrected p-value is below 0.05. same: it is not, and the whole interval
            lies within the margin. unclear: neither.
        units: number of test images.
        seeds: number of seeds of ours and theirs; (1, 1): only test images count.
    """

    difference: float
    low: float
    high: float
    p: float
    p_adjusted: float
    word: Word
    units: int
    seeds: tuple[int, int]


def compare(
    ours: Sequence[Outcomes],
    theirs: Sequence[Outcomes],
    *,
    higher_is_better: bool,
    draws: int = DRAWS,
    seed: int = 0,
) -> Comparison:
    """Compare one score of two networks, each with one outcome per seed.

    Raises:
        UserError: the outcomes are of different scores, rules, data or images, there are none, or there are
            fewer than two images.
    """
    check_comparable(ours, theirs)
    found = resample((*ours, *theirs), draws, seed)
    return compare_resampled(
        found[: len(ours)], found[len(ours) :], higher_is_better=higher_is_better
    )


def compare_resampled(
    ours: Sequence[Resampled], theirs: Sequence[Resampled], *, higher_is_better: bool
) -> Comparison:
    """``compare`` of scores that were resampled with the same draws and seed.

    Raises:
        UserError: like ``compare``.
    """
    check_comparable([each.of for each in ours], [each.of for each in theirs])
    first = ours[0].of
    defined = np.isfinite([each.scores for each in (*ours, *theirs)]).all(axis=0)
    if np.count_nonzero(defined) < 2:
        raise UserError(
            f"{first.score} is undefined on nearly all resamples of the {first.count} test images; expected "
            "more images"
        )
    values = [np.array([each.value for each in of]) for of in (ours, theirs)]
    variance, degrees = _variance(
        values,
        [np.stack([each.scores[defined] for each in of]) for of in (ours, theirs)],
        units=first.count,
        least=max(each.one_unit for each in (*ours, *theirs)),
    )
    return Comparison(
        score=first.score,
        rules=first.rules,
        data=first.data,
        higher_is_better=higher_is_better,
        difference=float(values[0].mean() - values[1].mean()),
        stderr=math.sqrt(variance),
        degrees=degrees,
        units=first.count,
        seeds=(len(ours), len(theirs)),
    )


def check_comparable(ours: Sequence[Outcomes], theirs: Sequence[Outcomes]) -> None:
    """Check that all outcomes are of one score on the same images.

    Raises:
        UserError: they are not, there are none, or there are fewer than two images.
    """
    if not ours or not theirs:
        raise UserError(f"{len(ours)} and {len(theirs)} outcomes; expected at least one of each")
    first = ours[0]
    for other in (*ours, *theirs):
        for what in ("score", "rules", "data", "kind", "count", "units"):
            expected, found = getattr(first, what), getattr(other, what)
            if expected != found:
                raise UserError(
                    f"{first.score} cannot be compared image by image: {_NAMES[what]} {_shown(expected)} and "
                    f"{_shown(found)}; expected runs of the same protocol on the same images"
                )
    if first.count < 2:
        raise UserError(f"{first.score} has {first.count} test image; expected at least 2")


_NAMES = {
    "score": "the scores are",
    "rules": "their rules are",
    "data": "the data are",
    "kind": "their kinds are",
    "count": "the numbers of images are",
    "units": "the names or the order of the images differ, with digests",
}


def _shown(value: object) -> str:
    if isinstance(value, DataId):
        return f"{value.name} {value.split} ({value.fingerprint[:12]})".replace("  ", " ")
    return value[:60] if isinstance(value, str) else str(value)


def _variance(
    values: Sequence[np.ndarray],  # (S,) of each network: scores by seed
    resampled: Sequence[np.ndarray],  # (S, R) of each network: scores of the resamples
    *,
    units: int,
    least: float,
) -> tuple[float, float]:
    """Variance of the difference of the means, and its degrees of freedom."""
    correction = units / (units - 1)
    difference = resampled[0].mean(axis=0) - resampled[1].mean(axis=0)
    images = float(difference.var(ddof=1)) * correction
    parts: list[tuple[float, float]] = []  # of seeds: variance, degrees of freedom
    for own, drawn in zip(values, resampled, strict=True):
        if len(own) > 1:
            parts.append((float(own.var(ddof=1)) / len(own), len(own) - 1))
            deviations = drawn - drawn.mean(axis=1, keepdims=True)
            interaction = float(deviations.var(axis=0, ddof=1).mean()) * correction
            images -= interaction / len(own)
    parts.append((max(images, 0.0) + least, units - 1))
    total = sum(variance for variance, _ in parts)
    if not total:
        return 0.0, units - 1
    return total, total**2 / sum(variance**2 / degrees for variance, degrees in parts)


def judge(comparisons: Sequence[Comparison], *, margin: float = MARGIN) -> list[Verdict]:
    """Verdicts on our networks, in the order of the comparisons, corrected for their number.

    Args:
        margin: in the score's unit; with a whole interval within +- margin, the networks are the same.
    """
    adjusted = holm([each.p for each in comparisons])
    return [
        Verdict(
            difference=each.difference,
            low=each.interval[0],
            high=each.interval[1],
            p=each.p,
            p_adjusted=p,
            word=_word(each, p, margin),
            units=each.units,
            seeds=each.seeds,
        )
        for each, p in zip(comparisons, adjusted, strict=True)
    ]


def _word(comparison: Comparison, p_adjusted: float, margin: float) -> Word:
    if p_adjusted < LEVEL:
        return "better" if (comparison.difference > 0) == comparison.higher_is_better else "worse"
    low, high = comparison.interval
    return "same" if -margin <= low and high <= margin else "unclear"


def holm(p: Sequence[float]) -> list[float]:
    """p-values that are corrected for their number by Holm's step-down method.

    >>> [round(each, 3) for each in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, np.float64)
    order = np.argsort(values)
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted.tolist()


def interval_of(outcomes: Outcomes, *, draws: int = DRAWS, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of one score over samples of the test images; NaN if nearly none has a value.

    It is cut off at the lowest and the highest possible score, which does not change its coverage.

    Raises:
        UserError: there are fewer than two images.
    """
    check_comparable([outcomes], [outcomes])
    (found,) = resample([outcomes], draws, seed)
    defined = found.scores[np.isfinite(found.scores)]
    if len(defined) < 2:
        return math.nan, math.nan
    variance = float(defined.var(ddof=1)) * outcomes.count / (outcomes.count - 1)
    half = _quantile(outcomes.count - 1) * math.sqrt(variance + found.one_unit)
    highest = math.inf if outcomes.kind == "ratio" else 100.0
    return max(0.0, found.value - half), min(highest, found.value + half)


def _quantile(degrees: float) -> float:
    return float(scipy.stats.t.ppf(1 - LEVEL / 2, degrees))
