"""Which of Detectron2's settings are implemented, as a table.

A key that is not in the table may have any value of its type: either every value is implemented, or the
key only matters together with an unsupported value in the table (INPUT.CROP.SIZE, for example, needs
INPUT.CROP.ENABLED True). A test checks every key against the code.
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
from transfer.detectors.config.defaults import VERSION

Key = str
Values = tuple[Any, ...]

DEPTHS = (18, 34, 50, 101, 152)
NORMS = ("BN", "SyncBN", "naiveSyncBN", "FrozenBN", "GN")

LIMITED_DATA: dict[Key, Values] = {
    "VERSION": (VERSION,),
    "DATASETS.PROPOSAL_FILES_TRAIN": ((),),
    "DATASETS.PROPOSAL_FILES_TEST": ((),),
    "DATALOADER.SAMPLER_TRAIN": ("TrainingSampler", "RepeatFactorTrainingSampler"),
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
"""Key -> supported values, for data, training loop and evaluation, which both engines share."""

LIMITED_NETWORK: dict[Key, Values] = {
    "MODEL.META_ARCHITECTURE": ("GeneralizedRCNN",),
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
    "MODEL.ROI_KEYPOINT_HEAD.NAME": ("KRCNNConvDeconvUpsampleHead",),
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_TYPE": ("ROIAlignV2", "ROIAlign"),
}
"""Key -> supported values, for the networks of the torchvision engine."""


def check_run(config: CfgNode) -> None:
    """Check that data, training loop and evaluation, which both engines share, support a config.

    Raises:
        UserError: the message lists each unsupported setting with the supported values.
    """
    if problems := out_of_range(config):
        raise UserError("invalid settings:\n  " + "\n  ".join(problems))
    _raise(_unsupported(config, LIMITED_DATA))


def check_supported(config: CfgNode) -> None:
    """Check that the torchvision engine supports a config.

    Raises:
        UserError: the message lists each unsupported setting with the supported values.
    """
    problems = _unsupported(config, LIMITED_DATA | LIMITED_NETWORK)
    _raise(problems or [line for rule in RULES for line in rule(config)])


def _raise(problems: list[str]) -> None:
    if problems:
        raise UserError(
            "this config has unsupported settings:\n  "
            + "\n  ".join(problems)
            + "\nChange these settings, or train with Detectron2's own tools."
        )


def _unsupported(config: CfgNode, limits: dict[Key, Values]) -> list[str]:
    problems = []
    for key, allowed in limits.items():
        given = value_of(config, key)
        plain = [list(v) if isinstance(v, tuple) else v for v in (given, *allowed)]
        if plain[0] not in plain[1:]:
            problems.append(f"{key} is {given!r}; supported: " + ", ".join(map(repr, allowed)))
    return problems
