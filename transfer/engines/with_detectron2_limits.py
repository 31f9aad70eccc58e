"""What the engine of Detectron2 can follow; that it can, Detectron2 mostly says itself as it builds."""

from collections.abc import Mapping
from typing import Any

from fvcore.common.config import CfgNode

from msbreg.errors import UserError
from transfer.engines.consistent import C4_HEADS, PYRAMID, RESNET, RULES, value_of
from transfer.engines.supported import LIMITED_NETWORK

REGRESSION_LOSSES = ("smooth_l1", "giou", "diou", "ciou")
POOLERS = ("ROIAlignV2", "ROIAlign", "ROIPool")

LIMITED: dict[str, tuple[Any, ...]] = {
    "MODEL.META_ARCHITECTURE": ("GeneralizedRCNN",),
    "MODEL.KEYPOINT_ON": (False,),
    "MODEL.LOAD_PROPOSALS": (False,),
    "MODEL.PROPOSAL_GENERATOR.NAME": ("RPN",),
    "MODEL.ANCHOR_GENERATOR.NAME": ("DefaultAnchorGenerator",),
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": REGRESSION_LOSSES,
    "MODEL.ROI_HEADS.NAME": (*C4_HEADS, "StandardROIHeads", "CascadeROIHeads"),
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": POOLERS,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": REGRESSION_LOSSES,
    "MODEL.ROI_BOX_HEAD.USE_FED_LOSS": (False,),
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": POOLERS,
}
"""Settings that Detectron2 looks at only while it trains, or that ask for what a Sample does not hold
(rotated boxes, proposals, keypoints, how often a class occurs) -> the values that work. Sources:
detectron2/modeling/ box_regression.py, poolers.py and roi_heads/fast_rcnn.py."""

LIMITED_IF_NARROW: dict[str, tuple[Any, ...]] = {
    "MODEL.BACKBONE.NAME": (RESNET, PYRAMID),
    "MODEL.RESNETS.NUM_GROUPS": (1,),
    "MODEL.RESNETS.RES5_DILATION": (1,),
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": ([False] * 4,),
}
"""The same of a ResNet-18 or -34 that is not 64 channels wide, which is not put together by Detectron2's
builder. That one asks for these values at depths 18 and 34 too (modeling/backbone/resnet.py)."""


def is_narrow(config: CfgNode) -> bool:
    """Whether Detectron2's own builder does not do: it wants 64 channels of basic blocks."""
    return config.MODEL.RESNETS.DEPTH in (18, 34) and config.MODEL.RESNETS.STEM_OUT_CHANNELS != 64


def check(config: CfgNode) -> None:
    """That a config asks for nothing that Detectron2 would ignore, or trip over when it trains.

    Raises:
        UserError: the message lists each such setting, and what is expected.
    """
    limits, resnet = dict(LIMITED), config.MODEL.RESNETS
    if is_narrow(config):
        limits |= LIMITED_IF_NARROW
        limits["MODEL.RESNETS.RES2_OUT_CHANNELS"] = (resnet.STEM_OUT_CHANNELS,)
    if config.MODEL.ROI_HEADS.NAME in C4_HEADS:  # their res5 is as wide as what comes after res4
        limits["MODEL.ROI_HEADS.IN_FEATURES"] = (["res4"],)
    if problems := _outside(config, limits):
        raise UserError(
            "settings that the engine of Detectron2 cannot follow here:\n  " + "\n  ".join(problems)
        )


def suspects(config: CfgNode) -> str:
    """Lines to go behind the words of Detectron2, which often name no key: each unusual setting."""
    lines = _outside(config, LIMITED_NETWORK) or [line for rule in RULES for line in rule(config)]
    return "\n  ".join(["\nIt may be due to", *lines]) if lines else ""


def _outside(config: CfgNode, limits: Mapping[str, tuple[Any, ...]]) -> list[str]:
    return [
        f"{key} is {value_of(config, key)!r}; expected {' or '.join(map(repr, allowed))}"
        for key, allowed in limits.items()
        if value_of(config, key) not in allowed
    ]
