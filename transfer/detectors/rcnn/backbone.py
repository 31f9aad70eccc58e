"""Backbones with Detectron2's parameter names: ResNet-18 to -152, with or without a feature pyramid.

The ResNets compute the same as torchvision's and those of ``msbreg.backbones``, except that the stride of a
bottleneck may be in its first 1x1 convolution. Modules are created and initialized in Detectron2's order
(modeling/backbone/resnet.py), so that a seed gives the same weights.

The feature pyramid (Lin et al., arXiv 1612.03144) turns res2 to res5 into p2 to p6.
"""

from collections.abc import Sequence

from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.nn import functional as F

from msbreg.backbones.architectures import BLOCKS
from transfer.detectors.rcnn.layers import Conv, fill_msra, fill_xavier, freeze

# ---- ResNet


class Residual(nn.Module):
    """Convolutions plus a shortcut, which is a convolution if the width changes and else the identity."""

    shortcut: Conv | None

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        norm: str,
        shapes: Sequence[tuple[int, int, int]],
    ) -> None:
        """Args:
        shapes: channels, kernel size and stride of conv1, conv2, ...
        """
        super().__init__()
        self.shortcut = (
            None if inputs == outputs else Conv(inputs, outputs, 1, stride=stride, norm=norm)
        )
        self.names = [f"conv{i + 1}" for i in range(len(shapes))]
        for name, (channels, size, its_stride) in zip(self.names, shapes, strict=True):
            self.add_module(name, Conv(inputs, channels, size, stride=its_stride, norm=norm))
            inputs = channels
        for conv in (*self.convolutions(), self.shortcut):
            if conv is not None:
                fill_msra(conv)

    def convolutions(self) -> list[nn.Conv2d]:
        """conv1, conv2, ..."""
        return [self.get_submodule(name) for name in self.names]  # type: ignore[misc]

    def forward(self, x: Tensor) -> Tensor:
        *first, last = self.convolutions()
        y = x
        for conv in first:
            y = F.relu_(conv(y))
        y = last(y)
        y += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(y)


def basic_block(inputs: int, outputs: int, stride: int, norm: str) -> Residual:
    """Two 3x3 convolutions: ResNet-18 and -34."""
    return Residual(inputs, outputs, stride, norm, ((outputs, 3, stride), (outputs, 3, 1)))


def bottleneck(
    inputs: int, outputs: int, middle: int, stride: int, norm: str, *, stride_in_1x1: bool
) -> Residual:
    """1x1, 3x3 and 1x1 convolutions: ResNet-50 and deeper."""
    at_1x1, at_3x3 = (stride, 1) if stride_in_1x1 else (1, stride)
    shapes = ((middle, 1, at_1x1), (middle, 3, at_3x3), (outputs, 1, 1))
    return Residual(inputs, outputs, stride, norm, shapes)


class Stem(nn.Module):
    """7x7 convolution of stride 2, then max-pooling: stride 4."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.conv1 = Conv(3, channels, 7, stride=2, norm=norm)
        fill_msra(self.conv1)

    def forward(self, images: Tensor) -> Tensor:
        return F.max_pool2d(F.relu_(self.conv1(images)), kernel_size=3, stride=2, padding=1)


class ResNet(nn.Module):
    """Images (B, 3, H, W) -> the requested features, by name.

    Attributes:
        channels, strides: number of channels and stride of each feature.
        divisor: image sides must be padded to a multiple of it; 1 needs no padding.
    """

    divisor = 1

    def __init__(self, stem: Stem, stages: dict[str, nn.Sequential], features: list[str]) -> None:
        super().__init__()
        self.stem = stem
        # Stages after the last feature would get no gradient.
        self.stages = [name for name in stages if name <= max(features)]
        for name in self.stages:
            self.add_module(name, stages[name])
        self.features = features
        self.strides = {name: 2 ** int(name[-1]) for name in features}
        self.channels = {
            name: stages[name][-1].convolutions()[-1].out_channels  # type: ignore[operator]
            for name in features
        }

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        outputs = {}
        x = self.stem(images)
        for name in self.stages:
            x = self.get_submodule(name)(x)
            if name in self.features:
                outputs[name] = x
        return outputs


def build_resnet(config: CfgNode) -> ResNet:
    """The ResNet that MODEL.RESNETS and MODEL.BACKBONE.FREEZE_AT configure."""
    settings = config.MODEL.RESNETS
    stem = Stem(settings.STEM_OUT_CHANNELS, settings.NORM)
    inputs, outputs = settings.STEM_OUT_CHANNELS, settings.RES2_OUT_CHANNELS
    stages = {}
    for i, count in enumerate(BLOCKS[settings.DEPTH]):
        made = []
        for block in range(count):
            stride = 2 if i > 0 and block == 0 else 1
            if settings.DEPTH < 50:
                made.append(basic_block(inputs, outputs, stride, settings.NORM))
            else:
                middle = settings.WIDTH_PER_GROUP * 2**i
                made.append(
                    bottleneck(
                        inputs,
                        outputs,
                        middle,
                        stride,
                        settings.NORM,
                        stride_in_1x1=settings.STRIDE_IN_1X1,
                    )
                )
            inputs = outputs
        stages[f"res{i + 2}"] = nn.Sequential(*made)
        outputs *= 2
    resnet = ResNet(stem, stages, list(settings.OUT_FEATURES))
    frozen = ["stem", *stages][: config.MODEL.BACKBONE.FREEZE_AT]
    for name in frozen:
        if name == "stem" or name in resnet.stages:
            freeze(resnet.get_submodule(name))
    return resnet


def build_res5(config: CfgNode) -> tuple[nn.Sequential, int]:
    """Res5 as a head on regions: three bottlenecks at every depth.

    Detectron2 builds it this way (modeling/roi_heads/roi_heads.py, Res5ROIHeads), also for ResNet-18
    and -34. The last stage of these backbones, two or three basic blocks, is not used in a C4 model: the head
    keeps its initial weights, and ``place_backbone`` leaves out the backbone's res5. Detectron2's loader
    instead copies those tensors of the basic blocks whose names and shapes happen to match.

    Returns:
        The stage and its number of channels.
    """
    settings = config.MODEL.RESNETS
    outputs, middle = settings.RES2_OUT_CHANNELS * 8, settings.WIDTH_PER_GROUP * 8
    blocks = [
        bottleneck(
            outputs // 2 if block == 0 else outputs,
            outputs,
            middle,
            2 if block == 0 else 1,
            settings.NORM,
            stride_in_1x1=settings.STRIDE_IN_1X1,
        )
        for block in range(3)
    ]
    return nn.Sequential(*blocks), outputs


# ---- Feature pyramid (Lin et al., arXiv 1612.03144)


class FeaturePyramid(nn.Module):
    """Images (B, 3, H, W) -> p2, ..., p5 at strides 4 to 32, and p6 at stride 64; all of equal width.

    Attributes:
        channels, strides: number of channels and stride of each feature.
        divisor: the coarsest stage's stride, so that each level is exactly twice as large as the next.
    """

    def __init__(
        self, bottom_up: ResNet, stages: list[str], channels: int, norm: str, fuse: str
    ) -> None:
        super().__init__()
        self.stages = stages
        self.average = fuse == "avg"
        for stage in stages:
            level = stage[-1]
            # With a norm, the convolution needs no bias.
            lateral = Conv(bottom_up.channels[stage], channels, 1, norm=norm, bias=not norm)
            output = Conv(channels, channels, 3, norm=norm, bias=not norm)
            fill_xavier(lateral)
            fill_xavier(output)
            self.add_module(f"fpn_lateral{level}", lateral)
            self.add_module(f"fpn_output{level}", output)
        self.bottom_up = bottom_up  # last, to keep Detectron2's order of parameters
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
        # Subsampling by 2 in both directions.
        outputs[f"p{last + 1}"] = F.max_pool2d(outputs[f"p{last}"], kernel_size=1, stride=2)
        return {name: outputs[name] for name in self.strides}  # finest first


def build_backbone(config: CfgNode) -> ResNet | FeaturePyramid:
    """The backbone that MODEL.BACKBONE.NAME selects, with or without a pyramid."""
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
