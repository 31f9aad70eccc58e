"""The published detection cards compared with their protocols, which are a separate table here.

Values are those that the papers and their repositories print: MoCo (arXiv 1911.05722, detection/configs
of facebookresearch/moco), SwAV (arXiv 2006.09882, A.5), Barlow Twins (arXiv 2103.03230, C.2),
VICReg (arXiv 2105.04906, C.3), PixPro (arXiv 2011.10043, transfer/detection/configs of zdaxie/PixPro),
MSBReg (arXiv 2207.03552, §8.4), VISSL's yaml where MSBReg is silent, and Detectron2 0.6
(config/defaults.py) where all of them are.
"""

from typing import Any

import pytest

from tests.transfer.boxes_data import CARDS
from transfer.detectors.config.yaml_file import read_config

# Common to all six: MoCo's detection/configs, and Detectron2's defaults.
SHARED: dict[str, Any] = {
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.BACKBONE.FREEZE_AT": 0,  # everything is trained
    "MODEL.RESNETS.NORM": "SyncBN",  # MoCo at its first release; PixPro; VISSL
    "MODEL.RESNETS.STRIDE_IN_1X1": False,  # the weights have torchvision's layout
    "MODEL.RESNETS.NUM_GROUPS": 1,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 64,
    "MODEL.RESNETS.RES5_DILATION": 1,
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "INPUT.FORMAT": "RGB",
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice",
    "INPUT.MAX_SIZE_TRAIN": 1333,
    "INPUT.MIN_SIZE_TEST": 800,
    "INPUT.MAX_SIZE_TEST": 1333,
    "INPUT.RANDOM_FLIP": "horizontal",
    "INPUT.CROP.ENABLED": False,
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": True,
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
    "MODEL.ANCHOR_GENERATOR.OFFSET": 0.0,
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 256,
    "MODEL.RPN.POSITIVE_FRACTION": 0.5,
    "MODEL.RPN.IOU_THRESHOLDS": [0.3, 0.7],
    "MODEL.RPN.NMS_THRESH": 0.7,
    "MODEL.RPN.LOSS_WEIGHT": 1.0,  # VICReg's 0.2 is an override that its card names
    "MODEL.RPN.SMOOTH_L1_BETA": 0.0,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 512,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": 0.25,
    "MODEL.ROI_HEADS.IOU_THRESHOLDS": [0.5],
    "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT": True,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.05,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.5,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": (10.0, 10.0, 5.0, 5.0),
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 0.0,
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlignV2",
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 0,  # adaptive
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.GAMMA": 0.1,
    "SOLVER.MOMENTUM": 0.9,
    "SOLVER.NESTEROV": False,
    "SOLVER.WEIGHT_DECAY": 1e-4,
    "SOLVER.WEIGHT_DECAY_NORM": 0.0,
    "SOLVER.WEIGHT_DECAY_BIAS": None,  # the weights'
    "SOLVER.BIAS_LR_FACTOR": 1.0,
    "SOLVER.LR_SCHEDULER_NAME": "WarmupMultiStepLR",
    "SOLVER.WARMUP_METHOD": "linear",
    "SOLVER.WARMUP_FACTOR": 1 / 1000,
    "SOLVER.CLIP_GRADIENTS.ENABLED": False,
    "SOLVER.AMP.ENABLED": False,
    "TEST.DETECTIONS_PER_IMAGE": 100,
    "TEST.EVAL_PERIOD": 0,  # at the end only
    "TEST.PRECISE_BN.ENABLED": True,
    "TEST.PRECISE_BN.NUM_ITER": 200,
}
VOC: dict[str, Any] = {
    "DATASETS.TRAIN": ("voc_2007_trainval", "voc_2012_trainval"),
    "DATASETS.TEST": ("voc_2007_test",),
    "MODEL.ROI_HEADS.NUM_CLASSES": 20,
    "MODEL.MASK_ON": False,
    "INPUT.MIN_SIZE_TRAIN": (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800),
    "SOLVER.STEPS": (18000, 22000),
    "SOLVER.MAX_ITER": 24000,
}
COCO: dict[str, Any] = {
    "DATASETS.TRAIN": ("coco_2017_train",),
    "DATASETS.TEST": ("coco_2017_val",),
    "MODEL.ROI_HEADS.NUM_CLASSES": 80,
    "MODEL.MASK_ON": True,
    "INPUT.MIN_SIZE_TRAIN": (640, 672, 704, 736, 768, 800),
    "INPUT.MASK_FORMAT": "polygon",
    "SOLVER.STEPS": (60000, 80000),
    "SOLVER.MAX_ITER": 90000,
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": "ROIAlignV2",
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
}
# MoCo's Base-RCNN-C4-BN.yaml: a norm layer after res5, of the kind of the backbone.
C4: dict[str, Any] = {
    "MODEL.BACKBONE.NAME": "build_resnet_backbone",
    "MODEL.RESNETS.OUT_FEATURES": ["res4"],
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32, 64, 128, 256, 512]],
    "MODEL.RPN.IN_FEATURES": ["res4"],
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 12000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 6000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 2000,
    "MODEL.ROI_HEADS.NAME": "Res5ROIHeadsExtraNorm",
    "MODEL.ROI_HEADS.IN_FEATURES": ["res4"],
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 14,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 0,
    "MODEL.ROI_MASK_HEAD.NORM": "",
}
# Two fully connected layers and four convolutions, all without a norm: MoCo's maintainer
# (github.com/facebookresearch/moco/issues/34), and VISSL's R50_FPNv2.
FPN: dict[str, Any] = {
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.NORM": "SyncBN",
    "MODEL.FPN.OUT_CHANNELS": 256,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
    "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1000,
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    "MODEL.ROI_BOX_HEAD.NUM_CONV": 0,
    "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 1024,
    "MODEL.ROI_BOX_HEAD.NORM": "",
    "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 4,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 256,
    "MODEL.ROI_MASK_HEAD.NORM": "",
}
TWICE: dict[str, Any] = {  # COCO's 2x schedule
    "SOLVER.BASE_LR": 0.02,
    "SOLVER.WARMUP_ITERS": 1000,
    "SOLVER.STEPS": (120000, 160000),
    "SOLVER.MAX_ITER": 180000,
}
PROTOCOLS: dict[str, dict[str, Any]] = {
    # MoCo's pascal_voc_R_50_C4_24k_moco.yaml; MSBReg: "initial lr 0.02", the rest as MoCo.
    "voc_c4": VOC | C4 | {"SOLVER.BASE_LR": 0.02, "SOLVER.WARMUP_ITERS": 100},
    # SwAV A.5, Barlow Twins C.2 and VICReg C.3: 0.1, warm-up of 1000 from a factor of 0.333.
    "voc_c4_lr01": VOC
    | C4
    | {"SOLVER.BASE_LR": 0.1, "SOLVER.WARMUP_ITERS": 1000, "SOLVER.WARMUP_FACTOR": 0.333},
    # MSBReg §8.4: 0.05 and a warm-up of 50 iterations.
    "coco_mask_fpn": COCO | FPN | {"SOLVER.BASE_LR": 0.05, "SOLVER.WARMUP_ITERS": 50},
    # MoCo §4.2 and appendix A: Detectron2's 1x schedule.
    "coco_mask_fpn_moco": COCO | FPN | {"SOLVER.BASE_LR": 0.02, "SOLVER.WARMUP_ITERS": 1000},
    # PixPro's COCO_R_50_FPN_1x_PixPro.yaml: a 4conv1fc box head, and SyncBN in both heads.
    "coco_mask_fpn_pixpro": COCO
    | FPN
    | {
        "SOLVER.BASE_LR": 0.02,
        "SOLVER.WARMUP_ITERS": 1000,
        "MODEL.ROI_BOX_HEAD.NUM_CONV": 4,
        "MODEL.ROI_BOX_HEAD.CONV_DIM": 256,
        "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
        "MODEL.ROI_BOX_HEAD.NORM": "SyncBN",
        "MODEL.ROI_MASK_HEAD.NORM": "SyncBN",
    },
    # Barlow Twins C.2: 0.03, on MoCo's C4 network.
    "coco_mask_c4": COCO | C4 | {"SOLVER.BASE_LR": 0.03, "SOLVER.WARMUP_ITERS": 1000},
    # MMSelfSup's keypoint_rcnn_R_50_FPN_2x_moco.yaml, on Detectron2's Base-Keypoint-RCNN-FPN.yaml.
    "coco_keypoint_fpn_moco": COCO
    | {key: value for key, value in FPN.items() if "ROI_MASK_HEAD" not in key}
    | TWICE
    | {
        "DATASETS.TRAIN": ("keypoints_coco_2017_train",),
        "DATASETS.TEST": ("keypoints_coco_2017_val",),
        "MODEL.KEYPOINT_ON": True,
        "MODEL.MASK_ON": False,
        "MODEL.ROI_HEADS.NUM_CLASSES": 1,
        "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 0.5,
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1500,
        "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": (512,) * 8,
        "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 17,
        "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE": 1,
        "MODEL.ROI_KEYPOINT_HEAD.NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS": True,
    },
    # Detectron2's LVISv1-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml.
    "lvis_v1_mask_fpn_moco": COCO
    | FPN
    | TWICE
    | {
        "DATASETS.TRAIN": ("lvis_v1_train",),
        "DATASETS.TEST": ("lvis_v1_val",),
        "DATALOADER.SAMPLER_TRAIN": "RepeatFactorTrainingSampler",
        "DATALOADER.REPEAT_THRESHOLD": 0.001,
        "MODEL.ROI_HEADS.NUM_CLASSES": 1203,
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0001,
        "TEST.DETECTIONS_PER_IMAGE": 300,
    },
}


def value_of(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = config[name]
    return config


def plain(value: Any) -> Any:
    """Convert tuples to lists; yaml may contain either."""
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("card", sorted(PROTOCOLS))
def test_a_card_has_the_values_of_its_protocol(card):
    config = read_config(CARDS / f"{card}.yaml")
    wanted = SHARED | PROTOCOLS[card]
    differing = {
        key: f"{value_of(config, key)!r}, published {value!r}"
        for key, value in wanted.items()
        if plain(value_of(config, key)) != plain(value)
    }
    assert not differing


def test_every_published_detection_card_is_in_the_table():
    detection = {path.stem for path in CARDS.glob("*.yaml") if "DATASETS" in path.read_text()}
    ours = ("digits", "photos")  # of no paper
    assert {name for name in detection if not name.startswith(ours)} == PROTOCOLS.keys()
