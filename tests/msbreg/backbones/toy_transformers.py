"""Tiny vision transformers: timm's own models with random weights, and the same architectures in VITS."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer as TimmTransformer

from msbreg.backbones.vit_architectures import VITS, Transformer

# The names contain what the rows of the families look for.
PLAIN, HEADS, DINOV2, REGISTERS = (
    "vit_base_toy",
    "vit_toy_heads12",
    "vit_toy_dinov2",
    "vit_toy_reg4_dinov2",
)
TOYS = {
    PLAIN: Transformer(8, 32, 2, 2, image_size=32),
    HEADS: Transformer(8, 32, 2, 4, image_size=32),
    DINOV2: Transformer(8, 32, 2, 2, True, 0, 40, "offset"),
    REGISTERS: Transformer(8, 32, 2, 2, True, 4, 40, "antialiased"),
}


@pytest.fixture
def toys(monkeypatch):
    """Register TOYS as architectures."""
    for name, toy in TOYS.items():
        monkeypatch.setitem(VITS, name, toy)


def timm_model(name: str, *, image_size: int = 0, seed: int = 0, **options) -> TimmTransformer:
    """timm's model of a toy, in eval mode; every tensor is random, as if trained."""
    layer_scale, registers = "dinov2" in name, 4 * ("reg4" in name)
    model = TimmTransformer(
        img_size=image_size or (40 if layer_scale else 32),
        patch_size=8,
        embed_dim=32,
        depth=2,
        num_heads=4 if name == HEADS else 2,
        init_values=1e-5 if layer_scale else None,
        reg_tokens=registers,
        no_embed_class=registers > 0,
        num_classes=3,
        **options,
    )
    generator = torch.Generator().manual_seed(seed)
    for value in model.state_dict().values():
        value.copy_(0.3 * torch.randn(value.shape, generator=generator) + 0.1)
    return model.eval()


def images(side: int, count: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, side, side, generator=generator)
