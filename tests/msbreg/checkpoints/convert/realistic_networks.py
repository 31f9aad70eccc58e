"""Backbones in which every tensor differs from its initial value, with a provenance."""

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from msbreg.backbones.architectures import ARCHITECTURES, Architecture
from msbreg.backbones.resnet import ResNet, build_backbone, stride_in_1x1
from msbreg.backbones.spec import IMAGENET, BackboneSpec, Normalization, Provenance
from msbreg.checkpoints.load import save_checkpoint

THIN = "resnet50-thin"
"""A ResNet-50 of width 8; the fixture ``thin`` registers it."""


@pytest.fixture
def thin(monkeypatch):
    """Register THIN as an architecture."""
    monkeypatch.setitem(ARCHITECTURES, THIN, Architecture(50, width=8))


@cache  # callers must not modify it
def moved(arch: str = "resnet18-narrow", *, v1: bool = False) -> ResNet:
    """A backbone whose BatchNorm statistics, weights and biases look trained."""
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


@torch.no_grad()
def realistic(arch: str, seed: int) -> ResNet:
    """A backbone with real statistics of each layer's input and skewed scales, as after training."""
    backbone = build_backbone(arch, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the average over batches
            module.weight.copy_(torch.rand(module.weight.shape, generator=generator) + 0.1)
            module.bias.copy_(0.3 * torch.randn(module.bias.shape, generator=generator))
    images = torch.randn(4, 3, 64, 64, generator=generator)
    backbone.train()(images)
    return backbone.eval()


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
