"""A score is inside, outside or not comparable with its band."""

import pytest

from transfer.calibration.bands import read_bands
from transfer.calibration.judgment import CAUSES, judge_scores
from transfer.scoring.scores import DataId, Score

(BAND,) = [b for b in read_bands() if (b.model, b.score) == ("swav-800", "20-NN top-1")]


def score(value: float, *, n: int = 50_000, name: str = BAND.score) -> Score:
    return Score(name, value, DataId("imagenet", "val"), "rules", n)


@pytest.mark.parametrize(
    ("value", "word"), [(65.2, "inside"), (66.2, "inside"), (65.19, "outside")]
)
def test_the_ends_of_a_band_are_inside(value, word):
    (found,) = judge_scores([score(value)], [BAND])
    assert found.word == word


def test_a_score_outside_says_by_how_much_and_what_commonly_explains_it():
    (found,) = judge_scores([score(64.1)], [BAND])
    assert "Outside the band: -1.60 points, 1.10 points below it" in found.sentence
    assert CAUSES["knn"] in found.sentence
    assert BAND.tolerance_source in found.sentence


def test_a_score_of_other_images_is_not_comparable_even_in_the_band():
    (found,) = judge_scores([score(65.7, n=500)], [BAND])
    assert found.word == "not comparable"
    assert "500 images were scored, the published number is of 50,000" in found.sentence


def test_a_missing_or_undefined_score_is_not_comparable():
    for scores in ([], [score(65.7, name="5-NN top-1")], [score(float("nan"))]):
        (found,) = judge_scores(scores, [BAND])
        assert found.word == "not comparable"


def test_every_protocol_has_its_common_causes():
    assert {band.protocol for band in read_bands()} == set(CAUSES)
