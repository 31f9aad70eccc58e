"""The region proposal network (Faster R-CNN, arXiv 1506.01497, section 3.1)."""

from collections.abc import Sequence

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms, clip_boxes_to_image

from transfer.detectors.rcnn.boxes import (
    IGNORE,
    cell_anchors,
    decode,
    encode,
    grid_anchors,
    larger_than,
    match,
    pairwise_iou,
    sample,
    smooth_l1_sum,
)
from transfer.detectors.rcnn.layers import Conv, fill_normal
from transfer.detectors.rcnn.regions import Regions, Size


class ProposalHead(nn.Module):
    """Feature map (B, C, H, W) -> (B, A, H, W) objectness logits and (B, A * 4, H, W) offsets."""

    def __init__(self, channels: int, anchors: int) -> None:
        super().__init__()
        self.conv = Conv(channels, channels, 3, bias=True)
        self.objectness_logits = nn.Conv2d(channels, anchors, 1)
        self.anchor_deltas = nn.Conv2d(channels, anchors * 4, 1)
        for layer in (self.conv, self.objectness_logits, self.anchor_deltas):
            fill_normal(layer, 0.01)  # Faster R-CNN, section 3.1.3

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        hidden = F.relu(self.conv(feature))
        return self.objectness_logits(hidden), self.anchor_deltas(hidden)


def per_level(values: Sequence, levels: int) -> list:
    """One entry for each level; a single entry is repeated."""
    return list(values) * levels if len(values) == 1 else list(values)


class ProposalNetwork(nn.Module):
    """Proposes regions and, in training, computes its two losses."""

    def __init__(self, config: CfgNode, channels: dict[str, int], strides: dict[str, int]) -> None:
        super().__init__()
        self.settings = config.MODEL.RPN
        self.smallest = float(config.MODEL.PROPOSAL_GENERATOR.MIN_SIZE)
        self.features = list(self.settings.IN_FEATURES)
        self.strides = [strides[name] for name in self.features]
        anchors = config.MODEL.ANCHOR_GENERATOR
        self.offset = anchors.OFFSET
        sizes = per_level(anchors.SIZES, len(self.features))
        ratios = per_level(anchors.ASPECT_RATIOS, len(self.features))
        self.cells = [cell_anchors(s, r) for s, r in zip(sizes, ratios, strict=True)]
        self.rpn_head = ProposalHead(channels[self.features[0]], len(self.cells[0]))

    def forward(
        self,
        features: dict[str, Tensor],
        sizes: list[Size],
        objects: list[Tensor] | None,  # (G_b, 4) for each of B images; None when testing
    ) -> tuple[list[Regions], dict[str, Tensor]]:
        maps = [features[name] for name in self.features]
        anchors = self.anchors(maps)
        raw = [self.rpn_head(feature) for feature in maps]
        logits = [level.permute(0, 2, 3, 1).flatten(1) for level, _ in raw]  # (B, H * W * A)
        offsets = [  # (B, H * W * A, 4)
            x.view(len(x), -1, 4, *x.shape[-2:]).permute(0, 3, 4, 1, 2).flatten(1, 3)
            for _, x in raw
        ]
        losses = {} if objects is None else self.losses(anchors, logits, offsets, objects)
        with torch.no_grad():
            boxes = [
                decode(
                    level.reshape(-1, 4),
                    anchor.repeat(len(level), 1),
                    self.settings.BBOX_REG_WEIGHTS,
                ).view(len(level), -1, 4)
                for anchor, level in zip(anchors, offsets, strict=True)
            ]
            return self.propose(boxes, logits, sizes), losses

    def anchors(self, maps: list[Tensor]) -> list[Tensor]:
        """Anchors of each level: (H * W * A, 4)."""
        return [
            grid_anchors(
                cell.to(feature.device), *feature.shape[-2:], stride=stride, offset=self.offset
            )
            for cell, feature, stride in zip(self.cells, maps, self.strides, strict=True)
        ]

    def losses(
        self,
        anchors: list[Tensor],
        logits: list[Tensor],
        offsets: list[Tensor],
        objects: list[Tensor],
    ) -> dict[str, Tensor]:
        """Losses of objectness and offsets, both divided by BATCH_SIZE_PER_IMAGE, even with fewer samples."""
        settings = self.settings
        all_anchors = torch.cat(anchors)
        targets = [self.targets(all_anchors, boxes) for boxes in objects]
        labels = torch.stack([label for label, _ in targets])  # (B, N)
        target_offsets = torch.stack(
            [encode(all_anchors, box, settings.BBOX_REG_WEIGHTS) for _, box in targets]
        )
        positive = labels == 1
        location = smooth_l1_sum(
            torch.cat(offsets, dim=1)[positive], target_offsets[positive], settings.SMOOTH_L1_BETA
        )
        valid = labels != IGNORE
        objectness = F.binary_cross_entropy_with_logits(
            torch.cat(logits, dim=1)[valid], labels[valid].to(torch.float32), reduction="sum"
        )
        count = settings.BATCH_SIZE_PER_IMAGE * len(objects)
        location_weight = settings.BBOX_REG_LOSS_WEIGHT * settings.LOSS_WEIGHT
        return {
            "loss_rpn_cls": objectness / count * settings.LOSS_WEIGHT,
            "loss_rpn_loc": location / count * location_weight,
        }

    @torch.no_grad()
    def targets(
        self,
        anchors: Tensor,  # (N, 4)
        objects: Tensor,  # (G, 4)
    ) -> tuple[Tensor, Tensor]:  # (N,), (N, 4)
        """The label of each anchor (-1 if it is not sampled) and its target box."""
        settings = self.settings
        index, found = match(
            pairwise_iou(objects, anchors),
            list(settings.IOU_THRESHOLDS),
            list(settings.IOU_LABELS),
            low_quality=True,
        )
        positive, negative = sample(
            found, settings.BATCH_SIZE_PER_IMAGE, settings.POSITIVE_FRACTION, background=0
        )
        labels = torch.full_like(found, IGNORE)
        labels[positive] = 1
        labels[negative] = 0
        return labels, objects[index] if len(objects) else torch.zeros_like(anchors)

    def propose(
        self,
        boxes: list[Tensor],  # (B, N, 4) for each level
        logits: list[Tensor],  # (B, N) for each level
        sizes: list[Size],
    ) -> list[Regions]:
        """The highest-scoring boxes of each level, then of all levels after NMS within each.

        Boxes are ranked by logits, since sigmoids saturate to equal values. Proposals carry no gradient.

        Raises:
            FloatingPointError: in training, a prediction is not finite.
        """
        settings = self.settings
        before = settings.PRE_NMS_TOPK_TRAIN if self.training else settings.PRE_NMS_TOPK_TEST
        after = settings.POST_NMS_TOPK_TRAIN if self.training else settings.POST_NMS_TOPK_TEST
        rows = torch.arange(len(sizes), device=logits[0].device)[:, None]
        best = []
        for level, (box, logit) in enumerate(zip(boxes, logits, strict=True)):
            score, index = logit.topk(min(logit.shape[1], before), dim=1)
            best.append((box[rows, index], score, torch.full_like(index[0], level)))
        all_boxes, all_scores = (torch.cat(part, dim=1) for part in list(zip(*best))[:2])  # noqa: B905
        levels = torch.cat([level for _, _, level in best])
        return [
            self._suppress(all_boxes[i], all_scores[i], levels, size, after)
            for i, size in enumerate(sizes)
        ]

    def _suppress(
        self, boxes: Tensor, scores: Tensor, levels: Tensor, size: Size, count: int
    ) -> Regions:
        """Filter the boxes of one image: finite, clipped, large enough, NMS per level, at most ``count``."""
        finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores)
        if not finite.all():
            if self.training:
                raise FloatingPointError(
                    "the proposal network predicts boxes or scores that are not finite"
                )
            boxes, scores, levels = boxes[finite], scores[finite], levels[finite]
        boxes = clip_boxes_to_image(boxes, size)
        keep = larger_than(boxes, self.smallest)
        boxes, scores, levels = boxes[keep], scores[keep], levels[keep]
        kept = batched_nms(boxes, scores, levels, self.settings.NMS_THRESH)[:count]
        return Regions(size, boxes[kept])
