"""Predictions of all scenes, and the errors of a detector that has diverged."""

import pytest
import torch
from torch import nn

from msbreg.data.coco import coco_scenes
from msbreg.run.errors import RunFailed
from tests.msbreg.data.annotated_folders import coco_content, write_coco
from transfer.detectors.mapper import MapperSettings
from transfer.detectors.predict import predict
from transfer.detectors.rcnn.regions import Detections


class Heads(nn.Module):
    """Has Detectron2's names for the modules whose outputs are checked."""

    def __init__(self, part: str, of: nn.Module) -> None:
        super().__init__()
        self.add_module(part, of)


class Both(nn.Module):
    """Outputs scores and offsets in a list and a tuple, like heads on pyramids."""

    def __init__(self) -> None:
        super().__init__()
        self.scores, self.offsets = nn.Linear(3, 1), nn.Linear(3, 4)

    def forward(self, x):
        return [self.scores(x)], (self.offsets(x),)


class Detector(nn.Module):
    """Detects nothing, independent of its heads."""

    def __init__(self) -> None:
        super().__init__()
        self.proposal_generator = Heads("rpn_head", Both())
        self.roi_heads = Heads("box_predictor", Both())

    def forward(self, samples):
        x = samples[0].image.float().mean((1, 2))
        self.proposal_generator.rpn_head(x)
        self.roi_heads.box_predictor(x)
        return [
            Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), None)
        ]


@pytest.fixture
def scenes(tmp_path):
    content = coco_content(images=[(1, 12, 16), (2, 12, 16)])
    return coco_scenes("toy", *write_coco(tmp_path, content))


def test_a_detector_may_find_nothing(scenes):
    found = predict(Detector(), scenes, MapperSettings(test_size=12))
    assert [len(prediction.scores) for prediction in found] == [0, 0]


@pytest.mark.parametrize("module", ["proposal_generator.rpn_head", "roi_heads.box_predictor"])
@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_scores_and_boxes_that_are_not_finite_raise_instead_of_detecting_nothing(
    scenes, module, value
):
    detector = Detector()
    nn.init.constant_(detector.get_submodule(module).offsets.bias, value)
    with pytest.raises(RunFailed, match="scores or boxes for image 1 of toy are not finite"):
        predict(detector, scenes, MapperSettings(test_size=12))
    assert not any(m._forward_hooks for m in detector.modules()), "the hooks are gone"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("out of memory"), ZeroDivisionError("0")])
def test_the_original_error_is_raised(scenes, error):
    def fail():
        raise error

    with pytest.raises(type(error)) as raised:
        predict(Detector(), scenes, MapperSettings(test_size=12), each_scene=fail)
    assert raised.value is error
