"""BACKBONES: name -> network. The contract: images (B, 3, H, W) -> {"c2": ..., ..., "c5": ...}.

Names of parameters are torchvision's, so that a state dict goes in and out unchanged. All are v1.5:
stride 2 sits in the 3x3 convolution.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.resnet import ResNet as TorchvisionResNet

from msbreg.backbones.spec import IMAGENET, Normalization
from msbreg.run.errors import UserError


class ResNet(TorchvisionResNet):
    """A torchvision ResNet (He et al., arXiv 1512.03385) that returns its four stages.

    Args:
        stem: ``imagenet`` (7x7 stride 2, then max-pool), ``cifar`` (3x3 stride 1, no pool; SimCLR,
            arXiv 2002.05709, appendix B.9) or ``small`` (3x3 stride 2, no pool: a quarter of the cost).
        width: channels of the stem and of the first stage of basic blocks; 64 is the published network.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        layers: list[int],
        *,
        stem: str = "imagenet",
        width: int = 64,
    ) -> None:
        super().__init__(block, layers)
        del self.avgpool, self.fc
        if stem != "imagenet":
            stride = {"cifar": 1, "small": 2}[stem]
            self.conv1 = nn.Conv2d(3, width, 3, stride, padding=1, bias=False)
            self.maxpool = nn.Identity()
        if width != 64:
            if stem == "imagenet":
                self.conv1 = nn.Conv2d(3, width, 7, 2, padding=3, bias=False)
            self.bn1 = nn.BatchNorm2d(width)
            self.inplanes = width
            for stage in range(4):
                stage_stride = 1 if stage == 0 else 2
                made = self._make_layer(block, width * 2**stage, layers[stage], stage_stride)
                setattr(self, f"layer{stage + 1}", made)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.channels = {f"c{s + 2}": width * 2**s * block.expansion for s in range(4)}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Stage outputs at strides 4, 8, 16, 32 of the input (2-16 or 1-8 with the smaller stems)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        c2 = self.layer1(x)
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        return {"c2": c2, "c3": c3, "c4": c4, "c5": self.layer4(c4)}


BACKBONES: dict[str, Callable[[], ResNet]] = {
    "resnet18": partial(ResNet, BasicBlock, [2, 2, 2, 2]),
    "resnet34": partial(ResNet, BasicBlock, [3, 4, 6, 3]),
    "resnet50": partial(ResNet, Bottleneck, [3, 4, 6, 3]),
    "resnet18-cifar": partial(ResNet, BasicBlock, [2, 2, 2, 2], stem="cifar"),
    "resnet18-small": partial(ResNet, BasicBlock, [2, 2, 2, 2], stem="small"),
    # Narrow, but with the published stem: the network of the embedded data's detectors. Detectron2's
    # parts make it too, though its own builder insists on 64 channels at depth 18.
    "resnet18-narrow": partial(ResNet, BasicBlock, [2, 2, 2, 2], width=32),
    "resnet18-tiny": partial(ResNet, BasicBlock, [2, 2, 2, 2], stem="small", width=32),
}


def build_backbone(name: str, *, seed: int | None = None) -> ResNet:
    """A freshly initialized backbone; with a seed, the same weights each time.

    Raises:
        UserError: no backbone has that name.
    """
    if name not in BACKBONES:
        raise UserError(f"backbone {name!r} is unknown; expected one of: {', '.join(BACKBONES)}")
    if seed is None:
        return BACKBONES[name]()
    # Initializers draw from the global generator; it is put back as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BACKBONES[name]()


def stride_in_1x1(backbone: ResNet) -> ResNet:
    """Make a ResNet v1 of a v1.5, in place: stride 2 moves from the 3x3 to the first 1x1 convolution.

    Caffe's and MSRA's networks are v1. Weights do not show which of the two they were trained for.
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
) -> Tensor:  # (..., 3, H, W) float32, channels_last where there are 4 dimensions
    """Pixels as the network was trained to see them, on the device."""
    mean = torch.tensor(normalization.mean, device=device).view(3, 1, 1) * 255
    std = torch.tensor(normalization.std, device=device).view(3, 1, 1) * 255
    out = images.to(device, non_blocking=True).float()
    if normalization.channels == "BGR":
        out = out.flip(-3)
    out = out.sub_(mean).div_(std)
    return out.contiguous(memory_format=torch.channels_last) if out.ndim == 4 else out
