"""RCNN: maps samples to losses, or to detections in pixels of the stored images."""

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from msbreg.run.errors import UserError
from transfer.detectors.config.supported import check_supported
from transfer.detectors.mapper import Sample
from transfer.detectors.rcnn.backbone import build_backbone
from transfer.detectors.rcnn.boxes import larger_than
from transfer.detectors.rcnn.branches import paste
from transfer.detectors.rcnn.proposals import ProposalNetwork
from transfer.detectors.rcnn.regions import Detections, Size
from transfer.detectors.rcnn.roi_heads import Truth, build_heads


class RCNN(nn.Module):
    """Faster, Mask or Keypoint R-CNN with Detectron2's names of parameters and buffers.

    In training mode, ``model(samples)`` returns a dict of scalar losses to sum and minimize: loss_cls,
    loss_box_reg, loss_mask (with masks), loss_keypoint (with keypoints), loss_rpn_cls and loss_rpn_loc. In
    eval mode it returns a list of Detections, one per sample. Samples may be on any device; they are moved to
    the model's.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: CfgNode) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config)
        channels, strides = self.backbone.channels, self.backbone.strides
        self.proposal_generator = ProposalNetwork(config, channels, strides)
        self.roi_heads = build_heads(config, channels, strides)
        for name in ("pixel_mean", "pixel_std"):
            value = torch.tensor(getattr(config.MODEL, name.upper())).view(-1, 1, 1)
            # Not in checkpoints: the config states them.
            self.register_buffer(name, value, persistent=False)

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return self.pixel_mean.device

    def forward(self, samples: list[Sample]) -> dict[str, Tensor] | list[Detections]:
        """Losses in training mode, detections in eval mode.

        Raises:
            UserError: in training, a sample has no boxes, or no masks or keypoints although MODEL.MASK_ON or
                MODEL.KEYPOINT_ON is True.
            FloatingPointError: in training, predictions are not finite.
        """
        images, sizes = self.prepare(samples)
        truths = [self.truth(sample) for sample in samples] if self.training else None
        features = self.backbone(images)
        objects = None if truths is None else [truth.boxes for truth in truths]
        regions, losses = self.proposal_generator(features, sizes, objects)
        if truths is not None:
            # The order in which losses are summed: the heads' first.
            return self.roi_heads.losses(features, regions, truths) | losses
        found, masks = self.roi_heads.detect(features, regions)
        return [
            restore(found[i], None if masks is None else masks[i], sizes[i], samples[i])
            for i in range(len(samples))
        ]

    def prepare(self, samples: list[Sample]) -> tuple[Tensor, list[Size]]:
        """Normalize the images and batch them, zero-padded at the right and bottom.

        Returns:
            (B, 3, H, W) images, with sides that are multiples of the backbone's divisor; and the size of
            each image without padding.
        """
        images = [(s.image.to(self.device) - self.pixel_mean) / self.pixel_std for s in samples]
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        divisor = self.backbone.divisor
        height, width = (-(-max(side) // divisor) * divisor for side in zip(*sizes, strict=True))
        batch = images[0].new_zeros(len(images), 3, height, width)
        for row, image in zip(batch, images, strict=True):
            row[:, : image.shape[1], : image.shape[2]] = image
        return batch, sizes

    def truth(self, sample: Sample) -> Truth:
        """A sample's targets on the model's device."""
        if sample.boxes is None or sample.labels is None:
            raise UserError(f"scene {sample.scene} has no boxes, but the model is in training mode")
        bitmasks, keypoints = sample.bitmasks, None
        if self.config.MODEL.KEYPOINT_ON:
            if sample.keypoints is None:
                raise UserError(
                    f"scene {sample.scene} has no keypoints, but MODEL.KEYPOINT_ON is True.\n"
                    "Train on data with keypoints, or give MODEL.KEYPOINT_ON False."
                )
            keypoints = torch.from_numpy(sample.keypoints).to(self.device)
        if not self.config.MODEL.MASK_ON:
            return Truth(
                sample.boxes.to(self.device), sample.labels.to(self.device), keypoints=keypoints
            )
        if sample.polygons is None and bitmasks is None:
            raise UserError(
                f"scene {sample.scene} has no masks, but MODEL.MASK_ON is True.\n"
                "Train on data with masks, or give MODEL.MASK_ON False."
            )
        return Truth(
            sample.boxes.to(self.device),
            sample.labels.to(self.device),
            sample.polygons,
            None if bitmasks is None else bitmasks.to(self.device),
            keypoints,
        )


def restore(
    found: Detections,
    masks: Tensor | None,  # (N, 1, S, S)
    size: Size,
    sample: Sample,
) -> Detections:
    """Convert detections from pixels of the network's input to the stored image, and paste masks.

    Boxes that are empty after clipping to the image are dropped.
    """
    scales = (sample.width / size[1], sample.height / size[0])
    scale = torch.tensor(scales * 2).to(found.boxes)
    boxes = clip_boxes_to_image(found.boxes * scale, (sample.height, sample.width))
    keep = larger_than(boxes, 0.0)
    pasted = None
    if masks is not None:
        pasted = paste(masks[keep], boxes[keep], (sample.height, sample.width))
    points = None
    if found.keypoints is not None:
        points = found.keypoints[keep]
        for axis, factor in enumerate(scales):
            points[:, :, axis] *= factor
        points = points.float()
    return Detections(boxes[keep], found.scores[keep].float(), found.labels[keep], pasted, points)


def build_model(config: CfgNode) -> RCNN:
    """A freshly initialized model on the CPU; ``weights.py`` loads trained weights.

    For the same state of the global generator, the weights equal those of Detectron2's ``build_model``.

    Raises:
        UserError: a setting is not supported (``check_supported``).
    """
    check_supported(config)
    return RCNN(config)
