"""Messages of the torchvision engine about unsupported settings."""

import re
from pathlib import Path

import pytest
import torch

from msbreg.run.errors import UserError
from tests.transfer.detectors.cases import CASES, FPN, config_of
from transfer.detectors.config.defaults import DEFAULTS
from transfer.detectors.config.supported import (
    DEPTHS,
    LIMITED_DATA,
    LIMITED_NETWORK,
    NORMS,
    check_run,
    check_supported,
)
from transfer.detectors.config.yaml_file import default_config, read_config
from transfer.detectors.rcnn import build_model
from transfer.detectors.rcnn.backbone import BLOCKS
from transfer.detectors.rcnn.layers import build_norm

CARDS = sorted(
    path
    for path in (Path(__file__).parents[4] / "configs").glob("*.yaml")
    if "META_ARCHITECTURE" in path.read_text()
)


UNREAD = {
    "DATASETS.PRECOMPUTED_": "MODEL.LOAD_PROPOSALS",
    "INPUT.CROP.": "INPUT.CROP.ENABLED",
    "MODEL.ANCHOR_GENERATOR.ANGLES": "MODEL.ANCHOR_GENERATOR.NAME",
    "MODEL.RESNETS.DEFORM_": "MODEL.RESNETS.DEFORM_ON_PER_STAGE",
    "MODEL.ROI_BOX_HEAD.FED_LOSS_": "MODEL.ROI_BOX_HEAD.USE_FED_LOSS",
    "MODEL.ROI_BOX_CASCADE_HEAD.": "MODEL.ROI_HEADS.NAME",
    "MODEL.SEM_SEG_HEAD.": "MODEL.META_ARCHITECTURE",
    "MODEL.PANOPTIC_FPN.": "MODEL.META_ARCHITECTURE",
    "MODEL.RETINANET.": "MODEL.META_ARCHITECTURE",
    "TEST.AUG.": "TEST.AUG.ENABLED",
    "GLOBAL.": "",  # Detectron2 never reads it
}
"""Prefix of a key -> the limited key that determines whether Detectron2 reads it."""


def test_every_setting_is_limited_or_depends_on_a_limited_one_or_is_read():
    limited = {**LIMITED_DATA, **LIMITED_NETWORK}
    assert set(limited) <= set(DEFAULTS)
    assert set(filter(None, UNREAD.values())) <= set(limited)
    code = "\n".join(
        path.read_text()
        for path in (Path(__file__).parents[4] / "transfer").rglob("*.py")
        if "config" not in path.parts
    )
    for key in DEFAULTS:
        if key not in limited and not key.startswith(tuple(UNREAD)):
            name = key.rpartition(".")[2]
            assert re.search(rf"\b{name}\b", code), f"{key} is read nowhere"


@pytest.mark.parametrize("case", CASES)
def test_the_cases_compared_with_detectron2_are_supported(case):
    check_supported(config_of(case))


@pytest.mark.parametrize("card", CARDS, ids=lambda path: path.stem)
def test_the_cards_are_supported(card):
    check_supported(read_config(card))


def test_norms_and_depths_in_the_table_can_be_built():
    for name in NORMS:
        assert build_norm(name, 32)(torch.zeros(2, 32, 1, 1)).shape == (2, 32, 1, 1)
    assert set(DEPTHS) <= set(BLOCKS)


def changed(*overrides):
    config = default_config()
    config.merge_from_list(list(overrides))
    return config


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["MODEL.META_ARCHITECTURE", "RetinaNet"], ["'RetinaNet'", "GeneralizedRCNN"]),
        (["MODEL.KEYPOINT_ON", True], ["MODEL.KEYPOINT_ON", "True", "StandardROIHeads"]),
        (["MODEL.ROI_HEADS.NAME", "CascadeROIHeads"], ["CascadeROIHeads", "StandardROIHeads"]),
        (["MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, True, True, True]], ["DEFORM_ON"]),
        (["MODEL.RESNETS.DEPTH", 200], ["200", "101"]),
        (["MODEL.ANCHOR_GENERATOR.NAME", "RotatedAnchorGenerator"], ["RotatedAnchorGenerator"]),
        (["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True], ["CLS_AGNOSTIC_BBOX_REG"]),
        (["MODEL.RPN.BBOX_REG_LOSS_TYPE", "giou"], ["giou", "smooth_l1"]),
        (["INPUT.CROP.ENABLED", True], ["INPUT.CROP.ENABLED"]),
        (["TEST.AUG.ENABLED", True], ["TEST.AUG.ENABLED"]),
        (["MODEL.RESNETS.DEPTH", 18], ["RES2_OUT_CHANNELS is 256", "64"]),
        (["MODEL.RPN.IN_FEATURES", ["res5"]], ["MODEL.RPN.IN_FEATURES", "res4"]),
        (["MODEL.ROI_HEADS.NAME", "StandardROIHeads"], ["FastRCNNConvFCHead"]),
        (["MODEL.ROI_HEADS.IOU_LABELS", [0, -1, 1]], ["MODEL.ROI_HEADS.IOU_THRESHOLDS"]),
        (["MODEL.ANCHOR_GENERATOR.SIZES", [[32], [64]]], ["ANCHOR_GENERATOR.SIZES", "or 1"]),
        (["MODEL.PIXEL_STD", [1.0]], ["MODEL.PIXEL_STD"]),
        ([*FPN, "MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p4"]], ["consecutive levels"]),
        ([*FPN, "MODEL.RPN.IN_FEATURES", ["p3", "p2"]], ["finest first"]),
        ([*FPN, "MODEL.ROI_HEADS.NAME", "Res5ROIHeads"], ["['res4']"]),
    ],
)
def test_unsupported_values_are_named_with_the_supported_ones(overrides, words):
    with pytest.raises(UserError) as caught:
        build_model(changed(*overrides))
    for word in words:
        assert word in str(caught.value)


def test_all_unsupported_settings_are_listed_at_once():
    with pytest.raises(UserError) as caught:
        check_supported(changed("MODEL.LOAD_PROPOSALS", True, "TEST.AUG.ENABLED", True))
    assert "MODEL.LOAD_PROPOSALS" in str(caught.value)
    assert "TEST.AUG.ENABLED" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("MODEL.RPN.BATCH_SIZE_PER_IMAGE", ["0"]),
        ("MODEL.RPN.PRE_NMS_TOPK_TRAIN", ["-1"]),
        ("MODEL.FPN.OUT_CHANNELS", ["0", "-1"]),
        ("MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", ["0"]),
        ("SOLVER.MOMENTUM", ["-0.5"]),
        ("DATALOADER.REPEAT_THRESHOLD", ["-0.1"]),
        ("MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", ["0"]),
        ("MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", ["[0]", "[512, 'a']", "[1.5]"]),
        ("TEST.KEYPOINT_OKS_SIGMAS", ["[0.1, 0]", "['a']"]),
        ("SOLVER.STEPS", ["('a',)", "(None,)", "((1,2),)", "(0.5,)"]),
        ("SOLVER.WEIGHT_DECAY_BIAS", ["x", "-1.0"]),
        ("MODEL.RPN.BBOX_REG_WEIGHTS", ["()", "(1,1,1)", "(1,1,1,0)", "(1,1,1,'a')"]),
        ("MODEL.ROI_HEADS.IOU_THRESHOLDS", ["('a',)", "[None]"]),
        ("MODEL.PIXEL_STD", ["[1.0]", "[1.0, 1.0, 0.0]", "['a', 'b', 'c']"]),
        ("MODEL.ANCHOR_GENERATOR.SIZES", ["[]", "[32]", "[['a']]", "[[32, -1]]", "[[]]"]),
    ],
)
def test_values_out_of_range_are_named_before_anything_is_built(key, values):
    for value in values:
        with pytest.raises(UserError, match=f"invalid settings:\n  {key} is .*; expected "):
            check_run(changed(key, value))


def test_data_and_loop_are_checked_without_the_network():
    check_run(changed("MODEL.ROI_HEADS.NAME", "CascadeROIHeads"))
    with pytest.raises(UserError, match=r"DATALOADER.SAMPLER_TRAIN"):
        check_run(changed("DATALOADER.SAMPLER_TRAIN", "RandomSubsetTrainingSampler"))
