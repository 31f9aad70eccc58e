"""What a consumer of a backbone has to know besides its tensors: none of it shows in them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from msbreg.backbones.resnet import ResNet, build_backbone
from msbreg.backbones.spec import Normalization

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
"""Depth -> blocks of each stage (arXiv 1512.03385, Table 1); 50 and deeper are bottlenecks."""

STEMS = {(7, 2): "imagenet", (3, 1): "cifar", (3, 2): "small"}
"""Kernel and stride of the first convolution -> the stem's name; only the first has a max-pool."""


@dataclass(frozen=True)
class Settings:
    """A ResNet without its tensors, and what it is fed.

    Attributes:
        depth: 18, 34 or 50.
        width: channels of the stem, and of the first stage before expansion; 64 is the published network.
        stem: ``imagenet``, ``cifar`` or ``small`` (msbreg/backbones/resnet.py).
        stride_in_1x1: where bottlenecks have stride 2: the first 1x1 (v1) or the 3x3 (v1.5).
        channels: the order in which the network takes them.
        pixel_mean: in [0, 255], in the order of ``channels``.
        pixel_std: likewise.
        image_size: side in pixels of what it was pre-trained on; 0 if unknown.
        arch: name in BACKBONES; empty where a consumer's settings do not tell.
    """

    depth: int
    width: int
    stem: str
    stride_in_1x1: bool
    channels: Literal["RGB", "BGR"]
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]
    image_size: int = 0
    arch: str = ""

    @property
    def bottleneck(self) -> bool:
        """Whether the network is made of bottlenecks."""
        return self.depth >= 50

    @property
    def mean(self) -> list[float]:
        """In [0, 1]."""
        return [float(f"{value / 255:.9g}") for value in self.pixel_mean]

    @property
    def std(self) -> list[float]:
        """In [0, 1]."""
        return [float(f"{value / 255:.9g}") for value in self.pixel_std]


def settings_of(
    backbone: ResNet, arch: str, normalization: Normalization, stride: str, image_size: int
) -> Settings:
    """Of a backbone; the stride is the one declared for its weights, which the module should have."""
    layers = (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4)
    blocks = tuple(len(layer) for layer in layers)
    bottleneck = hasattr(backbone.layer1[0], "conv3")
    stem = backbone.conv1
    return Settings(
        arch=arch,
        depth=depth_of(blocks, bottleneck),
        width=stem.out_channels,
        stem=STEMS[stem.kernel_size[0], stem.stride[0]],
        stride_in_1x1=bottleneck and stride == "1x1",
        channels=normalization.channels,
        pixel_mean=tuple(round(255 * value, 6) for value in normalization.mean),
        pixel_std=tuple(round(255 * value, 6) for value in normalization.std),
        image_size=image_size,
    )


def settings_of_arch(
    arch: str, normalization: dict[str, Any], stride: str, image_size: int
) -> Settings:
    """The same from what a published file says of itself."""
    with torch.device("meta"):
        backbone = build_backbone(arch)
    mean, std = tuple(normalization["mean"]), tuple(normalization["std"])
    given = Normalization(mean, std, normalization["channels"])
    return settings_of(backbone, arch, given, stride, image_size)


def depth_of(blocks: Sequence[int], bottleneck: bool) -> int:
    """The depth that a number of blocks per stage makes."""
    (depth,) = (d for d, b in BLOCKS.items() if b == tuple(blocks) and bottleneck == (d >= 50))
    return depth


def prepared(
    images: Tensor,  # (B, 3, H, W) uint8 RGB
    settings: Settings,
) -> Tensor:  # (B, 3, H, W) float32
    """Pixels as Detectron2 hands them to its backbone: the order of FORMAT, then (x - mean) / std."""
    ordered = images.flip(1) if settings.channels == "BGR" else images
    mean = torch.tensor(settings.pixel_mean).view(3, 1, 1)
    std = torch.tensor(settings.pixel_std).view(3, 1, 1)
    return (ordered - mean) / std
