"""ROI heads: the C4 head (res5 shared by the box and mask branches) and the FPN head."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from transfer.detectors.rcnn.backbone import build_res5
from transfer.detectors.rcnn.boxes import match, pairwise_iou, sample
from transfer.detectors.rcnn.branches import (
    BoxHead,
    BoxPredictor,
    MaskHead,
    Polygons,
    box_losses,
    detect,
    mask_loss,
    mask_probabilities,
    mask_targets,
)
from transfer.detectors.rcnn.keypoint_branch import (
    KeypointHead,
    find_keypoints,
    fixed_normalizer,
    keypoint_loss,
    keypoint_targets,
    shows_keypoint,
)
from transfer.detectors.rcnn.layers import build_norm
from transfer.detectors.rcnn.regions import Detections, RegionPooler, Regions

EXTRA_NORM = "Res5ROIHeadsExtraNorm"
"""MoCo's C4 head, with an extra norm after res5 (MoCo, detection/train_net.py)."""


@dataclass(frozen=True)
class Truth:
    """Ground truth of one image, on the model's device.

    Attributes:
        boxes: (G, 4), in pixels of the network's input.
        labels: (G,) int64.
        polygons: one entry per object, or None.
        bitmasks: (G, H, W) bool, or None.
        keypoints: (G, K, 3) float32, in pixels of the network's input, or None.
    """

    boxes: Tensor
    labels: Tensor
    polygons: Sequence[Polygons] | None = None
    bitmasks: Tensor | None = None
    keypoints: Tensor | None = None


@torch.no_grad()
def choose(regions: Regions, truth: Truth, config: CfgNode) -> Regions:
    """Sample regions to train on, objects first; true boxes are added to the proposals if configured."""
    settings = config.MODEL.ROI_HEADS
    boxes = regions.boxes
    if settings.PROPOSAL_APPEND_GT:
        boxes = torch.cat((boxes, truth.boxes))
    index, found = match(
        pairwise_iou(truth.boxes, boxes),
        list(settings.IOU_THRESHOLDS),
        list(settings.IOU_LABELS),
        low_quality=False,
    )
    if len(truth.labels):
        labels = truth.labels[index]
        labels[found == 0] = settings.NUM_CLASSES
        labels[found == -1] = -1
    else:
        labels = torch.full_like(index, settings.NUM_CLASSES)
    objects, background = sample(
        labels, settings.BATCH_SIZE_PER_IMAGE, settings.POSITIVE_FRACTION, settings.NUM_CLASSES
    )
    chosen = torch.cat((objects, background))
    matched = index[chosen]
    targets = truth.boxes[matched] if len(truth.boxes) else boxes[chosen]
    return Regions(regions.size, boxes[chosen], labels[chosen], targets, matched)


def foreground(regions: Regions, classes: int) -> Tensor:
    """Which regions are objects: (R,) bool."""
    assert regions.labels is not None
    return (regions.labels != -1) & (regions.labels != classes)


def objects_of(regions: Regions, classes: int) -> Regions:
    """The regions that are objects."""
    index = foreground(regions, classes).nonzero().squeeze(1)
    assert regions.labels is not None
    assert regions.targets is not None
    assert regions.matched is not None
    return Regions(
        regions.size,
        regions.boxes[index],
        regions.labels[index],
        regions.targets[index],
        regions.matched[index],
    )


def loss_of_masks(
    logits: Tensor,  # (R, K, S, S)
    objects: list[Regions],
    truths: list[Truth],
) -> dict[str, Tensor]:
    """The mask loss over the objects of all images."""
    side = logits.shape[-1]
    targets = [
        mask_targets(truth.polygons, truth.bitmasks, region.matched, region.boxes, side)
        for region, truth in zip(objects, truths, strict=True)
        if region.matched is not None and len(region.boxes)
    ]
    labels = torch.cat([region.labels for region in objects if region.labels is not None])
    joined = torch.cat(targets) if targets else labels.new_zeros((0, side, side), dtype=torch.bool)
    return {"loss_mask": mask_loss(logits, labels, joined)}


@dataclass(frozen=True)
class KeypointRegions:
    """The regions of an image that the keypoint branch trains on, with the keypoints of their objects.

    Attributes:
        boxes: (R, 4).
        keypoints: (R, K, 3).
    """

    boxes: Tensor
    keypoints: Tensor


def with_keypoints(objects: Regions, truth: Truth) -> KeypointRegions:
    """The regions with at least one labeled keypoint of their object."""
    assert truth.keypoints is not None, "the model checks that each sample has keypoints"
    assert objects.matched is not None
    if (
        len(objects.boxes) == 0
    ):  # perhaps because the image has no objects, and no keypoints to index
        return KeypointRegions(objects.boxes, truth.keypoints[:0])
    keypoints = truth.keypoints[objects.matched]
    index = shows_keypoint(keypoints, objects.boxes).nonzero().squeeze(1)
    return KeypointRegions(objects.boxes[index], keypoints[index])


Masks = list[Tensor] | None
"""(N, 1, S, S) mask probabilities for each image's detections; None without a mask branch."""


def loss_of_keypoints(
    logits: Tensor,  # (R, K, S, S)
    shown: list[KeypointRegions],
    config: CfgNode,
) -> dict[str, Tensor]:
    """The keypoint loss over the regions of all images."""
    boxes = torch.cat([region.boxes for region in shown])
    keypoints = torch.cat([region.keypoints for region in shown])
    cells, valid = keypoint_targets(keypoints, boxes, logits.shape[2])
    loss = keypoint_loss(logits, cells, valid, fixed_normalizer(config, len(shown)))
    return {"loss_keypoint": loss * config.MODEL.ROI_KEYPOINT_HEAD.LOSS_WEIGHT}


def _pooler(settings: CfgNode, strides: list[int]) -> RegionPooler:
    return RegionPooler(
        settings.POOLER_RESOLUTION,
        strides,
        settings.POOLER_SAMPLING_RATIO,
        aligned=settings.POOLER_TYPE == "ROIAlignV2",
    )


class RegionHeads(nn.Module):
    """Base class of both heads: samples regions and defines the order of the branches."""

    mask_head: MaskHead | None

    def __init__(self, config: CfgNode, strides: dict[str, int]) -> None:
        super().__init__()
        self.config = config
        self.mask_head = None
        self.classes: int = config.MODEL.ROI_HEADS.NUM_CLASSES
        self.features = list(config.MODEL.ROI_HEADS.IN_FEATURES)
        self.strides = [strides[name] for name in self.features]

    def losses(
        self, features: dict[str, Tensor], regions: list[Regions], truths: list[Truth]
    ) -> dict[str, Tensor]:
        """loss_cls, loss_box_reg and, with a mask branch, loss_mask."""
        chosen = [choose(r, t, self.config) for r, t in zip(regions, truths, strict=True)]
        maps = [features[name] for name in self.features]
        return self.losses_of(maps, chosen, truths)

    def losses_of(
        self, maps: list[Tensor], chosen: list[Regions], truths: list[Truth]
    ) -> dict[str, Tensor]:
        """The losses of the sampled regions."""
        raise NotImplementedError

    def detect(
        self, features: dict[str, Tensor], regions: list[Regions]
    ) -> tuple[list[Detections], Masks]:
        """Detections in pixels of the network's input, and the masks inside their boxes."""
        raise NotImplementedError

    def masks_of(self, logits: Tensor, found: list[Detections]) -> list[Tensor]:
        """Mask probabilities of the detections, split by image."""
        labels = torch.cat([d.labels for d in found])
        return list(mask_probabilities(logits, labels).split([len(d.labels) for d in found]))


class Res5Heads(RegionHeads):
    """C4 head: all branches share res5 on each pooled region (ResNet, arXiv 1512.03385, appendix A)."""

    def __init__(self, config: CfgNode, channels: dict[str, int], strides: dict[str, int]) -> None:
        super().__init__(config, strides)
        self.pooler = _pooler(config.MODEL.ROI_BOX_HEAD, self.strides)
        res5, width = build_res5(config)
        if config.MODEL.ROI_HEADS.NAME == EXTRA_NORM:
            norm = build_norm(config.MODEL.RESNETS.NORM, width)
            res5 = nn.Sequential(OrderedDict([*res5.named_children(), ("norm", norm)]))  # type: ignore[list-item]
        self.res5 = res5
        self.box_predictor = BoxPredictor(config, width)
        if config.MODEL.MASK_ON:
            self.mask_head = MaskHead(config, width)

    def losses_of(
        self, maps: list[Tensor], chosen: list[Regions], truths: list[Truth]
    ) -> dict[str, Tensor]:
        x = self.res5(self.pooler(maps, [r.boxes for r in chosen]))
        logits, offsets = self.box_predictor(x.mean(dim=(2, 3)))
        losses = box_losses(logits, offsets, chosen, self.config.MODEL.ROI_BOX_HEAD)
        if self.mask_head is not None:
            of_objects = torch.cat([foreground(r, self.classes) for r in chosen])
            objects = [objects_of(r, self.classes) for r in chosen]
            losses |= loss_of_masks(self.mask_head(x[of_objects]), objects, truths)
        return losses

    def detect(
        self, features: dict[str, Tensor], regions: list[Regions]
    ) -> tuple[list[Detections], Masks]:
        maps = [features[name] for name in self.features]
        x = self.res5(self.pooler(maps, [r.boxes for r in regions]))
        logits, offsets = self.box_predictor(x.mean(dim=(2, 3)))
        found = detect(logits, offsets, regions, self.config)
        if self.mask_head is None:
            return found, None
        x = self.res5(self.pooler(maps, [d.boxes for d in found]))
        return found, self.masks_of(self.mask_head(x), found)


class StandardHeads(RegionHeads):
    """FPN head: each branch pools its own features."""

    def __init__(self, config: CfgNode, channels: dict[str, int], strides: dict[str, int]) -> None:
        super().__init__(config, strides)
        width = channels[self.features[0]]
        self.box_pooler = _pooler(config.MODEL.ROI_BOX_HEAD, self.strides)
        self.box_head = BoxHead(config, width)
        self.box_predictor = BoxPredictor(config, self.box_head.width)
        if config.MODEL.MASK_ON:
            self.mask_pooler = _pooler(config.MODEL.ROI_MASK_HEAD, self.strides)
            self.mask_head = MaskHead(config, width)
        self.keypoint_head: KeypointHead | None = None
        if config.MODEL.KEYPOINT_ON:
            self.keypoint_pooler = _pooler(config.MODEL.ROI_KEYPOINT_HEAD, self.strides)
            self.keypoint_head = KeypointHead(config, width)

    def losses_of(
        self, maps: list[Tensor], chosen: list[Regions], truths: list[Truth]
    ) -> dict[str, Tensor]:
        x = self.box_head(self.box_pooler(maps, [r.boxes for r in chosen]))
        logits, offsets = self.box_predictor(x)
        losses = box_losses(logits, offsets, chosen, self.config.MODEL.ROI_BOX_HEAD)
        if self.mask_head is not None:
            objects = [objects_of(r, self.classes) for r in chosen]
            masks = self.mask_head(self.mask_pooler(maps, [r.boxes for r in objects]))
            losses |= loss_of_masks(masks, objects, truths)
        if self.keypoint_head is not None:
            objects = [objects_of(r, self.classes) for r in chosen]
            shown = [with_keypoints(r, t) for r, t in zip(objects, truths, strict=True)]
            logits = self.keypoint_head(self.keypoint_pooler(maps, [r.boxes for r in shown]))
            losses |= loss_of_keypoints(logits, shown, self.config)
        return losses

    def detect(
        self, features: dict[str, Tensor], regions: list[Regions]
    ) -> tuple[list[Detections], Masks]:
        maps = [features[name] for name in self.features]
        x = self.box_head(self.box_pooler(maps, [r.boxes for r in regions]))
        logits, offsets = self.box_predictor(x)
        found = detect(logits, offsets, regions, self.config)
        boxes = [d.boxes for d in found]
        masks = None
        if self.mask_head is not None:
            masks = self.masks_of(self.mask_head(self.mask_pooler(maps, boxes)), found)
        if self.keypoint_head is not None:
            logits = self.keypoint_head(self.keypoint_pooler(maps, boxes))
            points = find_keypoints(logits, torch.cat(boxes)).split([len(b) for b in boxes])
            found = [replace(d, keypoints=p) for d, p in zip(found, points, strict=True)]
        return found, masks


def build_heads(
    config: CfgNode, channels: dict[str, int], strides: dict[str, int]
) -> Res5Heads | StandardHeads:
    """The heads that MODEL.ROI_HEADS.NAME selects."""
    kind = StandardHeads if config.MODEL.ROI_HEADS.NAME == "StandardROIHeads" else Res5Heads
    return kind(config, channels, strides)
