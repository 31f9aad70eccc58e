"""Fully convolutional segmentation networks on a dilated ResNet.

Modules have MMSegmentation's names (``backbone``, ``decode_head``, ``auxiliary_head``), so that weights are
interchangeable with its EncoderDecoder and FCNHead.
"""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msbreg.backbones.resnet import BasicBlock, Bottleneck, ResNet, build_backbone
from msbreg.backbones.spec import BackboneSpec
from msbreg.data.segmentation.label_maps import VOID
from msbreg.run.errors import UserError
from transfer.segmenters.segmentation_config import NetworkOptions

STEM_STRIDES = {"imagenet": 4, "small": 2, "cifar": 1}
AUXILIARY_CHANNELS = 256


class Segmenter(nn.Module):
    """A network that labels pixels; what training and inference need of either engine.

    Attributes:
        backbone: images -> features.
        decode_head: features -> logits at the resolution of the features.
        auxiliary_head: a second head on c4, used in training; None without one.
        options: how the network is built.
    """

    backbone: nn.Module
    decode_head: nn.Module
    auxiliary_head: nn.Module | None
    options: NetworkOptions

    def logits(
        self,
        images: Tensor,  # (B, 3, H, W), normalized
    ) -> dict[str, Tensor]:  # each (B, C, h, w)
        """The logits of the heads: ``decode`` and, in training, ``auxiliary``."""
        raise NotImplementedError

    def forward(
        self,
        images: Tensor,  # (B, 3, H, W), normalized
        labels: Tensor | None = None,  # (B, H, W) int64
        pixels: Tensor | float = 1.0,
    ) -> Tensor | dict[str, Tensor]:
        """Logits (B, C, H, W), resized to the images; or with ``labels``, the loss of each head.

        Args:
            pixels: what the sum of the losses of all labeled pixels is divided by.
        """
        found = {
            name: self.resize(one.float(), images.shape[-2:])
            for name, one in self.logits(images).items()
        }
        if labels is None:
            return found["decode"]
        weights = {"decode": 1.0, "auxiliary": self.options.auxiliary}
        return {
            f"loss_{name}": weights[name]
            * F.cross_entropy(one, labels, ignore_index=VOID, reduction="sum")
            / pixels
            for name, one in found.items()
        }

    def resize(
        self,
        maps: Tensor,  # (B, C, h, w)
        size: tuple[int, int] | torch.Size,  # (H, W)
    ) -> Tensor:  # (B, C, H, W)
        """Bilinear interpolation of logits."""
        if tuple(maps.shape[-2:]) == tuple(size):
            return maps
        corners = self.options.align_corners
        return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=corners)

    def train(self, mode: bool = True) -> "Segmenter":
        """Switch to training mode, except for what ``options.freeze`` keeps."""
        super().train(mode)
        if self.options.freeze == "backbone":
            self.backbone.eval()
        if self.options.freeze == "statistics":
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self


# ---- Dilated backbones


def dilate(backbone: ResNet, output_stride: int, *, contract: bool = False) -> ResNet:
    """Replace strides of the last stages by dilation, in place; the weights stay the same.

    Dilation doubles with each stage that loses its stride. As in MMSegmentation, only the first 3x3
    convolution of a basic block is dilated.

    Args:
        output_stride: desired stride of c5.
        contract: whether the first block of a dilated stage has half its dilation.

    Raises:
        UserError: the network cannot have this stride.
    """
    stem = STEM_STRIDES[backbone.architecture.stem]
    removed = math.log2(8 * stem / output_stride)
    if removed not in (0, 1, 2, 3):
        raise UserError(
            f"output_stride is {output_stride}, but the stem of this backbone has stride {stem}; "
            f"expected one of {', '.join(str(stem * 2**k) for k in range(4))}"
        )
    stages = (backbone.layer2, backbone.layer3, backbone.layer4)
    for power, stage in enumerate(stages[len(stages) - int(removed) :], 1):
        for number, block in enumerate(stage):
            half = contract and number == 0
            _dilate_block(block, 2 ** (power - 1) if half else 2**power)
    return backbone


def _dilate_block(block: nn.Module, dilation: int) -> None:
    assert isinstance(block, BasicBlock | Bottleneck)
    wide = block.conv2 if isinstance(block, Bottleneck) else block.conv1
    wide.dilation = wide.padding = (dilation, dilation)
    for convolution in (block.conv1, block.conv2):
        convolution.stride = (1, 1)
    if isinstance(block.downsample, nn.Sequential):
        shortcut = block.downsample[0]
        assert isinstance(shortcut, nn.Conv2d)
        shortcut.stride = (1, 1)


# ---- Heads


class ConvNormRelu(nn.Module):
    """A 3x3 convolution, BatchNorm and ReLU, with the names of mmcv's ConvModule."""

    def __init__(self, inputs: int, outputs: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class FCNHead(nn.Module):
    """3x3 convolutions and a 1x1 classifier (FCN, arXiv 1411.4038; mmseg/models/decode_heads/fcn_head.py)."""

    def __init__(
        self,
        inputs: int,
        channels: int,
        classes: int,
        *,
        convolutions: int,
        dilation: int,
        concatenate: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        widths = [inputs] + [channels] * convolutions
        self.convs = nn.Sequential(
            *(ConvNormRelu(a, b, dilation) for a, b in itertools.pairwise(widths))
        )
        self.conv_cat = ConvNormRelu(inputs + widths[-1], channels) if concatenate else None
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = classifier(channels if concatenate else widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.convs(x)
        if self.conv_cat is not None:
            y = self.conv_cat(torch.cat([x, y], dim=1))
        logits: Tensor = self.conv_seg(self.dropout(y))
        return logits


class LinearHead(nn.Module):
    """BatchNorm and a 1x1 classifier: DINOv2's linear segmentation (arXiv 2304.07193, 7.4)."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs)
        self.conv_seg = classifier(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.conv_seg(self.bn(x))
        return logits


def classifier(inputs: int, classes: int) -> nn.Conv2d:
    """A 1x1 convolution with weights of standard deviation 0.01 and zero bias, as in MMSegmentation."""
    layer = nn.Conv2d(inputs, classes, 1)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


# ---- The network


class FCN(Segmenter):
    """A dilated ResNet with one or two heads."""

    def __init__(self, backbone: ResNet, classes: int, options: NetworkOptions) -> None:
        """
        Args:
            backbone: is dilated in place.
        """
        super().__init__()
        self.options = options
        self.backbone = dilate(backbone, options.output_stride, contract=options.contract_dilation)
        if options.freeze == "backbone":
            self.backbone.requires_grad_(False)
        width = backbone.channels
        self.decode_head = (
            LinearHead(width["c5"], classes)
            if options.head == "linear"
            else FCNHead(
                width["c5"],
                options.channels,
                classes,
                convolutions=options.convolutions,
                dilation=options.dilation,
                concatenate=options.concatenate,
                dropout=options.dropout,
            )
        )
        self.auxiliary_head = None
        if options.auxiliary:
            self.auxiliary_head = FCNHead(
                width["c4"],
                AUXILIARY_CHANNELS,
                classes,
                convolutions=1,
                dilation=1,
                concatenate=False,
                dropout=options.dropout,
            )

    def logits(self, images: Tensor) -> dict[str, Tensor]:
        if self.options.freeze == "backbone":
            with torch.no_grad():
                features = self.backbone(images)
        else:
            features = self.backbone(images)
        found = {"decode": self.decode_head(features["c5"])}
        if self.auxiliary_head is not None and self.training:
            found["auxiliary"] = self.auxiliary_head(features["c4"])
        return found


def build_fcn(spec: BackboneSpec, classes: int, options: NetworkOptions) -> FCN:
    """A network with a randomly initialized backbone, on the CPU; draws from the global generator."""
    return FCN(build_backbone(spec), classes, options)
