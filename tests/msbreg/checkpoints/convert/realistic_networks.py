"""Backbones whose every tensor differs from its initial value, and where they are said to come from."""

from functools import cache
from pathlib import Path

import torch

from msbreg.backbones.architectures import Architecture
from msbreg.backbones.resnet import ResNet, build_backbone, stride_in_1x1
from msbreg.backbones.spec import IMAGENET, BackboneSpec, Normalization, Provenance
from msbreg.checkpoints.load import save_checkpoint

THIN = "a ResNet-50 of 8 channels"


@cache  # nobody may change it
def moved(arch: str = "resnet18-narrow", *, v1: bool = False) -> ResNet:
    """Statistics, weights and biases of BatchNorm as after some training."""
    if arch == THIN:
        torch.manual_seed(0)
        backbone = ResNet(Architecture(50, width=8))
    else:
        backbone = build_backbone(arch, seed=0)
    generator = torch.Generator().manual_seed(0)
    for name, value in backbone.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2.0, generator=generator)
        elif value.ndim == 1:
            value.add_(0.1 * torch.randn(value.shape, generator=generator))
        elif value.ndim == 0:
            value.fill_(7)
    return (stride_in_1x1(backbone) if v1 else backbone).eval()


def provenance(
    arch: str = "resnet18-narrow",
    *,
    normalization: Normalization = IMAGENET,
    stride: str = "3x3",
    **changes,
) -> Provenance:
    return Provenance(
        **{
            "source": "/somewhere/else/moco.pth",
            "family": "moco",
            "encoder": "query",
            "spec": BackboneSpec(arch, normalization, stride == "1x1", 224),
            "sha256": "ab" * 32,
            "tensors": len(moved(arch).state_dict()),
            "details": {"epoch": 200},
        }
        | changes
    )


def write_checkpoint(path: Path, arch: str = "resnet18-narrow") -> Path:
    """One of our own checkpoints with the backbone of ``moved(arch)``."""
    state = {f"backbone.{k}": v for k, v in moved(arch).state_dict().items()}
    config = {"method": "msbreg", "views": 2, "epochs": 1, "batch_size": 4, "seed": 0}
    content = {"arch": arch, "image_size": 32, "step": 3, "steps": 9, "config": config}
    save_checkpoint(path, content | {"online": state})
    return path
