"""The box and mask branches of an R-CNN: layers, losses and inference.

Box branch (Fast R-CNN, arXiv 1504.08083): class scores and one box per class. Mask branch (Mask R-CNN,
arXiv 1703.06870): one small mask per class, which is pasted into the image.
"""

import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from fvcore.common.config import CfgNode
from pycocotools import mask as codec
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms, clip_boxes_to_image, roi_align

from transfer.detectors.rcnn.boxes import decode, encode, smooth_l1_sum
from transfer.detectors.rcnn.layers import Conv, fill_msra, fill_normal, fill_xavier
from transfer.detectors.rcnn.regions import Detections, Regions, Size


class BoxHead(nn.Module):
    """3x3 convolutions with norm, then linear layers, each with ReLU: (R, C, S, S) -> (R, D)."""

    def __init__(self, config: CfgNode, channels: int) -> None:
        super().__init__()
        settings = config.MODEL.ROI_BOX_HEAD
        self.convolutions = [f"conv{i + 1}" for i in range(settings.NUM_CONV)]
        self.linears = [f"fc{i + 1}" for i in range(settings.NUM_FC)]
        for name in self.convolutions:
            norm = settings.NORM
            conv = Conv(channels, settings.CONV_DIM, 3, norm=norm, bias=not norm)
            self.add_module(name, conv)
            channels = settings.CONV_DIM
        self.width = channels * settings.POOLER_RESOLUTION**2
        for name in self.linears:
            self.add_module(name, nn.Linear(self.width, settings.FC_DIM))
            self.width = settings.FC_DIM
        for layer in self.children():
            if isinstance(layer, Conv):
                fill_msra(layer)
        for layer in self.children():
            if isinstance(layer, nn.Linear):
                fill_xavier(layer)

    def forward(self, x: Tensor) -> Tensor:
        for name in self.convolutions:
            x = F.relu(self.get_submodule(name)(x))
        x = x.flatten(1)
        for name in self.linears:
            x = F.relu(self.get_submodule(name)(x))
        return x


class BoxPredictor(nn.Module):
    """(R, D) -> (R, K + 1) logits, with background last, and (R, K * 4) offsets."""

    def __init__(self, config: CfgNode, width: int) -> None:
        super().__init__()
        self.classes = config.MODEL.ROI_HEADS.NUM_CLASSES
        self.cls_score = nn.Linear(width, self.classes + 1)
        self.bbox_pred = nn.Linear(width, self.classes * 4)
        fill_normal(self.cls_score, 0.01)  # both: Fast R-CNN, section 4.1
        fill_normal(self.bbox_pred, 0.001)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.cls_score(x), self.bbox_pred(x)


def box_losses(
    logits: Tensor,  # (R, K + 1)
    offsets: Tensor,  # (R, K * 4)
    regions: list[Regions],
    settings: CfgNode,  # MODEL.ROI_BOX_HEAD
) -> dict[str, Tensor]:
    """Cross-entropy, and smooth L1 of the objects' offsets divided by the number of all regions."""
    labels = torch.cat([r.labels for r in regions if r.labels is not None])
    boxes = torch.cat([r.boxes for r in regions])
    targets = torch.cat([r.targets for r in regions if r.targets is not None])
    classes = logits.shape[1] - 1
    # The mean of an empty tensor is NaN.
    classification = F.cross_entropy(logits, labels) if len(labels) else logits.sum() * 0.0
    objects = ((labels >= 0) & (labels < classes)).nonzero().squeeze(1)
    distance = smooth_l1_sum(
        offsets.view(-1, classes, 4)[objects, labels[objects]],
        encode(boxes[objects], targets[objects], settings.BBOX_REG_WEIGHTS),
        settings.SMOOTH_L1_BETA,
    )
    return {
        "loss_cls": classification,
        "loss_box_reg": distance / max(len(labels), 1.0) * settings.BBOX_REG_LOSS_WEIGHT,
    }


def detect(
    logits: Tensor,  # (R, K + 1)
    offsets: Tensor,  # (R, K * 4)
    regions: list[Regions],
    config: CfgNode,
) -> list[Detections]:
    """The best boxes of each image after per-class NMS, in pixels of the network's input."""
    boxes = decode(
        offsets, torch.cat([r.boxes for r in regions]), config.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS
    )
    counts = [len(r.boxes) for r in regions]
    scores = F.softmax(logits, dim=-1)
    return [
        _detect_in_one(box, score, region, config)
        for box, score, region in zip(
            boxes.split(counts), scores.split(counts), regions, strict=True
        )
    ]


def _detect_in_one(
    boxes: Tensor,  # (R, K * 4)
    scores: Tensor,  # (R, K + 1)
    region: Regions,
    config: CfgNode,
) -> Detections:
    settings = config.MODEL.ROI_HEADS
    finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores).all(dim=1)
    boxes, scores = boxes[finite], scores[finite, :-1]
    shape = (len(boxes), boxes.shape[1] // 4, 4)
    boxes = clip_boxes_to_image(boxes.reshape(-1, 4), region.size).view(shape)
    confident = scores > settings.SCORE_THRESH_TEST
    labels = confident.nonzero()[:, 1]
    boxes, scores = boxes[confident], scores[confident]
    keep = batched_nms(boxes, scores, labels, settings.NMS_THRESH_TEST)
    most = config.TEST.DETECTIONS_PER_IMAGE
    if most >= 0:  # a negative number keeps all
        keep = keep[:most]
    return Detections(boxes[keep], scores[keep], labels[keep])


# ---- Mask branch


Polygons = Sequence[np.ndarray]

PASTED_BYTES = 2**30  # float32 pixels to paste at once on a GPU (Detectron2, mask_ops.py)


class MaskHead(nn.Module):
    """(R, C, S, S) -> (R, K, 2S, 2S) logits."""

    def __init__(self, config: CfgNode, channels: int) -> None:
        super().__init__()
        settings = config.MODEL.ROI_MASK_HEAD
        width, norm = settings.CONV_DIM, settings.NORM
        self.convolutions = [f"mask_fcn{i + 1}" for i in range(settings.NUM_CONV)]
        for name in self.convolutions:
            self.add_module(name, Conv(channels, width, 3, norm=norm, bias=not norm))
            channels = width
        self.deconv = nn.ConvTranspose2d(channels, width, 2, stride=2)
        self.predictor = nn.Conv2d(width, config.MODEL.ROI_HEADS.NUM_CLASSES, 1)
        for layer in self.children():
            if layer is not self.predictor:
                fill_msra(layer)  # type: ignore[arg-type]
        fill_normal(self.predictor, 0.001)  # Detectron2, mask_head.py

    def forward(self, x: Tensor) -> Tensor:
        for name in self.convolutions:
            x = F.relu(self.get_submodule(name)(x))
        return self.predictor(F.relu(self.deconv(x)))


def rings_in_box(polygons: Polygons, box: np.ndarray, side: int) -> list[np.ndarray]:
    """Rings in the coordinates of a (side, side) grid that covers the box.

    Args:
        polygons: float64 rings x0, y0, x1, y1, ... in pixels.
        box: (4,) float32; its scale is computed in float32 with any version of NumPy.
    """
    # At least 0.1 pixels, to avoid a division by nearly 0 (Detectron2, structures/masks.py).
    scale_x, scale_y = (
        np.float32(side) / length if length >= 0.1 else side / 0.1
        for length in (box[2] - box[0], box[3] - box[1])
    )
    return [
        np.stack([(ring[0::2] - box[0]) * scale_x, (ring[1::2] - box[1]) * scale_y], 1).ravel()
        for ring in polygons
    ]


def draw(
    objects: Sequence[list[np.ndarray]],  # N lists of rings, at least one in each
    side: int,
) -> np.ndarray:  # (N, side, side) bool
    """Rasterize the union of each object's rings with pycocotools.

    msbreg/data/run_lengths.py also validates its input, which untrusted files need, but takes fifteen times
    as long.
    """
    if not objects:
        return np.zeros((0, side, side), dtype=bool)
    runs = [codec.merge(codec.frPyObjects(rings, side, side)) for rings in objects]
    with warnings.catch_warnings():
        # pycocotools' arrays do not implement the ``copy`` argument of __array__ (NumPy 2).
        warnings.filterwarnings("ignore", message="__array__", category=DeprecationWarning)
        return codec.decode(runs).transpose(2, 0, 1).astype(bool)


def mask_targets(
    polygons: Sequence[Polygons] | None,  # one entry per object
    bitmasks: Tensor | None,  # (G, H, W) bool
    matched: Tensor,  # (R,) int64, index of each box's object
    boxes: Tensor,  # (R, 4)
    side: int,
) -> Tensor:  # (R, side, side) bool
    """The target mask of each region, from polygons if given and otherwise from bitmasks."""
    if polygons is not None:
        rings = [
            rings_in_box(polygons[index], box, side)
            for index, box in zip(matched.tolist(), boxes.cpu().numpy(), strict=True)
        ]
        return torch.from_numpy(draw(rings, side)).to(boxes.device)
    assert bitmasks is not None, "the model checks that each sample has masks"
    rois = torch.cat((matched[:, None].to(boxes.dtype), boxes), dim=1)
    pixels = bitmasks[:, None].to(boxes.device, torch.float32)
    return roi_align(pixels, rois, side, 1.0, 0, aligned=True).squeeze(1) >= 0.5


def mask_loss(
    logits: Tensor,  # (R, K, S, S)
    labels: Tensor,  # (R,) in [0, K)
    targets: Tensor,  # (R, S, S) bool
) -> Tensor:  # ()
    """Mean binary cross-entropy of the mask of the true class; 0 without objects."""
    if len(labels) == 0:
        return logits.sum() * 0
    own = logits[torch.arange(len(labels), device=labels.device), labels]
    return F.binary_cross_entropy_with_logits(own, targets.to(torch.float32))


def mask_probabilities(
    logits: Tensor,  # (N, K, S, S)
    labels: Tensor,  # (N,)
) -> Tensor:  # (N, 1, S, S)
    """Probabilities of the mask of the detected class."""
    index = torch.arange(len(labels), device=labels.device)
    return logits[index, labels][:, None].sigmoid()


def paste(
    masks: Tensor,  # (N, 1, S, S) in [0, 1]
    boxes: Tensor,  # (N, 4), in pixels of the image
    size: Size,
) -> Tensor:  # (N, H, W) bool
    """Resample masks to their boxes, at pixel centers, and threshold them at 0.5."""
    height, width = size
    pasted = torch.zeros(len(masks), height, width, dtype=torch.bool, device=masks.device)
    if masks.device.type == "cpu":
        for i in range(len(masks)):  # the fastest way on the CPU: one by one, inside the box only
            x, y = _pixels_around(boxes[i], size)
            pasted[i, y, x] = _sample(masks[i : i + 1], boxes[i : i + 1], x, y)[0]
        return pasted
    chunks = max(1, math.ceil(len(masks) * height * width * 4 / PASTED_BYTES))
    for index in torch.arange(len(masks), device=masks.device).chunk(chunks):
        pasted[index] = _sample(masks[index], boxes[index], slice(0, width), slice(0, height))
    return pasted


def _pixels_around(box: Tensor, size: Size) -> tuple[slice, slice]:
    """Columns and rows of a box with a margin of one pixel."""
    low = (box[:2].floor() - 1).clamp(min=0).int().tolist()
    high = (box[2:].ceil() + 1).int().tolist()
    return slice(low[0], min(high[0], size[1])), slice(low[1], min(high[1], size[0]))


def _sample(masks: Tensor, boxes: Tensor, columns: slice, rows: slice) -> Tensor:
    """The masks at these pixels: (N, rows, columns) bool."""
    x0, y0, x1, y1 = boxes.split(1, dim=1)
    made = {"dtype": torch.float32, "device": masks.device}
    x = torch.arange(columns.start, columns.stop, **made) + 0.5  # type: ignore[call-overload]
    y = torch.arange(rows.start, rows.stop, **made) + 0.5  # type: ignore[call-overload]
    y = (y - y0) / (y1 - y0) * 2 - 1  # grid_sample's coordinates: the box is [-1, 1]
    x = (x - x0) / (x1 - x0) * 2 - 1
    shape = (len(masks), y.shape[1], x.shape[1])
    grid = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], dim=3)
    return F.grid_sample(masks, grid.to(masks.dtype), align_corners=False)[:, 0] >= 0.5
