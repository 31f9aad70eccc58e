"""The verdict of the gate, from statistics and from a comparison with the untrained twin."""

from dataclasses import dataclass
from typing import Literal

from transfer.gating.gate_statistics import FeatureHealth, NormState
from transfer.scoring.paired_hits import PairedDifference

Verdict = Literal["learned", "not learned", "unclear"]

MARGIN = 2.0
"""Percentage points by which the network must exceed its twins, at the lower end of the 95 % interval.

The interval covers the choice of images only, but untrained networks of different seeds also differ: on the
embedded digits, the standard deviation of 20-NN accuracy over twelve seeds is 3.1 points (resnet18-narrow)
and 2.8 (resnet18-tiny). With this margin and the better of two twins, 1 % and 2 % of the untrained networks
among these pass as learned; with one twin, 4 % and 5 %; with one twin and without the margin, 15 % and 14 %.
A first look at 300 images, with one twin and a 99 % interval, passes none of them.
"""
MANY_DEAD = 0.1
"""A larger share of dead channels, and more than the twin has, is a warning."""


@dataclass(frozen=True)
class Comparison:
    """kNN of the network and of its untrained twins on the same held-out training images.

    Attributes:
        name: of the score, such as ``20-NN top-1``.
        own: accuracy of the network in percent.
        twins: accuracies of the twins in percent, one for each seed.
        difference: between the network and the best twin.
    """

    name: str
    own: float
    twins: tuple[float, ...]
    difference: PairedDifference


@dataclass(frozen=True)
class Evidence:
    """What the gate measured.

    Attributes:
        norms: state of the norm layers.
        own, twin: statistics of the features of the network and of its first untrained twin.
        signs: signs in the features of photographs that a ResNet is random; see ``signs_in_features``.
        comparison: kNN accuracies, or the reason why there are none.
    """

    norms: NormState
    own: FeatureHealth
    twin: FeatureHealth
    signs: tuple[str, ...]
    comparison: Comparison | str


def decide(evidence: Evidence) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict and the reasons for it, one sentence each, the decisive one first.

    ``learned`` needs a kNN accuracy above the twin's: statistics only show that weights were changed.
    Without usable labels, a network can therefore be ``not learned`` or ``unclear``.
    """
    broken = _broken(evidence)
    if broken:
        return "not learned", broken
    found, spread = evidence.comparison, describe_spread(evidence.own, evidence.twin)
    if isinstance(found, str):
        reason = f"no kNN accuracy: {found}"
        if evidence.signs:
            return "not learned", (*evidence.signs, reason, spread)
        trained = (
            "the weights were changed by training, but whether the features are useful is unknown"
        )
        return "unclear", (f"{reason}; {trained}", spread)
    compared = describe_comparison(found)
    if found.difference.low > MARGIN:
        return "learned", (compared, spread)
    if evidence.signs:
        return "not learned", (compared, *evidence.signs, spread)
    if found.difference.high < MARGIN:
        return "not learned", (
            f"{compared}; on these data it is no better than untrained networks",
            spread,
        )
    more = (
        f"{compared}; the interval does not exclude a difference of {MARGIN:g} points, which untrained "
        "networks of different seeds may have. If there are more images, use them: --bank and --queries"
    )
    return "unclear", (more, spread)


def is_conclusive(evidence: Evidence) -> bool:
    """Whether the verdict needs no more images: it is clear, or accuracies cannot be compared at all."""
    found = evidence.comparison
    if isinstance(found, str) or _broken(evidence):
        return True
    return found.difference.low > MARGIN


def _broken(evidence: Evidence) -> tuple[str, ...]:
    """Statistics that no trained network has."""
    own, norms, found = evidence.own, evidence.norms, evidence.comparison
    if own.finite < own.images:
        return (
            f"features of {own.images - own.finite} of {own.images} images are not finite: training "
            "diverged, or the weights do not belong together",
        )
    if own.constant == 1:
        return (
            f"the features of all {own.images} images are equal: every channel is dead, the network "
            "has collapsed",
        )
    if norms.layers and norms.untouched == norms.layers:
        untrained = f"all {norms.layers} norm layers are as initialized: the network is untrained"
        return (untrained,) if isinstance(found, str) else (untrained, describe_comparison(found))
    return ()


def describe_comparison(found: Comparison) -> str:
    """The comparison with the twin as a sentence."""
    difference = found.difference
    return (
        f"{found.name} on {difference.images} held-out training images is {found.own:.1f} %, "
        f"{_of_twins(found.twins)} {max(found.twins):.1f} %: {difference.value:+.1f} points "
        f"({100 * difference.confidence:g} % interval {difference.low:+.1f} to {difference.high:+.1f})"
    )


def _of_twins(twins: tuple[float, ...]) -> str:
    return (
        "the untrained twin's" if len(twins) == 1 else f"the best of {len(twins)} untrained twins'"
    )


def describe_spread(own: FeatureHealth, twin: FeatureHealth) -> str:
    """How evenly the features use their dimensions, next to the twin's, as a sentence."""
    return (
        f"effective rank of the features {own.effective_rank:.1f} (twin {twin.effective_rank:.1f}), RankMe "
        f"{own.rankme:.1f} ({twin.rankme:.1f}), spread {own.std:.2f} ({twin.std:.2f}), dead channels "
        f"{own.constant:.0%} ({twin.constant:.0%})"
    )


def cautions(evidence: Evidence) -> tuple[str, ...]:
    """What is unusual, whatever the verdict; for the warnings of the record."""
    own, twin, norms = evidence.own, evidence.twin, evidence.norms
    found = list(evidence.signs)
    if max(MANY_DEAD, twin.constant) < own.constant < 1:
        found.append(
            f"{own.constant:.0%} of the feature's channels are dead: equal for all {own.images} images "
            f"(twin {twin.constant:.0%})"
        )
    if 0 < norms.untouched < norms.layers:
        found.append(
            f"{norms.untouched} of {norms.layers} norm layers are as initialized: they were never loaded or "
            "trained"
        )
    if norms.refilled:
        found.append(
            f"{norms.refilled} of {norms.layers} BatchNorm layers have initial running statistics, although "
            "their weights are trained: the statistics were never updated, or were lost in a conversion"
        )
    if norms.forwarded:
        found.append(
            f"{norms.forwarded} of {norms.layers} BatchNorm layers have initial weights, although their "
            "running statistics were updated: forward passes without training"
        )
    return tuple(found)
