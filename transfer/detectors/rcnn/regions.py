"""The regions of an image, the detections in it, and the pooling of features for regions."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

Size = tuple[int, int]
"""Height and width in pixels."""

# A region of 224 x 224 pixels is pooled from the level of stride 16 (FPN, arXiv 1612.03144, eq. 1).
CANONICAL_SIDE, CANONICAL_LEVEL = 224, 4


@dataclass(frozen=True)
class Regions:
    """Regions of interest in one image.

    Attributes:
        size: size of the image without padding.
        boxes: (R, 4) float32, in pixels of the network's input.
        labels: (R,) int64 in [0, K], where K is background; None at test time.
        targets: (R, 4), box of each region's best object; the region's own box in images without objects.
        matched: (R,) int64, index of this object in the image's ground truth.
    """

    size: Size
    boxes: Tensor
    labels: Tensor | None = None
    targets: Tensor | None = None
    matched: Tensor | None = None


@dataclass(frozen=True)
class Detections:
    """Detections in one image, best first.

    Attributes:
        boxes: (N, 4) float32 XYXY, in pixels of the image as stored.
        scores: (N,) float32 in [0, 1].
        labels: (N,) int64 in [0, K).
        masks: (N, H, W) bool, in the size of the stored image; None from a model without masks.
        keypoints: (N, K, 3), x, y in pixels of the image as stored, and a score; None from a model without
            keypoints.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None
    keypoints: Tensor | None = None


class RegionPooler(nn.Module):
    """Pools features of regions with ROIAlign, each from the pyramid level that matches its size."""

    def __init__(self, side: int, strides: list[int], sampling: int, *, aligned: bool) -> None:
        """
        Args:
            side: side of the pooled features.
            strides: strides of the levels, finest first.
            sampling: sampling points per bin and direction; 0 adapts to the size of the bin.
            aligned: whether pixels are half-pixel aligned (ROIAlignV2), or as in Detectron 1.
        """
        super().__init__()
        self.side, self.strides, self.sampling, self.aligned = side, strides, sampling, aligned
        self.levels = [stride.bit_length() - 1 for stride in strides]

    def forward(
        self,
        features: list[Tensor],  # (B, C, H / stride, W / stride) each
        boxes: list[Tensor],  # (R_b, 4) for each of B images
    ) -> Tensor:  # (sum of R_b, C, side, side)
        rois = torch.cat(
            [
                torch.cat((torch.full_like(b[:, :1], image), b), dim=1)
                for image, b in enumerate(boxes)
            ]
        )
        if len(features) == 1:
            return self._pool(features[0], rois, self.strides[0])
        pooled = features[0].new_zeros(len(rois), features[0].shape[1], self.side, self.side)
        levels = self._levels(rois[:, 1:])
        for level, (feature, stride) in enumerate(zip(features, self.strides, strict=True)):
            chosen = (levels == level).nonzero().squeeze(1)
            pooled.index_put_((chosen,), self._pool(feature, rois[chosen], stride))
        return pooled

    def _pool(self, feature: Tensor, rois: Tensor, stride: int) -> Tensor:
        # In the dtype of the features, like Detectron2: autocast rounds the boxes to it.
        return roi_align(
            feature, rois.to(feature.dtype), self.side, 1.0 / stride, self.sampling, self.aligned
        )

    def _levels(self, boxes: Tensor) -> Tensor:
        """Index of each region's level; 0 is the finest."""
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        # 1e-8 inside the logarithm: Detectron2's poolers.py; torchvision adds its 1e-6 outside.
        level = torch.floor(CANONICAL_LEVEL + torch.log2(torch.sqrt(area) / CANONICAL_SIDE + 1e-8))
        return level.clamp(self.levels[0], self.levels[-1]).to(torch.int64) - self.levels[0]
