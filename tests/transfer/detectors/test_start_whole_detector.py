"""A whole detector is compared with the yaml and the data."""

from pathlib import Path

import pytest

from msbreg.run.errors import UserError
from transfer.detectors.config.yaml_file import read_config
from transfer.detectors.start import WholeDetector, model_settings

CARD = Path(__file__).resolve().parents[3] / "configs" / "digits_voc_c4.yaml"


def detector(*, classes=("cat", "dog"), stated: bool = True) -> WholeDetector:
    settings = model_settings(read_config(CARD)) if stated else None
    return WholeDetector({"source": "detector.pth"}, classes, settings)


def warnings(found: WholeDetector, *overrides: str, classes=("cat", "dog"), eval_only=True):
    return found.check(read_config(CARD, overrides), classes, eval_only=eval_only)


def test_equal_classes_and_settings_give_no_warning():
    assert warnings(detector()) == []


@pytest.mark.parametrize("classes", [("dog", "cat"), ("cat", "horse")])
def test_different_classes_or_a_different_order_cannot_be_evaluated(classes):
    with pytest.raises(
        UserError, match=r"detector.pth was trained on the classes cat, dog; the data"
    ):
        warnings(detector(), classes=classes)


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
def test_settings_that_are_invisible_in_tensors_cannot_be_changed(key, value):
    with pytest.raises(
        UserError, match=rf"other settings:\n  {key} was .*, now it is .*\nGive: {key}"
    ):
        warnings(detector(), key, value)


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
def test_test_time_settings_and_settings_without_effect_may_differ(key, value):
    assert warnings(detector(), key, value) == []


def test_training_continues_from_different_classes_and_settings_with_warnings():
    found = warnings(
        detector(), "MODEL.RESNETS.STRIDE_IN_1X1", "True", classes=("dog", "cat"), eval_only=False
    )
    assert [warning.split(":")[0] for warning in found] == [
        "was trained with other settings",
        "was trained on the classes cat, dog; the data set has dog, cat; expected the same, in the "
        "same order.\nA folder in VOC layout can list them in classes.txt, one per line.",
        "is a whole detector; training continues for another full schedule",
    ]


def test_a_detector_without_stated_classes_gives_a_warning():
    foreign = detector(classes=None, stated=False)
    assert warnings(foreign, "INPUT.FORMAT", "BGR") == [
        "does not state its classes; assuming cat, dog, in this order"
    ]
