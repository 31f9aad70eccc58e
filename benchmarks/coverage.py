"""How often the 95 % intervals of transfer/verdicts contain the true difference, on data with a known truth.

    python benchmarks/coverage.py --data-sets 1000

Each data set is a sample of test images (and, for seeds, of trained networks) from a known population. The
truth is the score of the population: that of a sample of 200,000 images. An honest 95 % interval contains it
in 93.6 to 96.4 % of 1,000 data sets (two binomial standard errors).
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from transfer.scoring.match_flags import ClassMatches, MatchFlags
from transfer.scoring.scores import DataId, Score
from transfer.verdicts.comparison import compare
from transfer.verdicts.outcome_kinds import (
    detection_outcomes,
    group_outcomes,
    mean_iou_outcomes,
    mean_outcomes,
    ranking_outcomes,
)
from transfer.verdicts.outcomes import Outcomes
from transfer.verdicts.weighted_scores import recorded_value

POPULATION = 200_000
DRAWS = 400
SCORE = Score("score", 0.0, DataId("drawn", "test"), "", n=1)

Sample = Callable[[int, Sequence[float], np.random.Generator], list[Outcomes]]
"""N images and the abilities of networks -> the outcomes of each network on the same images."""


def accuracy(images: int, abilities: Sequence[float], rng: np.random.Generator) -> list[Outcomes]:
    """Top-1: an image is easier or harder for all networks alike, and a network has its own luck with it."""
    ease = rng.normal(size=images)
    return [
        mean_outcomes(SCORE, "", ease + rng.normal(size=images) + ability > 0)
        for ability in abilities
    ]


def class_accuracy(
    images: int, abilities: Sequence[float], rng: np.random.Generator
) -> list[Outcomes]:
    """Mean per class of ten classes, of which the largest has ten times the images of the smallest."""
    classes = np.arange(10)
    sizes = 1.0 + classes
    labels = rng.choice(10, size=images, p=sizes / sizes.sum())
    ease = rng.normal(size=images) + 0.1 * labels
    return [
        group_outcomes(SCORE, "", ease + rng.normal(size=images) + ability > 0, labels, 10)
        for ability in abilities
    ]


def average_precision(
    images: int, abilities: Sequence[float], rng: np.random.Generator
) -> list[Outcomes]:
    """mAP of five classes, each in a tenth of the images; the decision values of networks are correlated."""
    labels = np.where(rng.random((images, 5)) < 0.1, 1, -1)
    ease = rng.normal(size=labels.shape)
    return [
        ranking_outcomes(
            SCORE,
            "",
            (1.5 + ability) * (labels == 1) + 0.7 * ease + 0.7 * rng.normal(size=labels.shape),
            labels,
            curve="area",
        )
        for ability in abilities
    ]


def mean_iou(images: int, abilities: Sequence[float], rng: np.random.Generator) -> list[Outcomes]:
    """mIoU of six classes, each in a third of the images, with objects of very different sizes."""
    pixels = np.exp(rng.normal(6, 1, (images, 6))) * (rng.random((images, 6)) < 1 / 3)
    unions = np.ceil(pixels).astype(np.int64)
    ease = rng.normal(size=unions.shape)
    outcomes = []
    for ability in abilities:
        share = 1 / (1 + np.exp(-(ability + ease + rng.normal(size=unions.shape))))
        outcomes.append(
            mean_iou_outcomes(SCORE, "", np.rint(share * unions).astype(np.int64), unions)
        )
    return outcomes


def detection(images: int, abilities: Sequence[float], rng: np.random.Generator) -> list[Outcomes]:
    """AP over two thresholds and three classes, each with 0.5 objects and 1 false detection per image."""
    score = replace(SCORE, n=images)
    truth = [np.repeat(np.arange(images), rng.poisson(0.5, images)) for _ in range(3)]
    wrong = [np.repeat(np.arange(images), rng.poisson(1.0, images)) for _ in range(3)]
    ease = [rng.normal(size=len(a) + len(b)) for a, b in zip(truth, wrong, strict=True)]
    outcomes = []
    for ability in abilities:
        classes = []
        for objects, others, shared in zip(truth, wrong, ease, strict=True):
            right = np.arange(len(shared)) < len(objects)
            confidence = (1 + ability) * right + 0.7 * (shared + rng.normal(size=len(shared)))
            overlap = ability + 0.7 * (shared + rng.normal(size=len(shared)))
            order = np.argsort(-confidence)
            hit = np.stack([right & (overlap > -1), right & (overlap > 0)])[:, order]
            image = np.concatenate([objects, others])[order]
            classes.append(ClassMatches(image, hit, np.zeros_like(hit), objects))
        flags = MatchFlags(tuple(classes), "101-point")
        outcomes.append(detection_outcomes(score, "", flags, thresholds=(0, 1)))
    return outcomes


@dataclass(frozen=True)
class Case:
    """Networks and test sets of a simulation.

    Attributes:
        images: number of test images.
        abilities: mean ability of our and of their network.
        seeds: number of trained networks of each.
        spread: standard deviation of the ability over seeds.
    """

    name: str
    sample: Sample
    images: int
    abilities: tuple[float, float] = (0.2, 0.0)
    seeds: tuple[int, int] = (1, 1)
    spread: float = 0.0


CASES = (
    Case("top-1, 300 images", accuracy, 300),
    Case("top-1, 700 images", accuracy, 700),
    Case("top-1, 300 images, 98 and 97 %", accuracy, 300, (2.9, 2.7)),
    Case("top-1, 40 images", accuracy, 40),
    Case("top-1, 500 images, equal", accuracy, 500, (0.0, 0.0)),
    Case("mean per class, 500 images", class_accuracy, 500),
    Case("mAP, 100 positives per class", average_precision, 1000),
    Case("mAP, 20 positives per class", average_precision, 200),
    Case("mAP, 5 positives per class", average_precision, 50),
    Case("mAP, 20 positives, equal", average_precision, 200, (0.0, 0.0)),
    Case("mIoU, 200 images", mean_iou, 200),
    Case("mIoU, 50 images", mean_iou, 50),
    Case("AP of boxes, 400 images", detection, 400),
    Case("AP of boxes, 60 images", detection, 60),
    Case("top-1, 3 and 3 equal seeds", accuracy, 500, seeds=(3, 3)),
    Case("top-1, 3 and 3 seeds, sd 2 %", accuracy, 500, seeds=(3, 3), spread=0.07),
    Case("top-1, 3 and 3 seeds, sd 6 %", accuracy, 500, seeds=(3, 3), spread=0.2),
    Case("top-1, 5 and 3 seeds, sd 3 %", accuracy, 500, seeds=(5, 3), spread=0.1),
    Case("top-1, 3 and 3 seeds, equal", accuracy, 500, (0.0, 0.0), seeds=(3, 3), spread=0.1),
    Case("top-1, 2 and 2 seeds, sd 3 %", accuracy, 500, seeds=(2, 2), spread=0.1),
    Case("mAP, 3 and 3 seeds", average_precision, 500, seeds=(3, 3), spread=0.1),
)


def truth(case: Case, rng: np.random.Generator, images: int = POPULATION) -> float:
    """The difference of the population: of many images and, with several seeds, of many networks."""
    if case.abilities[0] == case.abilities[1]:
        return 0.0
    if not case.spread:
        ours, theirs = map(recorded_value, case.sample(images, case.abilities, rng))
        return ours - theirs
    means = []
    for ability in case.abilities:
        drawn = ability + case.spread * rng.normal(size=400)
        own = [recorded_value(case.sample(images // 20, [each], rng)[0]) for each in drawn]
        means.append(np.mean(own))
    return float(means[0] - means[1])


@dataclass(frozen=True)
class Coverage:
    """How often intervals contain the truth, their mean width, and how often p < 0.05."""

    truth: float
    covered: float
    width: float
    significant: float


def coverage(
    case: Case,
    data_sets: int,
    *,
    seed: int = 0,
    draws: int = DRAWS,
    truth_images: int = POPULATION,
) -> Coverage:
    """Draw data sets, and compare the networks on each."""
    rng = np.random.default_rng(seed)
    true = truth(case, rng, truth_images)
    ours, theirs = case.seeds
    inside, widths, significant = 0, [], 0
    for number in range(data_sets):
        abilities = np.repeat(case.abilities, [ours, theirs])
        abilities = abilities + case.spread * rng.normal(size=len(abilities))
        outcomes = case.sample(case.images, abilities.tolist(), rng)
        found = compare(
            outcomes[:ours], outcomes[ours:], higher_is_better=True, draws=draws, seed=number
        )
        low, high = found.interval
        inside += low <= true <= high
        widths.append(high - low)
        significant += found.p < 0.05
    return Coverage(
        true, 100 * inside / data_sets, float(np.mean(widths)), 100 * significant / data_sets
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-sets", type=int, default=1000)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    options = parser.parse_args()
    print(f"{'':34}  difference  covered  mean width  p < 0.05  seconds")
    for case in CASES:
        if options.only in case.name:
            start = time.perf_counter()
            found = coverage(case, options.data_sets)
            print(
                f"{case.name:34}  {found.truth:10.2f}  {found.covered:5.1f} %  {found.width:10.2f}  "
                f"{found.significant:6.1f} %  {time.perf_counter() - start:7.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
