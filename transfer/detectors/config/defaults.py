"""The names and default values of all settings: Detectron2's, version 2.

Source: detectron2/config/defaults.py at 02b5c4e2. The keys are exactly Detectron2's, so that a yaml
works in both. A value in a file must have the type of the default (a list may replace a tuple and vice
versa).
"""

from typing import Any

VERSION = 2

# Read by every run, in the order of processing.
_DATA: dict[str, dict[str, Any]] = {
    "DATASETS": {
        "TRAIN": (),
        "TEST": (),
        "PROPOSAL_FILES_TRAIN": (),
        "PROPOSAL_FILES_TEST": (),
        "PRECOMPUTED_PROPOSAL_TOPK_TRAIN": 2000,
        "PRECOMPUTED_PROPOSAL_TOPK_TEST": 1000,
    },
    "DATALOADER": {
        "NUM_WORKERS": 4,
        "ASPECT_RATIO_GROUPING": True,
        "FILTER_EMPTY_ANNOTATIONS": True,
        "SAMPLER_TRAIN": "TrainingSampler",
        "REPEAT_THRESHOLD": 0.0,
        "REPEAT_SQRT": True,
    },
    "INPUT": {
        "FORMAT": "BGR",
        "MASK_FORMAT": "polygon",
        "MIN_SIZE_TRAIN": (800,),
        "MIN_SIZE_TRAIN_SAMPLING": "choice",
        "MAX_SIZE_TRAIN": 1333,
        "MIN_SIZE_TEST": 800,
        "MAX_SIZE_TEST": 1333,
        "RANDOM_FLIP": "horizontal",
    },
    "INPUT.CROP": {"ENABLED": False, "TYPE": "relative_range", "SIZE": [0.9, 0.9]},
}
_NETWORK: dict[str, dict[str, Any]] = {
    "MODEL": {
        "META_ARCHITECTURE": "GeneralizedRCNN",
        "DEVICE": "cuda",
        "WEIGHTS": "",
        "PIXEL_MEAN": [103.530, 116.280, 123.675],  # blue, green, red on a scale of 0 to 255
        "PIXEL_STD": [1.0, 1.0, 1.0],
        "MASK_ON": False,
        "KEYPOINT_ON": False,
        "LOAD_PROPOSALS": False,
    },
    "MODEL.BACKBONE": {"NAME": "build_resnet_backbone", "FREEZE_AT": 2},
    "MODEL.RESNETS": {
        "DEPTH": 50,
        "NORM": "FrozenBN",
        "STRIDE_IN_1X1": True,
        "OUT_FEATURES": ["res4"],
        "STEM_OUT_CHANNELS": 64,
        "RES2_OUT_CHANNELS": 256,
        "NUM_GROUPS": 1,
        "WIDTH_PER_GROUP": 64,
        "RES5_DILATION": 1,
        "DEFORM_ON_PER_STAGE": [False, False, False, False],
        "DEFORM_MODULATED": False,
        "DEFORM_NUM_GROUPS": 1,
    },
    "MODEL.FPN": {"IN_FEATURES": [], "OUT_CHANNELS": 256, "NORM": "", "FUSE_TYPE": "sum"},
    "MODEL.PROPOSAL_GENERATOR": {"NAME": "RPN", "MIN_SIZE": 0},
    "MODEL.ANCHOR_GENERATOR": {
        "NAME": "DefaultAnchorGenerator",
        "SIZES": [[32, 64, 128, 256, 512]],
        "ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
        "ANGLES": [[-90, 0, 90]],
        "OFFSET": 0.0,
    },
    "MODEL.RPN": {
        "HEAD_NAME": "StandardRPNHead",
        "IN_FEATURES": ["res4"],
        "CONV_DIMS": [-1],
        "BOUNDARY_THRESH": -1,
        "IOU_THRESHOLDS": [0.3, 0.7],
        "IOU_LABELS": [0, -1, 1],
        "BATCH_SIZE_PER_IMAGE": 256,
        "POSITIVE_FRACTION": 0.5,
        "BBOX_REG_WEIGHTS": (1.0, 1.0, 1.0, 1.0),
        "BBOX_REG_LOSS_TYPE": "smooth_l1",
        "BBOX_REG_LOSS_WEIGHT": 1.0,
        "SMOOTH_L1_BETA": 0.0,
        "LOSS_WEIGHT": 1.0,
        "PRE_NMS_TOPK_TRAIN": 12000,
        "PRE_NMS_TOPK_TEST": 6000,
        "POST_NMS_TOPK_TRAIN": 2000,
        "POST_NMS_TOPK_TEST": 1000,
        "NMS_THRESH": 0.7,
    },
    "MODEL.ROI_HEADS": {
        "NAME": "Res5ROIHeads",
        "NUM_CLASSES": 80,
        "IN_FEATURES": ["res4"],
        "IOU_THRESHOLDS": [0.5],
        "IOU_LABELS": [0, 1],
        "BATCH_SIZE_PER_IMAGE": 512,
        "POSITIVE_FRACTION": 0.25,
        "PROPOSAL_APPEND_GT": True,
        "SCORE_THRESH_TEST": 0.05,
        "NMS_THRESH_TEST": 0.5,
    },
    "MODEL.ROI_BOX_HEAD": {
        "NAME": "",
        "POOLER_TYPE": "ROIAlignV2",
        "POOLER_RESOLUTION": 14,
        "POOLER_SAMPLING_RATIO": 0,
        "NUM_CONV": 0,
        "CONV_DIM": 256,
        "NUM_FC": 0,
        "FC_DIM": 1024,
        "NORM": "",
        "BBOX_REG_WEIGHTS": (10.0, 10.0, 5.0, 5.0),
        "BBOX_REG_LOSS_TYPE": "smooth_l1",
        "BBOX_REG_LOSS_WEIGHT": 1.0,
        "SMOOTH_L1_BETA": 0.0,
        "CLS_AGNOSTIC_BBOX_REG": False,
        "TRAIN_ON_PRED_BOXES": False,
        "USE_SIGMOID_CE": False,
        "USE_FED_LOSS": False,
        "FED_LOSS_FREQ_WEIGHT_POWER": 0.5,
        "FED_LOSS_NUM_CLASSES": 50,
    },
    "MODEL.ROI_MASK_HEAD": {
        "NAME": "MaskRCNNConvUpsampleHead",
        "POOLER_TYPE": "ROIAlignV2",
        "POOLER_RESOLUTION": 14,
        "POOLER_SAMPLING_RATIO": 0,
        "NUM_CONV": 0,
        "CONV_DIM": 256,
        "NORM": "",
        "CLS_AGNOSTIC_MASK": False,
    },
}
_RUN: dict[str, dict[str, Any]] = {
    "SOLVER": {
        "IMS_PER_BATCH": 16,
        "REFERENCE_WORLD_SIZE": 0,
        "MAX_ITER": 40000,
        "BASE_LR": 0.001,
        "BASE_LR_END": 0.0,
        "LR_SCHEDULER_NAME": "WarmupMultiStepLR",
        "STEPS": (30000,),
        "GAMMA": 0.1,
        "NUM_DECAYS": 3,
        "RESCALE_INTERVAL": False,
        "WARMUP_METHOD": "linear",
        "WARMUP_FACTOR": 1.0 / 1000,
        "WARMUP_ITERS": 1000,
        "MOMENTUM": 0.9,
        "NESTEROV": False,
        "WEIGHT_DECAY": 0.0001,
        "WEIGHT_DECAY_NORM": 0.0,
        "WEIGHT_DECAY_BIAS": None,
        "BIAS_LR_FACTOR": 1.0,
        "CHECKPOINT_PERIOD": 5000,
    },
    "SOLVER.CLIP_GRADIENTS": {
        "ENABLED": False,
        "CLIP_TYPE": "value",
        "CLIP_VALUE": 1.0,
        "NORM_TYPE": 2.0,
    },
    "SOLVER.AMP": {"ENABLED": False},
    "TEST": {
        "DETECTIONS_PER_IMAGE": 100,
        "EVAL_PERIOD": 0,
        "EXPECTED_RESULTS": [],
        "KEYPOINT_OKS_SIGMAS": [],
    },
    "TEST.PRECISE_BN": {"ENABLED": False, "NUM_ITER": 200},
    "TEST.AUG": {
        "ENABLED": False,
        "MIN_SIZES": (400, 500, 600, 700, 800, 900, 1000, 1100, 1200),
        "MAX_SIZE": 4000,
        "FLIP": True,
    },
    "": {
        "VERSION": VERSION,
        "OUTPUT_DIR": "./output",
        "SEED": -1,
        "CUDNN_BENCHMARK": False,
        "FLOAT32_PRECISION": "",
        "VIS_PERIOD": 0,
    },
    "GLOBAL": {"HACK": 1.0},
}
# Read by other architectures only; here so that any file of Detectron2 merges.
_ELSEWHERE: dict[str, dict[str, Any]] = {
    "MODEL.ROI_BOX_CASCADE_HEAD": {
        "IOUS": (0.5, 0.6, 0.7),
        "BBOX_REG_WEIGHTS": tuple((10.0 * s, 10.0 * s, 5.0 * s, 5.0 * s) for s in (1, 2, 3)),
    },
    "MODEL.ROI_KEYPOINT_HEAD": {
        "NAME": "KRCNNConvDeconvUpsampleHead",
        "POOLER_TYPE": "ROIAlignV2",
        "POOLER_RESOLUTION": 14,
        "POOLER_SAMPLING_RATIO": 0,
        "CONV_DIMS": (512,) * 8,
        "NUM_KEYPOINTS": 17,
        "MIN_KEYPOINTS_PER_IMAGE": 1,
        "NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS": True,
        "LOSS_WEIGHT": 1.0,
    },
    "MODEL.SEM_SEG_HEAD": {
        "NAME": "SemSegFPNHead",
        "IN_FEATURES": ["p2", "p3", "p4", "p5"],
        "NUM_CLASSES": 54,
        "IGNORE_VALUE": 255,
        "CONVS_DIM": 128,
        "COMMON_STRIDE": 4,
        "NORM": "GN",
        "LOSS_WEIGHT": 1.0,
    },
    "MODEL.PANOPTIC_FPN": {"INSTANCE_LOSS_WEIGHT": 1.0},
    "MODEL.PANOPTIC_FPN.COMBINE": {
        "ENABLED": True,
        "OVERLAP_THRESH": 0.5,
        "STUFF_AREA_LIMIT": 4096,
        "INSTANCES_CONFIDENCE_THRESH": 0.5,
    },
    "MODEL.RETINANET": {
        "IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
        "NUM_CLASSES": 80,
        "NUM_CONVS": 4,
        "NORM": "",
        "PRIOR_PROB": 0.01,
        "IOU_THRESHOLDS": [0.4, 0.5],
        "IOU_LABELS": [0, -1, 1],
        "FOCAL_LOSS_ALPHA": 0.25,
        "FOCAL_LOSS_GAMMA": 2.0,
        "BBOX_REG_WEIGHTS": (1.0, 1.0, 1.0, 1.0),
        "BBOX_REG_LOSS_TYPE": "smooth_l1",
        "SMOOTH_L1_LOSS_BETA": 0.1,
        "SCORE_THRESH_TEST": 0.05,
        "TOPK_CANDIDATES_TEST": 1000,
        "NMS_THRESH_TEST": 0.5,
    },
}

DEFAULTS: dict[str, Any] = {
    f"{section}.{name}".lstrip("."): value
    for sections in (_DATA, _NETWORK, _RUN, _ELSEWHERE)
    for section, values in sections.items()
    for name, value in values.items()
}
"""Every setting by its dotted key, such as ``MODEL.RPN.NMS_THRESH``."""
