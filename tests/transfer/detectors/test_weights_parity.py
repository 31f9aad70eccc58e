"""Files written for or by Detectron2 load the same weights into both detectors."""

import pytest
import torch

from msbreg.backbones.resnet import build_backbone
from msbreg.checkpoints.convert.target import pickled
from msbreg.checkpoints.layouts.names import detectron2, to_dialect
from msbreg.checkpoints.read import read_file
from tests.transfer.detectors.cases import batch_of, config_of, settle
from tests.transfer.detectors.detectron2_twin import its_warnings, needs_detectron2, pair
from transfer.detectors.rcnn import build_model
from transfer.detectors.rcnn.weights import place_backbone, place_detector

pytestmark = needs_detectron2


def read_by_detectron2(model, path):
    with its_warnings():
        from detectron2.checkpoint import DetectionCheckpointer

        DetectionCheckpointer(model).load(str(path))


@pytest.mark.parametrize(
    ("case", "arch"),
    [("c4-extra-norm", "resnet50"), ("fpn-r18-mask", "resnet18"), ("c4-frozen-bgr", "resnet50")],
)
def test_a_converted_backbone_is_loaded_like_detectron2_loads_it(tmp_path, case, arch):
    ours, theirs = pair(config_of(case), build_model)
    state = to_dialect(build_backbone(arch, seed=3).state_dict(), detectron2)
    path = tmp_path / "backbone.pkl"
    path.write_bytes(pickled({"model": state, "__author__": "x", "matching_heuristics": True}))
    read_by_detectron2(theirs, path)
    place_backbone(ours, read_file(path).content["model"], path)
    wanted = theirs.state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in ours.state_dict().items())


def test_a_detector_saved_by_detectron2_detects_the_same_in_ours(tmp_path):
    config = config_of("fpn-r18-mask")
    ours, theirs = pair(config, build_model)
    theirs.load_state_dict(settle(build_model(config), config).state_dict())
    with its_warnings():
        from detectron2.checkpoint import DetectionCheckpointer

        DetectionCheckpointer(theirs, str(tmp_path)).save("model_final")
    path = tmp_path / "model_final.pth"
    place_detector(ours, config, read_file(path).content["model"], path)
    with torch.no_grad(), its_warnings():
        found, wanted = ours.eval()(batch_of(config)), theirs.eval()(batch_of(config))
    for one, other in zip(found, wanted, strict=True):
        assert len(one.boxes)
        assert torch.equal(one.boxes, other.boxes)
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.masks, other.masks)


def test_detectron2_reads_our_detectors_unchanged(tmp_path):
    config = config_of("c4-narrow-mask-extra-norm")
    ours, theirs = pair(config, build_model)
    settle(ours, config)
    torch.save({"model": ours.state_dict()}, tmp_path / "ours.pth")
    read_by_detectron2(theirs, tmp_path / "ours.pth")
    wanted = ours.state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in theirs.state_dict().items())
