"""The untrained twin of a yaml has the yaml's backbone and input."""

import pytest
import torch

from msbreg.backbones.resnet import build_backbone
from msbreg.backbones.spec import IMAGENET, BackboneSpec
from msbreg.run.errors import UserError
from tests.msbreg.backbones.toy_transformers import (
    PLAIN,
    timm_model,
    toys,  # noqa: F401 - a fixture
)
from tests.transfer.detectors.cases import config_of
from transfer.detectors.start import backbone_of_file, check_backbone, spec_of_yaml, untrained

CASE = "fpn-r50-frozen-bgr"
MODERN = (
    *("MODEL.RESNETS.STRIDE_IN_1X1", False, "INPUT.FORMAT", "RGB"),
    *("MODEL.PIXEL_MEAN", [123.675, 116.28, 103.53]),
    *("MODEL.PIXEL_STD", [58.395, 57.12, 57.375]),
)


@pytest.mark.parametrize(
    ("arch", "pairs"),
    [
        ("resnet50", ()),
        ("resnet101", ("MODEL.RESNETS.DEPTH", 101)),
        ("resnet152", ("MODEL.RESNETS.DEPTH", 152)),
        ("wide_resnet50_2", ("MODEL.RESNETS.WIDTH_PER_GROUP", 128)),
        (
            "resnet50_2x",
            (
                *("MODEL.RESNETS.WIDTH_PER_GROUP", 128, "MODEL.RESNETS.STEM_OUT_CHANNELS", 128),
                *("MODEL.RESNETS.RES2_OUT_CHANNELS", 512),
            ),
        ),
    ],
)
def test_the_yaml_states_the_backbone_and_its_input(arch, pairs):
    spec = spec_of_yaml(config_of(CASE, *MODERN, *pairs))
    assert spec.arch == arch
    assert spec.normalization.pixel_mean == IMAGENET.pixel_mean
    assert spec.normalization.pixel_std == IMAGENET.pixel_std
    assert (spec.normalization.channels, spec.stride) == ("RGB", "3x3")


def test_the_twin_has_channel_order_normalization_and_stride_of_the_yaml():
    config = config_of(CASE)
    start = untrained(config, seed=3)
    spec = start.provenance.spec
    assert spec.normalization.channels == config.INPUT.FORMAT == "BGR"
    assert spec.normalization.pixel_mean == tuple(config.MODEL.PIXEL_MEAN)
    assert spec.stride_in_1x1 == config.MODEL.RESNETS.STRIDE_IN_1X1
    check_backbone(config, spec, "the twin")
    wanted = build_backbone("resnet50", seed=3).conv1.weight
    assert start.state["stem.conv1.weight"].equal(wanted)


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        (("MODEL.RESNETS.WIDTH_PER_GROUP", 256), "--checkpoint random: no backbone has depth 50"),
        (("MODEL.RESNETS.RES2_OUT_CHANNELS", 512), "RES2_OUT_CHANNELS"),
    ],
)
def test_a_yaml_with_an_unknown_backbone_has_no_twin(pairs, words):
    with pytest.raises(UserError, match=words):
        untrained(config_of(CASE, *pairs), seed=0)


def test_a_wider_checkpoint_is_rejected_with_the_settings_for_its_width(tmp_path):
    with pytest.raises(UserError, match='Give: MODEL.RESNETS.WIDTH_PER_GROUP "128"'):
        check_backbone(config_of(CASE, *MODERN), BackboneSpec("wide_resnet50_2"), "wide.pth")


@pytest.mark.usefixtures("toys")
def test_a_transformer_is_rejected_with_the_tasks_that_accept_it(tmp_path):
    path = tmp_path / "vit.pth"
    torch.save(timm_model(PLAIN).state_dict(), path)
    with pytest.raises(UserError, match="only ResNets(.|\n)*detection(.|\n)*transfer/knn.py"):
        backbone_of_file(path, config_of(CASE, *MODERN))
