"""ResNet-18 to -101 up to the stage that is asked for, with Detectron2's names of the parameters.

The networks are torchvision's and ``msbreg.backbones``'; only the names differ, and that stride 2 of a
bottleneck may sit in its first 1x1 convolution. Modules are built and initialised in Detectron2's
order (modeling/backbone/resnet.py), so that one seed gives both the same weights.
"""

from collections.abc import Sequence

from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.nn import functional as F

from transfer.engines.rcnn.layers import Conv, fill_msra, freeze

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
"""Depth -> residual blocks in res2 to res5 (He et al., arXiv 1512.03385, table 1)."""


class Residual(nn.Module):
    """Convolutions and a shortcut, added; the shortcut is a convolution where the width changes."""

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
    """Images (B, 3, H, W) -> the features that are asked for, by name.

    Attributes:
        channels, strides: of each feature.
        divisor: sides of images are padded to a multiple of it; 1 leaves them.
    """

    divisor = 1

    def __init__(self, stem: Stem, stages: dict[str, nn.Sequential], features: list[str]) -> None:
        super().__init__()
        self.stem = stem
        # Stages behind the last feature would be trained by nothing.
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
    """The backbone without pyramid, as MODEL.RESNETS and MODEL.BACKBONE.FREEZE_AT say."""
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
    """The last stage as a head on regions: three bottlenecks, at every depth.

    So Detectron2 builds it (modeling/roi_heads/roi_heads.py, Res5ROIHeads), for ResNet-18 and -34
    too, whose own last stage has no place in a C4 model.

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
