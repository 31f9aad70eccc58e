"""Checks of settings against each other (``RULES``) and of their ranges (``out_of_range``)."""

from collections.abc import Callable
from typing import Any

from fvcore.common.config import CfgNode

# ---- Rules: each returns a line for every setting of the network that contradicts another


RESNET, PYRAMID = "build_resnet_backbone", "build_resnet_fpn_backbone"
C4_HEADS, STANDARD_HEADS = ("Res5ROIHeads", "Res5ROIHeadsExtraNorm"), "StandardROIHeads"
STAGES = ("res2", "res3", "res4", "res5")


def value_of(config: CfgNode, key: str) -> Any:
    """The value of a dotted key."""
    for name in key.split("."):
        config = config[name]
    return config


def _widths(config: CfgNode) -> list[str]:
    settings = config.MODEL.RESNETS
    if settings.DEPTH < 50 and settings.RES2_OUT_CHANNELS != settings.STEM_OUT_CHANNELS:
        return [
            f"MODEL.RESNETS.RES2_OUT_CHANNELS is {settings.RES2_OUT_CHANNELS} at DEPTH "
            f"{settings.DEPTH}; supported: STEM_OUT_CHANNELS, {settings.STEM_OUT_CHANNELS}"
        ]
    return []


def _features(config: CfgNode) -> list[str]:
    """Each part of the network reads features that an earlier part computes."""
    model = config.MODEL
    given: dict[str, list[str]] = {"MODEL.RESNETS.OUT_FEATURES": list(STAGES)}
    made = list(model.RESNETS.OUT_FEATURES)
    if model.BACKBONE.NAME == PYRAMID:
        given["MODEL.FPN.IN_FEATURES"] = made
        levels = [int(name[-1]) for name in model.FPN.IN_FEATURES if name in STAGES] or [0]
        made = [f"p{level}" for level in [*levels, levels[-1] + 1]]
    given |= {"MODEL.RPN.IN_FEATURES": made, "MODEL.ROI_HEADS.IN_FEATURES": made}
    problems = []
    for key, known in given.items():
        names = list(value_of(config, key))
        if not names or not set(names) <= set(known):
            problems.append(f"{key} is {names}; supported: some of {known}")
        elif names != sorted(set(names)):
            problems.append(f"{key} is {names}; supported: finest first, each once")
    return problems


def _pyramids(config: CfgNode) -> list[str]:
    """Levels are consecutive: each is upsampled to the next, and regions are assigned by size."""
    if _features(config):
        return []  # reported there
    keys = ["MODEL.ROI_HEADS.IN_FEATURES"]
    if config.MODEL.BACKBONE.NAME == PYRAMID:
        keys.append("MODEL.FPN.IN_FEATURES")
    problems = []
    for key in keys:
        levels = [int(name[-1]) for name in value_of(config, key)]
        if levels != list(range(levels[0], levels[0] + len(levels))):
            problems.append(f"{key} is {value_of(config, key)}; supported: consecutive levels")
    if config.MODEL.BACKBONE.NAME == RESNET:  # stages differ in width
        problems += [
            f"{key} is {value_of(config, key)}; supported without a pyramid: one stage"
            for key in ("MODEL.RPN.IN_FEATURES", "MODEL.ROI_HEADS.IN_FEATURES")
            if len(value_of(config, key)) > 1
        ]
    return problems


def _heads(config: CfgNode) -> list[str]:
    heads, box = config.MODEL.ROI_HEADS, config.MODEL.ROI_BOX_HEAD
    if heads.NAME in C4_HEADS:
        if config.MODEL.KEYPOINT_ON:
            return [f"MODEL.KEYPOINT_ON is True with {heads.NAME}; supported: '{STANDARD_HEADS}'"]
        if list(heads.IN_FEATURES) != ["res4"]:
            return [
                f"MODEL.ROI_HEADS.IN_FEATURES is {list(heads.IN_FEATURES)} with {heads.NAME}; "
                "supported: ['res4']"
            ]
        return []
    if not box.NAME:
        return [f"MODEL.ROI_BOX_HEAD.NAME is '' with {heads.NAME}; supported: 'FastRCNNConvFCHead'"]
    if box.NUM_CONV + box.NUM_FC < 1:
        return ["MODEL.ROI_BOX_HEAD.NUM_CONV and NUM_FC are 0; supported: at least one above 0"]
    return []


def _anchors(config: CfgNode) -> list[str]:
    problems = []
    levels = len(config.MODEL.RPN.IN_FEATURES)
    for name in ("SIZES", "ASPECT_RATIOS"):
        value = config.MODEL.ANCHOR_GENERATOR[name]
        key = f"MODEL.ANCHOR_GENERATOR.{name}"
        if not value or not all(isinstance(level, list | tuple) and level for level in value):
            problems.append(f"{key} is {value}; supported: a list of numbers for each level")
        elif len(value) not in (1, levels) or len({len(level) for level in value}) > 1:
            problems.append(
                f"{key} is {value}; supported: one list, or {levels} (MODEL.RPN.IN_FEATURES) of "
                "equal lengths"
            )
    if not 0 <= config.MODEL.ANCHOR_GENERATOR.OFFSET < 1:
        problems.append(
            f"MODEL.ANCHOR_GENERATOR.OFFSET is {config.MODEL.ANCHOR_GENERATOR.OFFSET}; supported: "
            "0 <= OFFSET < 1"
        )
    return problems


def _numbers(config: CfgNode) -> list[str]:
    """Lists of a fixed length or range."""
    problems = []
    for section in ("MODEL.RPN", "MODEL.ROI_HEADS"):
        node = value_of(config, section)
        thresholds, labels = list(node.IOU_THRESHOLDS), list(node.IOU_LABELS)
        fits = len(labels) == len(thresholds) + 1 and set(labels) <= {-1, 0, 1}
        if not fits or thresholds != sorted(thresholds) or thresholds[:1] <= [0]:
            problems.append(
                f"{section}.IOU_THRESHOLDS is {thresholds} with IOU_LABELS {labels}; supported: "
                "positive and ascending, with one label (-1, 0 or 1) for each interval"
            )
    for key in ("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"):
        if len(value_of(config, key)) != 3:
            problems.append(f"{key} is {value_of(config, key)}; supported: three numbers")
    if config.MODEL.ROI_HEADS.NUM_CLASSES < 1:
        problems.append(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {config.MODEL.ROI_HEADS.NUM_CLASSES}; supported: 1 or more"
        )
    return problems


RULES: tuple[Callable[[CfgNode], list[str]], ...] = (
    _widths,
    _features,
    _pyramids,
    _heads,
    _anchors,
    _numbers,
)
"""Functions that return a line for every setting that contradicts another."""


# ---- Ranges: values of the right type that are out of range


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


FROM_1 = (
    "MODEL.RESNETS.STEM_OUT_CHANNELS",
    "MODEL.RESNETS.RES2_OUT_CHANNELS",
    "MODEL.RESNETS.WIDTH_PER_GROUP",
    "MODEL.FPN.OUT_CHANNELS",
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE",
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN",
    "MODEL.RPN.PRE_NMS_TOPK_TEST",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN",
    "MODEL.RPN.POST_NMS_TOPK_TEST",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE",
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION",
    "MODEL.ROI_BOX_HEAD.CONV_DIM",
    "MODEL.ROI_BOX_HEAD.FC_DIM",
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION",
    "MODEL.ROI_MASK_HEAD.CONV_DIM",
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION",
    "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS",
)
FROM_0 = (
    "DATALOADER.REPEAT_THRESHOLD",
    "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE",
    "SOLVER.MOMENTUM",
    "SOLVER.WEIGHT_DECAY",
    "SOLVER.WEIGHT_DECAY_NORM",
)

Test = Callable[[Any], bool]
OTHERS: dict[str, tuple[str, Test]] = {
    "SOLVER.WEIGHT_DECAY_BIAS": (
        "None, or a number of 0 or more",
        lambda v: v is None or (_number(v) and v >= 0),
    ),
    "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": (
        "integers of 1 or more",
        lambda v: all(_whole(n) and n >= 1 for n in v),
    ),
    "TEST.KEYPOINT_OKS_SIGMAS": ("numbers above 0", lambda v: _above_0(v)),
    "SOLVER.STEPS": ("integers", lambda v: all(map(_whole, v))),
    "MODEL.RPN.IOU_THRESHOLDS": ("numbers", lambda v: all(map(_number, v))),
    "MODEL.ROI_HEADS.IOU_THRESHOLDS": ("numbers", lambda v: all(map(_number, v))),
    "MODEL.PIXEL_MEAN": ("three numbers", lambda v: len(v) == 3 and all(map(_number, v))),
    "MODEL.PIXEL_STD": ("three numbers above 0", lambda v: len(v) == 3 and _above_0(v)),
    "MODEL.RPN.BBOX_REG_WEIGHTS": ("four numbers above 0", lambda v: len(v) == 4 and _above_0(v)),
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": (
        "four numbers above 0",
        lambda v: len(v) == 4 and _above_0(v),
    ),
    "MODEL.ANCHOR_GENERATOR.SIZES": ("lists of numbers above 0", lambda v: _lists(v)),
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": ("lists of numbers above 0", lambda v: _lists(v)),
}
"""Key -> what is expected, and a predicate for it."""


def _above_0(values: Any) -> bool:
    return all(_number(value) and value > 0 for value in values)


def _lists(values: Any) -> bool:
    return bool(values) and all(isinstance(v, list | tuple) and v and _above_0(v) for v in values)


def out_of_range(config: CfgNode) -> list[str]:
    """A line for each setting that is out of range, with what is expected."""
    tests: dict[str, tuple[str, Test]] = {
        **{key: ("1 or more", lambda v: v >= 1) for key in FROM_1},
        **{key: ("0 or more", lambda v: v >= 0) for key in FROM_0},
        **OTHERS,
    }
    return [
        f"{key} is {value_of(config, key)!r}; expected {expected}"
        for key, (expected, fits) in tests.items()
        if not fits(value_of(config, key))
    ]
