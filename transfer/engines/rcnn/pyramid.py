"""The feature pyramid (Lin et al., arXiv 1612.03144): res2 to res5 become p2 to p6."""

from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.nn import functional as F

from transfer.engines.rcnn.layers import Conv, fill_xavier
from transfer.engines.rcnn.resnet import ResNet, build_resnet


class FeaturePyramid(nn.Module):
    """Images (B, 3, H, W) -> p2, ..., p5 at strides 4 to 32, and p6 at 64; all of one width.

    Attributes:
        channels, strides: of each feature.
        divisor: the coarsest stage's stride, so that doubling a level gives the next one's size.
    """

    def __init__(
        self, bottom_up: ResNet, stages: list[str], channels: int, norm: str, fuse: str
    ) -> None:
        super().__init__()
        self.stages = stages
        self.average = fuse == "avg"
        for stage in stages:
            level = stage[-1]
            # A norm has a bias of its own.
            lateral = Conv(bottom_up.channels[stage], channels, 1, norm=norm, bias=not norm)
            output = Conv(channels, channels, 3, norm=norm, bias=not norm)
            fill_xavier(lateral)
            fill_xavier(output)
            self.add_module(f"fpn_lateral{level}", lateral)
            self.add_module(f"fpn_output{level}", output)
        self.bottom_up = bottom_up  # last, so that parameters come in Detectron2's order
        levels = [int(stage[-1]) for stage in stages]
        self.divisor = 2 ** levels[-1]
        self.strides = {f"p{level}": 2**level for level in [*levels, levels[-1] + 1]}
        self.channels = dict.fromkeys(self.strides, channels)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.bottom_up(images)
        outputs: dict[str, Tensor] = {}
        merged: Tensor | None = None
        for stage in reversed(self.stages):
            level = stage[-1]
            lateral = self.get_submodule(f"fpn_lateral{level}")
            if merged is None:
                merged = lateral(features[stage])
            else:
                coarser = F.interpolate(merged, scale_factor=2.0, mode="nearest")
                merged = lateral(features[stage]) + coarser
                if self.average:
                    merged = merged / 2
            outputs[f"p{level}"] = self.get_submodule(f"fpn_output{level}")(merged)
        last = int(self.stages[-1][-1])
        # Every second pixel, in both directions.
        outputs[f"p{last + 1}"] = F.max_pool2d(outputs[f"p{last}"], kernel_size=1, stride=2)
        return {name: outputs[name] for name in self.strides}  # finest first


def build_backbone(config: CfgNode) -> ResNet | FeaturePyramid:
    """The network that MODEL.BACKBONE.NAME says, with or without pyramid."""
    resnet = build_resnet(config)
    if config.MODEL.BACKBONE.NAME == "build_resnet_backbone":
        return resnet
    settings = config.MODEL.FPN
    return FeaturePyramid(
        resnet,
        list(settings.IN_FEATURES),
        settings.OUT_CHANNELS,
        settings.NORM,
        settings.FUSE_TYPE,
    )
