"""Whether a whole detector means the classes of the data."""

import pytest

from msbreg.errors import UserError
from transfer.engines.starting import class_doubt

DETECTOR = {"source": "detector.pth", "classes": ["cat", "dog"]}


def test_the_same_classes_leave_no_doubt():
    assert class_doubt(DETECTOR, ("cat", "dog"), eval_only=True) is None


@pytest.mark.parametrize("classes", [("dog", "cat"), ("cat", "horse")])
def test_other_classes_or_another_order_cannot_be_evaluated(classes):
    with pytest.raises(
        UserError, match=r"detector.pth was trained on the classes cat, dog, the data"
    ):
        class_doubt(DETECTOR, classes, eval_only=True)


def test_training_may_go_on_with_other_classes_and_says_so():
    doubt = class_doubt(DETECTOR, ("dog", "cat"), eval_only=False)
    assert doubt.endswith("its class scores start with other meanings")


def test_a_detector_that_does_not_say_its_classes_is_doubted():
    doubt = class_doubt(DETECTOR | {"classes": None}, ("dog", "cat"), eval_only=True)
    assert doubt == "does not say its classes; taken to be dog, cat, in this order"
