"""Whether a whole detector is the one that the yaml and the data mean."""

from pathlib import Path

import pytest

from msbreg.run.errors import UserError
from transfer.detectors.config.yaml_file import read_config
from transfer.detectors.start import WholeDetector, model_settings

CARD = Path(__file__).resolve().parents[3] / "configs" / "digits_voc_c4.yaml"


def detector(*, classes=("cat", "dog"), stated: bool = True) -> WholeDetector:
    settings = model_settings(read_config(CARD)) if stated else None
    return WholeDetector({"source": "detector.pth"}, classes, settings)


def doubts(found: WholeDetector, *overrides: str, classes=("cat", "dog"), eval_only=True):
    return found.doubts(read_config(CARD, overrides), classes, eval_only=eval_only)


def test_the_same_classes_and_settings_leave_no_doubt():
    assert doubts(detector()) == []


@pytest.mark.parametrize("classes", [("dog", "cat"), ("cat", "horse")])
def test_other_classes_or_another_order_cannot_be_evaluated(classes):
    with pytest.raises(
        UserError, match=r"detector.pth was trained on the classes cat, dog, the data"
    ):
        doubts(detector(), classes=classes)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.PIXEL_STD", "[1.0, 1.0, 1.0]"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", "[[16, 20, 26]]"),
        ("MODEL.RESNETS.STRIDE_IN_1X1", "True"),
        ("INPUT.FORMAT", "BGR"),
        ("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", "7"),
    ],
)
def test_settings_that_no_tensor_shows_cannot_be_changed(key, value):
    with pytest.raises(
        UserError, match=rf"other settings:\n  {key} was .*, here it is .*\nGive: {key}"
    ):
        doubts(detector(), key, value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.1"),
        ("MODEL.RPN.NMS_THRESH", "0.6"),
        ("MODEL.RPN.BATCH_SIZE_PER_IMAGE", "32"),
        ("MODEL.BACKBONE.FREEZE_AT", "2"),
        ("MODEL.RESNETS.NORM", "SyncBN"),
        ("INPUT.MIN_SIZE_TEST", "96"),
    ],
)
def test_what_is_chosen_at_test_or_has_no_effect_there_may_differ(key, value):
    assert doubts(detector(), key, value) == []


def test_training_goes_on_from_other_classes_and_settings_and_says_so():
    found = doubts(
        detector(), "MODEL.RESNETS.STRIDE_IN_1X1", "True", classes=("dog", "cat"), eval_only=False
    )
    assert [words.split(":")[0] for words in found] == [
        "was trained with other settings",
        "was trained on the classes cat, dog, the data have dog, cat; expected the same, in the same "
        "order.\nA folder in VOC's layout can state them, one a line, in classes.txt.",
        "is a whole detector",
    ]


def test_a_detector_that_does_not_say_its_classes_is_doubted():
    foreign = detector(classes=None, stated=False)
    assert doubts(foreign, "INPUT.FORMAT", "BGR") == [
        "does not say its classes; taken to be cat, dog, in this order"
    ]
