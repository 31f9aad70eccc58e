"""Our detector reproduces Detectron2's recorded numbers (frozen_numbers.json).

On the machine that wrote them they are equal to the last digit kept (test_parity.py). Instruction sets
and versions of PyTorch round otherwise: with AVX2 and with SSE4.1 alone, losses and gradients moved by up
to 2e-4 of themselves and boxes by less than a tenth of a pixel. The tolerances are ten times that; a wrong
constant moves them by percents.
"""

import json

import pytest

from tests.transfer.detectors.frozen_numbers import CASES, FILE, numbers_of, ours

FROZEN = json.loads(FILE.read_text())["cases"]


@pytest.fixture(scope="module", params=CASES)
def numbers(request):
    """Our numbers and the recorded ones."""
    return numbers_of(ours(request.param), request.param), FROZEN[request.param]


def test_losses_gradient_and_weights_after_a_step(numbers):
    found, expected = numbers
    assert list(found["losses"]) == list(expected["losses"])
    assert found["losses"] == pytest.approx(expected["losses"], rel=2e-3)
    for name in ("gradient", "weights"):
        assert found[name] == pytest.approx(expected[name], rel=2e-3)


def test_features(numbers):
    found, expected = numbers
    assert list(found["features"]) == list(expected["features"])
    for name, (mean, deviation) in expected["features"].items():
        assert found["features"][name][0] == pytest.approx(mean, abs=2e-3 * deviation)
        assert found["features"][name][1] == pytest.approx(deviation, rel=2e-3)


def test_detections(numbers):
    found, expected = numbers
    for one, right in zip(found["detections"], expected["detections"], strict=True):
        assert one["count"] == right["count"]
        assert one["boxes"] == pytest.approx(right["boxes"], abs=0.5)
        assert one["scores"] == pytest.approx(right["scores"], rel=1e-2)
        assert one["labels"] == pytest.approx(right["labels"], abs=0.15)
        assert (one["masks"] is None) == (right["masks"] is None)
        assert one["masks"] is None or one["masks"] == pytest.approx(right["masks"], rel=3e-2)
        assert (one["keypoints"] is None) == (right["keypoints"] is None)
        if one["keypoints"] is not None:
            *place, probability = one["keypoints"]
            assert place == pytest.approx(right["keypoints"][:2], abs=0.5)
            assert probability == pytest.approx(right["keypoints"][2], rel=1e-2)
