"""The detectors to compare with Detectron2 and its recorded numbers: configs and samples.

Small images and few regions, so that a case takes seconds; every branch is on its way.
"""

import numpy as np
import torch
from torch import nn

from transfer.detectors.config.yaml_file import default_config
from transfer.detectors.mapper import Sample
from transfer.detectors.rcnn import build_model

SMALL = [
    "MODEL.DEVICE", "cpu",
    "MODEL.ROI_HEADS.NUM_CLASSES", 5,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16,
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE", 64,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN", 400,
    "MODEL.RPN.PRE_NMS_TOPK_TEST", 200,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN", 100,
    "MODEL.RPN.POST_NMS_TOPK_TEST", 24,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0,  # random weights give low scores
    "TEST.DETECTIONS_PER_IMAGE", 20,
]  # fmt: skip
FEW = ["MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 8, "MODEL.RPN.POST_NMS_TOPK_TEST", 12]
R18 = ["MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64]
NARROW = [
    "MODEL.RESNETS.STEM_OUT_CHANNELS", 32,
    "MODEL.RESNETS.RES2_OUT_CHANNELS", 32,
    "MODEL.RESNETS.WIDTH_PER_GROUP", 8,
]  # fmt: skip
RGB = [
    "INPUT.FORMAT", "RGB",
    "MODEL.PIXEL_MEAN", [123.675, 116.280, 103.530],
    "MODEL.PIXEL_STD", [58.395, 57.120, 57.375],
    "MODEL.RESNETS.STRIDE_IN_1X1", False,
    "MODEL.BACKBONE.FREEZE_AT", 0,
]  # fmt: skip
FPN = [
    "MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone",
    "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"],
    "MODEL.ANCHOR_GENERATOR.SIZES", [[32], [64], [128], [256], [512]],
    "MODEL.RPN.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"],
    "MODEL.ROI_HEADS.NAME", "StandardROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3", "p4", "p5"],
    "MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 7,
    "MODEL.ROI_BOX_HEAD.FC_DIM", 128,
    "MODEL.FPN.OUT_CHANNELS", 64,
    "MODEL.ROI_MASK_HEAD.CONV_DIM", 64,
    "MODEL.ROI_BOX_HEAD.CONV_DIM", 64,
    "MODEL.ROI_MASK_HEAD.NUM_CONV", 4,
]  # fmt: skip
MASKS = ["MODEL.MASK_ON", True]
SYNC = ["MODEL.RESNETS.NORM", "SyncBN", "MODEL.FPN.NORM", "SyncBN"]
PIXPRO_HEADS = [
    "MODEL.ROI_BOX_HEAD.NUM_CONV", 4,
    "MODEL.ROI_BOX_HEAD.NUM_FC", 1,
    "MODEL.ROI_BOX_HEAD.NORM", "SyncBN",
    "MODEL.ROI_MASK_HEAD.NORM", "SyncBN",
]  # fmt: skip
KEYPOINTS = [
    "MODEL.KEYPOINT_ON", True,
    "MODEL.ROI_HEADS.NUM_CLASSES", 1,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 8,
    "TEST.DETECTIONS_PER_IMAGE", 8,
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA", 0.5,
    "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", [48, 32],
]  # fmt: skip
PLAIN_HEADS = ["MODEL.ROI_BOX_HEAD.NUM_FC", 2]

CASES = {
    "c4-extra-norm": [*RGB, *FEW, "MODEL.RESNETS.NORM", "SyncBN",
                      "MODEL.ROI_HEADS.NAME", "Res5ROIHeadsExtraNorm"],
    "c4-narrow-mask-extra-norm": [*RGB, *R18, *NARROW, *MASKS, "MODEL.RESNETS.NORM", "BN",
                                  "MODEL.ROI_HEADS.NAME", "Res5ROIHeadsExtraNorm"],
    "c4-r18-mask": [*RGB, *R18, *MASKS, "MODEL.RESNETS.NORM", "BN"],
    "fpn-r18-mask": [*RGB, *R18, *FPN, *MASKS, *SYNC, *PLAIN_HEADS],
    "fpn-r50-mask-4conv1fc": [*RGB, *FPN, *MASKS, *SYNC, *PIXPRO_HEADS],
    "fpn-r18-boxes": [*RGB, *R18, *FPN, "MODEL.RESNETS.NORM", "naiveSyncBN",
                      "MODEL.FPN.NORM", "GN", "MODEL.FPN.FUSE_TYPE", "avg",
                      "MODEL.RPN.SMOOTH_L1_BETA", 0.11, "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA", 0.5,
                      "MODEL.ANCHOR_GENERATOR.OFFSET", 0.5, "MODEL.ROI_BOX_HEAD.POOLER_TYPE",
                      "ROIAlign", "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", 2,
                      "MODEL.RPN.BBOX_REG_LOSS_WEIGHT", 0.5, "MODEL.RPN.LOSS_WEIGHT", 0.2,
                      "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT", 2.0,
                      "MODEL.PROPOSAL_GENERATOR.MIN_SIZE", 4, *PLAIN_HEADS],
    "fpn-r50-frozen-bgr": [*FPN, *MASKS, *PLAIN_HEADS],  # the defaults: FrozenBN, BGR, 1x1, FREEZE_AT 2
    "c4-frozen-bgr": [*FEW],
    "fpn-r18-freeze-bn": [*RGB, *R18, *FPN, *MASKS, *SYNC, *PLAIN_HEADS,
                          "MODEL.BACKBONE.FREEZE_AT", 3, "INPUT.MASK_FORMAT", "bitmask"],
    "fpn-r18-keypoints": [*RGB, *R18, *FPN, *SYNC, *PLAIN_HEADS, *KEYPOINTS],
    # the loss divided by a fixed number
    "fpn-r18-narrow-mask-keypoints": [*RGB, *R18, *NARROW, *FPN, *MASKS, *SYNC, *PLAIN_HEADS, *KEYPOINTS,
                                      "MODEL.ROI_KEYPOINT_HEAD.NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS", False,
                                      "MODEL.ROI_KEYPOINT_HEAD.LOSS_WEIGHT", 0.5,
                                      "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 5,
                                      "MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION", 7,
                                      "MODEL.ROI_KEYPOINT_HEAD.POOLER_TYPE", "ROIAlign",
                                      "MODEL.ROI_HEADS.NUM_CLASSES", 3],
    "fpn-r50-keypoints-frozen-bgr": [*FPN, *PLAIN_HEADS, *KEYPOINTS],
}  # fmt: skip
"""Name -> overrides of the defaults, after SMALL."""


def config_of(name, *overrides):
    """The config of a case, frozen."""
    config = default_config()
    config.merge_from_list([*SMALL, *CASES[name], *overrides])
    config.freeze()
    return config


def sample_of(config, *, seed, height, width, objects, scale=1.5, scene=0):
    """An image of noise with coarse structure, and objects with octagonal polygons."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 16, width // 16, generator=generator) * 255
    image = nn.functional.interpolate(coarse, (height, width), mode="nearest")[0]
    image = (image * 0.7 + torch.rand(3, height, width, generator=generator) * 76).to(torch.uint8)
    size = torch.tensor([width, height])
    corners = torch.rand(objects, 2, 2, generator=generator)
    low = corners[:, 0] * 0.6 * size
    high = low + (0.15 + 0.25 * corners[:, 1]) * size
    boxes = torch.cat((low, torch.minimum(high, size)), 1)
    labels = torch.randint(config.MODEL.ROI_HEADS.NUM_CLASSES, (objects,), generator=generator)
    polygons = [_octagon(box) for box in boxes.double().numpy()]
    masks = config.MODEL.MASK_ON
    bitmap = config.INPUT.MASK_FORMAT == "bitmask"
    return Sample(
        scene=scene,
        image=image,
        height=round(height * scale),
        width=round(width * scale),
        boxes=boxes,
        labels=labels,
        polygons=tuple(polygons) if masks and not bitmap else None,
        bitmasks=_bitmaps(boxes, height, width) if masks and bitmap else None,
        keypoints=_keypoints(config, boxes, generator) if config.MODEL.KEYPOINT_ON else None,
    )


def _keypoints(config, boxes, generator):
    """Points in and around the boxes, a third of them not labeled; one on an edge of its box."""
    count = config.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    shape = (len(boxes), count)
    place = torch.rand(*shape, 2, generator=generator) * 1.2 - 0.1
    points = boxes[:, None, :2] + place * (boxes[:, None, 2:] - boxes[:, None, :2])
    points[:, 0] = boxes[:, 2:]
    visibility = torch.randint(3, (*shape, 1), generator=generator)
    visibility[:, 0] = 2
    return (torch.cat((points, visibility), 2) * (visibility > 0)).numpy()


def _octagon(box):
    """Two rings: a ragged octagon in the box and a small triangle outside of it."""
    angles = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    x0, y0, x1, y1 = box
    radius = np.where(np.arange(8) % 2, 0.5, 0.35)
    x = (x0 + x1) / 2 + radius * (x1 - x0) * np.cos(angles)
    y = (y0 + y1) / 2 + radius * (y1 - y0) * np.sin(angles)
    triangle = np.array([x0, y0, x0 + 3.5, y0, x0, y0 + 4.25])
    return (np.stack([x, y], 1).ravel(), triangle)


def _bitmaps(boxes, height, width):
    """Discs in the boxes."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]) / 2
    dx = (x - center[:, 0, None, None]) / half[:, 0, None, None]
    dy = (y - center[:, 1, None, None]) / half[:, 1, None, None]
    return dx**2 + dy**2 <= 1


def batch_of(config, step=0):
    """Two images of different sizes, one of them in portrait format."""
    return [
        sample_of(config, seed=10 * step + 1, height=96, width=144, objects=4),
        sample_of(config, seed=10 * step + 2, height=128, width=112, objects=3, scene=1, scale=0.8),
    ]


def settle(model, config):
    """Set weights that activate every branch, with BatchNorm statistics of real activations, in place.

    Statistics and biases are then perturbed and the last layers made larger, so that nothing is
    symmetric, zero or sure of background.
    """
    donor = model
    if config.MODEL.RESNETS.NORM == "FrozenBN":  # use the statistics of the same model with BN
        donor = build_model(changed(config, "MODEL.RESNETS.NORM", "BN"))
        fresh = model.state_dict()
        weights = {k: v for k, v in fresh.items() if k.endswith("weight") and "norm" not in k}
        donor.load_state_dict(donor.state_dict() | weights)
    norms = [m for m in donor.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    torch.manual_seed(3)
    with torch.no_grad():
        donor.train()(batch_of(config, step=7))
    for norm in norms:
        norm.momentum = 0.1
    found = donor.state_dict()
    generator = torch.Generator().manual_seed(5)
    state = {}
    for name, old in model.state_dict().items():
        value = found[name].clone()
        if old.is_floating_point() and ("norm." in name or name.endswith("bias")):
            value += torch.rand(value.shape, generator=generator) * 0.05 * value.abs().mean()
        for part, factor in LOUDER.items():
            if name.endswith(part) and config.MODEL.RESNETS.NORM != "FrozenBN":
                value *= factor  # with frozen statistics, activations already grow
        state[name] = value
    model.load_state_dict(state)
    return model


LOUDER = {
    "cls_score.weight": 8,
    "bbox_pred.weight": 20,
    "predictor.weight": 100,
    "anchor_deltas.weight": 4,
    "objectness_logits.weight": 4,
}
"""Suffix of a parameter's name -> factor on its initial value."""


def changed(config, *overrides):
    """A copy of a config with other values."""
    config = config.clone()
    config.defrost()
    config.merge_from_list(list(overrides))
    config.freeze()
    return config
