"""Settings that may have any value of their type, but for those that no detector or training has."""

from collections.abc import Callable
from typing import Any

from fvcore.common.config import CfgNode

from transfer.engines.consistent import value_of


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
)
FROM_0 = ("SOLVER.MOMENTUM", "SOLVER.WEIGHT_DECAY", "SOLVER.WEIGHT_DECAY_NORM")

Test = Callable[[Any], bool]
OTHERS: dict[str, tuple[str, Test]] = {
    "SOLVER.WEIGHT_DECAY_BIAS": (
        "None, or a number from 0",
        lambda v: v is None or (_number(v) and v >= 0),
    ),
    "SOLVER.STEPS": ("whole numbers", lambda v: all(map(_whole, v))),
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
"""Key -> what is expected, and whether a value is that."""


def _above_0(values: Any) -> bool:
    return all(_number(value) and value > 0 for value in values)


def _lists(values: Any) -> bool:
    return bool(values) and all(isinstance(v, list | tuple) and v and _above_0(v) for v in values)


def out_of_range(config: CfgNode) -> list[str]:
    """A line for each setting whose value none can have, with what is expected."""
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
