"""What of Detectron2's settings is implemented, as a table: nothing is passed over in silence.

Every key of DEFAULTS is either HONORED with any value (of its type), LIMITED to some values, or
UNREAD, because it only matters where a limited one has another value.
"""

from typing import Any

from fvcore.common.config import CfgNode

from msbreg.run.errors import UserError
from transfer.detectors.config.consistency import (
    C4_HEADS,
    PYRAMID,
    RESNET,
    RULES,
    STANDARD_HEADS,
    out_of_range,
    value_of,
)
from transfer.detectors.config.defaults import DEFAULTS, VERSION

Key = str
Values = tuple[Any, ...]

DEPTHS = (18, 34, 50, 101, 152)
NORMS = ("BN", "SyncBN", "naiveSyncBN", "FrozenBN", "GN")

LIMITED_DATA: dict[Key, Values] = {
    "VERSION": (VERSION,),
    "DATASETS.PROPOSAL_FILES_TRAIN": ((),),
    "DATASETS.PROPOSAL_FILES_TEST": ((),),
    "DATALOADER.SAMPLER_TRAIN": ("TrainingSampler",),
    "INPUT.FORMAT": ("RGB", "BGR"),
    "INPUT.MASK_FORMAT": ("polygon", "bitmask"),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": ("choice", "range"),
    "INPUT.RANDOM_FLIP": ("horizontal", "vertical", "none"),
    "INPUT.CROP.ENABLED": (False,),
    "SOLVER.REFERENCE_WORLD_SIZE": (0,),
    "SOLVER.LR_SCHEDULER_NAME": (
        "WarmupMultiStepLR",
        "WarmupCosineLR",
        "WarmupStepWithFixedGammaLR",
    ),
    "SOLVER.WARMUP_METHOD": ("linear", "constant"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": ("value", "norm"),
    "TEST.AUG.ENABLED": (False,),
    "TEST.EXPECTED_RESULTS": ([],),
    "CUDNN_BENCHMARK": (False,),
    "FLOAT32_PRECISION": ("",),
    "VIS_PERIOD": (0,),
}
"""Of data, loop and evaluation, which both engines share."""

LIMITED_NETWORK: dict[Key, Values] = {
    "MODEL.META_ARCHITECTURE": ("GeneralizedRCNN",),
    "MODEL.KEYPOINT_ON": (False,),
    "MODEL.LOAD_PROPOSALS": (False,),
    "MODEL.BACKBONE.NAME": (RESNET, PYRAMID),
    "MODEL.BACKBONE.FREEZE_AT": (0, 1, 2, 3, 4, 5),
    "MODEL.RESNETS.DEPTH": DEPTHS,
    "MODEL.RESNETS.NORM": NORMS,
    "MODEL.RESNETS.NUM_GROUPS": (1,),
    "MODEL.RESNETS.RES5_DILATION": (1,),
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": ([False] * 4,),
    "MODEL.FPN.NORM": ("", *NORMS),
    "MODEL.FPN.FUSE_TYPE": ("sum", "avg"),
    "MODEL.PROPOSAL_GENERATOR.NAME": ("RPN",),
    "MODEL.ANCHOR_GENERATOR.NAME": ("DefaultAnchorGenerator",),
    "MODEL.RPN.HEAD_NAME": ("StandardRPNHead",),
    "MODEL.RPN.CONV_DIMS": ([-1],),
    "MODEL.RPN.BOUNDARY_THRESH": (-1,),
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": ("smooth_l1",),
    "MODEL.ROI_HEADS.NAME": (*C4_HEADS, STANDARD_HEADS),
    "MODEL.ROI_BOX_HEAD.NAME": ("", "FastRCNNConvFCHead"),
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": ("ROIAlignV2", "ROIAlign"),
    "MODEL.ROI_BOX_HEAD.NORM": ("", *NORMS),
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": ("smooth_l1",),
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": (False,),
    "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES": (False,),
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": (False,),
    "MODEL.ROI_BOX_HEAD.USE_FED_LOSS": (False,),
    "MODEL.ROI_MASK_HEAD.NAME": ("MaskRCNNConvUpsampleHead",),
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": ("ROIAlignV2", "ROIAlign"),
    "MODEL.ROI_MASK_HEAD.NORM": ("", *NORMS),
    "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": (False,),
}
"""Of the network."""

HONORED: dict[str, str] = {
    "DATASETS": "TRAIN TEST",
    "DATALOADER": "NUM_WORKERS ASPECT_RATIO_GROUPING FILTER_EMPTY_ANNOTATIONS",
    "INPUT": "MIN_SIZE_TRAIN MAX_SIZE_TRAIN MIN_SIZE_TEST MAX_SIZE_TEST",
    "MODEL": "DEVICE WEIGHTS PIXEL_MEAN PIXEL_STD MASK_ON",
    "MODEL.RESNETS": "STRIDE_IN_1X1 OUT_FEATURES STEM_OUT_CHANNELS RES2_OUT_CHANNELS WIDTH_PER_GROUP",
    "MODEL.FPN": "IN_FEATURES OUT_CHANNELS",
    "MODEL.PROPOSAL_GENERATOR": "MIN_SIZE",
    "MODEL.ANCHOR_GENERATOR": "SIZES ASPECT_RATIOS OFFSET",
    "MODEL.RPN": "IN_FEATURES IOU_THRESHOLDS IOU_LABELS BATCH_SIZE_PER_IMAGE POSITIVE_FRACTION "
    "BBOX_REG_WEIGHTS BBOX_REG_LOSS_WEIGHT SMOOTH_L1_BETA LOSS_WEIGHT PRE_NMS_TOPK_TRAIN "
    "PRE_NMS_TOPK_TEST POST_NMS_TOPK_TRAIN POST_NMS_TOPK_TEST NMS_THRESH",
    "MODEL.ROI_HEADS": "NUM_CLASSES IN_FEATURES IOU_THRESHOLDS IOU_LABELS BATCH_SIZE_PER_IMAGE "
    "POSITIVE_FRACTION PROPOSAL_APPEND_GT SCORE_THRESH_TEST NMS_THRESH_TEST",
    "MODEL.ROI_BOX_HEAD": "POOLER_RESOLUTION POOLER_SAMPLING_RATIO NUM_CONV CONV_DIM NUM_FC FC_DIM "
    "BBOX_REG_WEIGHTS BBOX_REG_LOSS_WEIGHT SMOOTH_L1_BETA",
    "MODEL.ROI_MASK_HEAD": "POOLER_RESOLUTION POOLER_SAMPLING_RATIO NUM_CONV CONV_DIM",
    "SOLVER": "IMS_PER_BATCH MAX_ITER BASE_LR BASE_LR_END STEPS GAMMA NUM_DECAYS RESCALE_INTERVAL "
    "WARMUP_FACTOR WARMUP_ITERS MOMENTUM NESTEROV WEIGHT_DECAY WEIGHT_DECAY_NORM WEIGHT_DECAY_BIAS "
    "BIAS_LR_FACTOR CHECKPOINT_PERIOD",
    "SOLVER.CLIP_GRADIENTS": "ENABLED CLIP_VALUE NORM_TYPE",
    "SOLVER.AMP": "ENABLED",
    "TEST": "DETECTIONS_PER_IMAGE EVAL_PERIOD",
    "TEST.PRECISE_BN": "ENABLED NUM_ITER",
    "": "OUTPUT_DIR SEED",
}
"""Section -> names of its keys that may have any value."""

UNREAD: dict[str, str] = {
    "DATASETS.PRECOMPUTED_": "MODEL.LOAD_PROPOSALS is False",
    "DATALOADER.REPEAT_": "DATALOADER.SAMPLER_TRAIN is TrainingSampler",
    "INPUT.CROP.": "INPUT.CROP.ENABLED is False",
    "MODEL.ANCHOR_GENERATOR.ANGLES": "boxes are not rotated",
    "MODEL.RESNETS.DEFORM_": "no stage is deformable",
    "MODEL.ROI_BOX_HEAD.FED_LOSS_": "MODEL.ROI_BOX_HEAD.USE_FED_LOSS is False",
    "MODEL.ROI_BOX_CASCADE_HEAD.": "MODEL.ROI_HEADS.NAME is no cascade",
    "MODEL.ROI_KEYPOINT_HEAD.": "MODEL.KEYPOINT_ON is False",
    "MODEL.SEM_SEG_HEAD.": "MODEL.META_ARCHITECTURE is GeneralizedRCNN",
    "MODEL.PANOPTIC_FPN.": "MODEL.META_ARCHITECTURE is GeneralizedRCNN",
    "MODEL.RETINANET.": "MODEL.META_ARCHITECTURE is GeneralizedRCNN",
    "TEST.AUG.": "TEST.AUG.ENABLED is False",
    "TEST.KEYPOINT_OKS_SIGMAS": "MODEL.KEYPOINT_ON is False",
    "GLOBAL.": "Detectron2 itself reads it nowhere",
}
"""Beginning of a key -> why its value changes nothing here (nor in Detectron2)."""


def check_run(config: CfgNode) -> None:
    """That data, loop and evaluation can do what a config asks, and anything can, whatever the engine.

    Raises:
        UserError: the message lists each setting that they cannot follow, and what they can.
    """
    if problems := out_of_range(config):
        raise UserError("settings that cannot be:\n  " + "\n  ".join(problems))
    _raise(_beyond(config, LIMITED_DATA))


def check_supported(config: CfgNode) -> None:
    """That the engine of torchvision's parts can do all that a config asks.

    Raises:
        UserError: the message lists each setting that it cannot follow, and what it can.
    """
    problems = _beyond(config, LIMITED_DATA | LIMITED_NETWORK)
    _raise(problems or [line for rule in RULES for line in rule(config)])


def _raise(problems: list[str]) -> None:
    if problems:
        raise UserError(
            "this config asks for what is not implemented here:\n  "
            + "\n  ".join(problems)
            + "\nChange these settings, or train with Detectron2's own tools."
        )


def _beyond(config: CfgNode, limits: dict[Key, Values]) -> list[str]:
    problems = []
    for key, allowed in limits.items():
        given = value_of(config, key)
        plain = [list(v) if isinstance(v, tuple) else v for v in (given, *allowed)]
        if plain[0] not in plain[1:]:
            problems.append(f"{key} is {given!r}; supported: " + ", ".join(map(repr, allowed)))
    return problems


def honored_keys() -> list[Key]:
    """Dotted keys of HONORED."""
    return [f"{s}.{n}".lstrip(".") for s, names in HONORED.items() for n in names.split()]


def unread_keys() -> list[Key]:
    """Dotted keys that UNREAD covers, without those that a limit covers."""
    limited = {**LIMITED_DATA, **LIMITED_NETWORK}
    return [k for k in DEFAULTS if k.startswith(tuple(UNREAD)) and k not in limited]
