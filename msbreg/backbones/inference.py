"""Frozen backbones in the form in which they compute features: folded normalization, channels_last, compiled.

The features are those of the given network within 1e-4 of their largest value. On the CPU, folding the
BatchNorms saves a quarter of the time, and compilation as much again.
"""

import copy
import hashlib
import logging
import shutil
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from msbreg.backbones.backbone_interface import TOKENS, Backbone
from msbreg.backbones.resnet import ResNet, normalize
from msbreg.backbones.spec import BackboneSpec, Provenance

log = logging.getLogger("msbreg")

Precision = Literal["float32", "bf16"]
Compile = Literal["auto", "no", "yes"]

WORTH_COMPILING = 50_000
"""Number of images from which ``auto`` compiles, which takes one to two minutes."""

_COMPILERS = ("c++", "g++", "clang++")


class FrozenBackbone:
    """A backbone that computes features of pixels: normalization, network, pooling.

    Args:
        backbone: in eval mode; it is copied, not changed.
        spec: its normalization is applied.
        representation: which feature, one of the backbone's ``representations``; None is its default.
            ``TOKENS`` gives (B, T, D) features, one for each place.
        precision: ``bf16`` runs the network under autocast; its features differ by several percent.
        compiled: compile with TorchInductor. All batches must then have the same size.
    """

    def __init__(
        self,
        backbone: Backbone,
        spec: BackboneSpec | Provenance,
        device: torch.device,
        *,
        representation: str | None = None,
        precision: Precision = "float32",
        compiled: bool = False,
    ) -> None:
        self.device, self.normalization, self.precision = device, spec.normalization, precision
        self.compiled = compiled
        self.representation = representation or backbone.representations[0]
        self.width: int = backbone.width(self.representation)
        self.network = folded(backbone).to(device).to(memory_format=torch.channels_last)
        self._represent = torch.compile(self._plain, dynamic=False) if compiled else self._plain

    def __call__(
        self,
        pixels: Tensor,  # (B, 3, H, W) uint8 RGB, on the CPU
    ) -> Tensor:  # (B, D) or (B, T, D) float32, on the CPU
        return self.features(pixels).cpu()

    def features(
        self,
        pixels: Tensor,  # (B, 3, H, W) uint8 RGB, on the CPU
    ) -> Tensor:  # (B, D) float32, on the device
        """The same, without waiting for the device."""
        images = normalize(pixels, self.device, self.normalization)
        with (
            torch.no_grad(),
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"),
        ):
            return self._represent(images).float()

    def digest(self) -> str:
        """SHA-256 of the weights in use, to check that nothing changed them."""
        digest = hashlib.sha256()
        for name, value in self.network.state_dict().items():
            digest.update(name.encode())
            digest.update(value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _plain(self, images: Tensor) -> Tensor:
        if self.representation == TOKENS:
            return self.network.tokens(images)
        return self.network.represent(images, self.representation)


def folded(backbone: Backbone) -> Backbone:
    """A copy in eval mode in which every BatchNorm that follows a convolution is part of its weights.

    These are pairs of attributes named ``convN`` and ``bnN``, and the two modules of ``downsample``, as in
    torchvision's ResNets. A BatchNorm without such a partner stays, and other networks than ResNets are
    only copied.
    """
    copied = copy.deepcopy(backbone).eval()
    if not isinstance(copied, ResNet):
        return copied
    for module in list(copied.modules()):
        names = dict(module.named_children())
        for name in names:
            norm, convolution = names[name], names.get(name.replace("bn", "conv", 1))
            if isinstance(norm, nn.BatchNorm2d) and isinstance(convolution, nn.Conv2d):
                setattr(module, name.replace("bn", "conv", 1), fuse_conv_bn_eval(convolution, norm))
                setattr(module, name, nn.Identity())
        if isinstance(shortcut := names.get("downsample"), nn.Sequential):
            convolution, norm = shortcut
            assert isinstance(convolution, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            module.downsample = nn.Sequential(fuse_conv_bn_eval(convolution, norm))
    return copied


def compiles(choice: Compile, images: int) -> bool:
    """Whether to compile the network for this number of images.

    ``auto`` compiles for many images, if there is a C++ compiler.
    """
    if choice != "auto":
        return choice == "yes"
    found = any(shutil.which(name) for name in _COMPILERS)
    if images >= WORTH_COMPILING and not found:
        log.info("the network is not compiled: no C++ compiler was found")
    return found and images >= WORTH_COMPILING
