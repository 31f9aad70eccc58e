"""The verdict follows from the evidence as documented."""

from dataclasses import replace

import numpy as np
import pytest

from transfer.gating.gate_statistics import FeatureHealth, NormState
from transfer.gating.gate_verdict import Comparison, Evidence, cautions, decide, is_conclusive
from transfer.scoring.paired_hits import paired_difference

HEALTHY = FeatureHealth(300, 300, constant=0.0, std=0.6, effective_rank=40.0, rankme=30.0)
TRAINED = NormState(layers=20, untouched=0, refilled=0, forwarded=0)


def compared(both: int, own: int, twin: int, neither: int) -> Comparison:
    counts = (both, own, twin, neither)
    first = np.repeat([True, True, False, False], counts)
    second = np.repeat([True, False, True, False], counts)
    means = 100 * float(first.mean()), 100 * float(second.mean())
    return Comparison("20-NN top-1", means[0], (means[1],), paired_difference(first, second))


BETTER, SIMILAR, WORSE = compared(20, 60, 5, 15), compared(20, 20, 15, 45), compared(10, 2, 40, 48)


def evidence(comparison, *, norms=TRAINED, own=HEALTHY, signs=()) -> Evidence:
    return Evidence(norms, own, HEALTHY, signs, comparison)


def test_an_accuracy_clearly_above_the_twins_is_learned():
    verdict, reasons = decide(evidence(BETTER))
    assert verdict == "learned"
    assert reasons[0].startswith("20-NN top-1 on 100 held-out training images is 80.0 %")
    assert "+55.0 points" in reasons[0]


def test_an_accuracy_near_the_twins_is_unclear_and_the_reason_says_what_to_do():
    verdict, reasons = decide(evidence(SIMILAR))
    assert verdict == "unclear"
    assert "--queries" in reasons[0]


def test_a_clear_difference_a_broken_network_and_missing_labels_are_conclusive():
    assert is_conclusive(evidence(BETTER))
    assert is_conclusive(evidence(SIMILAR, norms=replace(TRAINED, untouched=20)))
    assert is_conclusive(evidence("the images have no labels"))
    for found in (SIMILAR, WORSE):
        assert not is_conclusive(evidence(found, signs=("features look random",)))


def test_an_accuracy_near_the_twins_with_random_features_is_not_learned():
    assert decide(evidence(SIMILAR, signs=("features look random",)))[0] == "not learned"


def test_an_accuracy_below_the_twins_is_not_learned():
    verdict, reasons = decide(evidence(WORSE))
    assert verdict == "not learned"
    assert "on these data it is no better than untrained networks" in reasons[0]


def test_signs_in_features_do_not_outweigh_a_clearly_better_accuracy():
    found = evidence(BETTER, signs=("features look random",))
    assert decide(found)[0] == "learned"
    assert cautions(found) == ("features look random",)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"own": replace(HEALTHY, finite=298)}, "features of 2 of 300 images are not finite"),
        ({"own": replace(HEALTHY, constant=1.0)}, "the features of all 300 images are equal"),
        ({"norms": replace(TRAINED, untouched=20)}, "all 20 norm layers are as initialized"),
    ],
)
@pytest.mark.parametrize("comparison", [BETTER, "the images have no labels"])
def test_a_broken_network_is_not_learned_whatever_its_accuracy(change, reason, comparison):
    verdict, reasons = decide(evidence(comparison, **change))
    assert verdict == "not learned"
    assert reason in reasons[0]


def test_without_labels_a_sound_network_is_unclear_and_a_random_one_not_learned():
    assert decide(evidence("the images have no labels"))[0] == "unclear"
    found = evidence("the images have no labels", signs=("features look random",))
    assert decide(found)[0] == "not learned"


def test_dead_channels_and_untouched_layers_are_cautions():
    own, norms = replace(HEALTHY, constant=0.5), replace(TRAINED, untouched=3, refilled=2)
    found = cautions(evidence(BETTER, own=own, norms=norms))
    assert found[0].startswith("50% of the feature's channels are dead")
    assert found[1].startswith("3 of 20 norm layers are as initialized")
    assert found[2].startswith("2 of 20 BatchNorm layers have initial running statistics")
    assert cautions(evidence(BETTER)) == ()
