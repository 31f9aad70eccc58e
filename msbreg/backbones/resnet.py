"""ResNets that return the outputs of all four stages: images (B, 3, H, W) -> {"c2": ..., ..., "c5": ...}.

Tensors have torchvision's names, so state dicts are interchangeable. Networks are v1.5 (stride 2 in the 3x3
convolution of a bottleneck) unless ``stride_in_1x1`` is applied.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from msbreg.backbones.architectures import ARCHITECTURES, Architecture, architecture
from msbreg.backbones.backbone_interface import Backbone
from msbreg.backbones.spec import IMAGENET, BackboneSpec, Normalization
from msbreg.run.host_to_device import to_device


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: ResNet-18 and -34."""

    def __init__(
        self, inputs: int, inner: int, outputs: int, stride: int, downsample: nn.Module | None
    ) -> None:
        super().__init__()
        self.conv1 = _convolution(inputs, outputs, 3, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _convolution(outputs, outputs, 3)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut: ResNet-50 and deeper."""

    def __init__(
        self, inputs: int, inner: int, outputs: int, stride: int, downsample: nn.Module | None
    ) -> None:
        super().__init__()
        self.conv1 = _convolution(inputs, inner, 1)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = _convolution(inner, inner, 3, stride)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = _convolution(inner, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


OF_VERSION_0_1_0 = frozenset(
    ARCHITECTURES[name]
    for name in (
        *("resnet18", "resnet34", "resnet50"),
        *("resnet18-cifar", "resnet18-small", "resnet18-narrow"),
    )
)


class ResNet(Backbone):
    """A ResNet (He et al., arXiv 1512.03385) without the classifier.

    Args:
        initialize: False leaves the values of all tensors undefined, to be loaded.

    Attributes:
        architecture: depth, width and stem.
        channels: number of channels of c2 to c5.
        representations: ``gap``, the global average pool of c5.
    """

    representations = ("gap",)
    maxpool: nn.Module
    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(self, architecture: Architecture, *, initialize: bool = True) -> None:
        super().__init__()
        self.architecture, self.channels = architecture, architecture.channels
        if initialize and architecture in OF_VERSION_0_1_0:
            self._draw_as_version_0_1_0(architecture)
            return
        with torch.device("meta"):  # without the initial weights of PyTorch's layers
            self._build(architecture)
        self.to_empty(device="cpu")
        if initialize:
            self._initialize()

    def _draw_as_version_0_1_0(self, architecture: Architecture) -> None:
        """Draw the weights of a seed in the order on which published records depend.

        First the network and torchvision's classifier, then all convolutions again. Variants of ResNet-18
        replace parts of the published network.
        """
        first = Architecture(18) if architecture.depth == 18 else architecture
        self._build(first)
        nn.Linear(first.channels["c5"], 1000)
        self._initialize()
        if (architecture.stem, architecture.width) != (first.stem, first.width):
            self._build_stem(architecture)
        if architecture.stem != "imagenet":
            self.maxpool = nn.Identity()
        if architecture.width != first.width:
            self.bn1 = nn.BatchNorm2d(architecture.width)
            self._build_stages(architecture)
        self._initialize()

    def _build(self, a: Architecture) -> None:
        self._build_stem(a)
        self.bn1 = nn.BatchNorm2d(a.width)
        self.relu = nn.ReLU(inplace=True)
        pooled = a.stem == "imagenet"
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if pooled else nn.Identity()
        self._build_stages(a)

    def _build_stem(self, a: Architecture) -> None:
        size, stride = {"imagenet": (7, 2), "cifar": (3, 1), "small": (3, 2)}[a.stem]
        self.conv1 = _convolution(3, a.width, size, stride)

    def _build_stages(self, a: Architecture) -> None:
        inputs = a.width
        for stage, outputs in enumerate(a.channels.values()):
            inner = a.width * 2**stage * a.inner
            blocks = _blocks(a, inputs, inner, outputs, stage)
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            inputs = outputs

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Stage outputs at strides 4, 8, 16 and 32 (2 to 16 or 1 to 8 with the smaller stems)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        c2 = self.layer1(x)
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        return {"c2": c2, "c3": c3, "c4": c4, "c5": self.layer4(c4)}

    def width(self, representation: str) -> int:
        return self.channels["c5"]

    def represent(
        self,
        images: Tensor,  # (B, 3, H, W), normalized
        representation: str,
    ) -> Tensor:  # (B, D)
        return embed(self, images)

    def tokens(
        self,
        images: Tensor,  # (B, 3, H, W), normalized
    ) -> Tensor:  # (B, H / 32 * W / 32, C)
        """The cells of c5, row by row."""
        tokens: Tensor = self(images)["c5"].flatten(2).transpose(1, 2)
        return tokens


def _blocks(
    a: Architecture, inputs: int, inner: int, outputs: int, stage: int
) -> Iterator[nn.Module]:
    """The blocks of a stage; the first block has stride 2, except in the first stage."""
    block = Bottleneck if a.bottleneck else BasicBlock
    stride, downsample = 1 if stage == 0 else 2, None
    if stride > 1 or inputs != outputs:
        downsample = nn.Sequential(
            _convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
        )
    yield block(inputs, inner, outputs, stride, downsample)
    for _ in range(1, a.blocks[stage]):
        yield block(outputs, inner, outputs, 1, None)


def build_backbone(
    spec: BackboneSpec | str, *, seed: int | None = None, initialize: bool = True
) -> ResNet:
    """Build a randomly initialized backbone; with a seed, the weights are reproducible.

    Args:
        spec: spec of the network; a name means that architecture with stride 2 in the 3x3 convolution.
        initialize: False leaves the values of all tensors undefined, to be loaded.

    Raises:
        UserError: the name is unknown.
    """
    if isinstance(spec, str):
        spec = BackboneSpec(spec)
    made = architecture(spec.arch)
    if seed is None or not initialize:
        backbone = ResNet(made, initialize=initialize)
    else:
        # Initializers use the global generator; its state is restored.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            backbone = ResNet(made)
    return stride_in_1x1(backbone) if spec.stride_in_1x1 else backbone


def stride_in_1x1(backbone: ResNet) -> ResNet:
    """Convert a ResNet v1.5 to v1 in place: stride 2 moves from the 3x3 to the first 1x1 convolution.

    Caffe's and MSRA's networks are v1. The weights do not show which version they were trained with.
    """
    for stage in (backbone.layer2, backbone.layer3, backbone.layer4):
        block = stage[0]
        if isinstance(block, Bottleneck):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    return backbone


def embed(
    backbone: nn.Module,
    images: Tensor,  # (B, 3, H, W)
) -> Tensor:  # (B, C)
    """Global average pool of the last stage: the representation that every protocol evaluates."""
    return backbone(images)["c5"].mean((2, 3))


def normalize(
    images: Tensor,  # (..., 3, H, W) uint8 RGB
    device: torch.device,
    normalization: Normalization = IMAGENET,
) -> Tensor:  # (..., 3, H, W) float32, channels_last if 4-dimensional
    """Move images to the device, and apply the normalization and channel order of the network."""
    mean, std = (
        to_device(torch.tensor(values).view(3, 1, 1) * 255, device)
        for values in (normalization.mean, normalization.std)
    )
    out = images.to(device, non_blocking=True).float()
    if normalization.channels == "BGR":
        out = out.flip(-3)
    out = out.sub_(mean).div_(std)
    return out.contiguous(memory_format=torch.channels_last) if out.ndim == 4 else out
