"""Our network and crops reproduce MMSegmentation's recorded numbers (mmseg_frozen_numbers.json).

Both are computed in float64, because instruction sets and versions of PyTorch round float32 differently and
three steps amplify that. The tolerances leave room for the rest, such as another rounding in OpenCV; a
wrong constant (a dilation, the power of the schedule, a mean) moves the numbers by percents.
"""

import json

import pytest

from tests.transfer.segmenters.mmseg_cases import CASES, settled
from tests.transfer.segmenters.mmseg_frozen_numbers import (
    CROPS,
    FILE,
    FROZEN,
    numbers_of_crops,
    numbers_of_network,
    our_crops,
)

RECORDED = json.loads(FILE.read_text())


@pytest.fixture(scope="module", params=FROZEN)
def numbers(request):
    """Our numbers and the recorded ones."""
    case = CASES[request.param]
    return numbers_of_network(case, settled(case)), RECORDED["networks"][request.param]


def test_losses_and_weights_of_three_steps(numbers):
    found, expected = numbers
    for one, other in zip(found["losses"], expected["losses"], strict=True):
        assert one == pytest.approx(other, rel=2e-3)
    assert found["weights"] == pytest.approx(expected["weights"], rel=1e-4)


def test_scores_of_an_image(numbers):
    found, expected = numbers
    for (mean, deviation), (right, spread) in zip(found["scores"], expected["scores"], strict=True):
        assert mean == pytest.approx(right, abs=5e-3 * spread)
        assert deviation == pytest.approx(spread, rel=1e-2)
    total = sum(expected["labels"])
    assert found["labels"] == pytest.approx(expected["labels"], abs=0.01 * total)


@pytest.mark.parametrize("name", CROPS)
def test_crops(name):
    expected = RECORDED["crops"][name]
    for one, right in zip(numbers_of_crops(our_crops(name)), expected, strict=True):
        assert one["shape"] == right["shape"]
        assert one["labels"] == right["labels"]  # the nearest label is a pixel's own
        assert one["pixels"] == pytest.approx(right["pixels"], abs=0.5)
