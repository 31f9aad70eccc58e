"""Box branch: features of a region to a class and one box per class (Fast R-CNN, arXiv 1504.08083)."""

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms, clip_boxes_to_image

from transfer.detectors.rcnn.boxes import decode, encode, smooth_l1_sum
from transfer.detectors.rcnn.layers import Conv, fill_msra, fill_normal, fill_xavier
from transfer.detectors.rcnn.regions import Detections, Regions


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
    """(R, D) -> (R, K + 1) logits, background last, and (R, K * 4) offsets."""

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
    """Cross-entropy, and the distance of objects' offsets over all regions, not objects alone."""
    labels = torch.cat([r.labels for r in regions if r.labels is not None])
    boxes = torch.cat([r.boxes for r in regions])
    targets = torch.cat([r.targets for r in regions if r.targets is not None])
    classes = logits.shape[1] - 1
    # The mean over nothing would be undefined.
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
    """The best boxes of each image after suppression within each class, in pixels of the input."""
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
