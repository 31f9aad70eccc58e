"""The vision transformers that the tasks on frozen features can evaluate, and which names are backbones.

This module does not import PyTorch, so that options can be checked before it is loaded.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

from msbreg.backbones.architectures import ARCHITECTURES
from msbreg.run.errors import UserError, did_you_mean

Positions = Literal["offset", "bicubic", "antialiased", "fixed"]
"""How position embeddings are adapted to images of another size than the network's own.

Each source has its own formula:

- ``offset``: bicubic with the scale factor (new + 0.1) / old (DINO; DINOv2 without registers),
- ``bicubic``: bicubic to the new size (MAE, DeiT, Hugging Face),
- ``antialiased``: bicubic to the new size with an antialiasing filter (timm; DINOv2 with registers),
- ``fixed``: not at all; other sizes are refused (MoCo v3, and files that do not show their source).
"""

EVERY_POSITIONS: tuple[Positions, ...] = ("offset", "bicubic", "antialiased", "fixed")


@dataclass(frozen=True)
class Transformer:
    """The architecture of a vision transformer with a class token (arXiv 2010.11929), in timm's terms.

    Attributes:
        patch: side of a patch in pixels.
        width: dimension D of a token.
        depth: number of blocks.
        heads: attention heads of a block; the tensors do not show them.
        layer_scale: whether each residual branch is multiplied by learned factors (arXiv 2103.17239).
        registers: number of register tokens (arXiv 2309.16588), which have no position embedding.
        image_size: side in pixels of the images whose patches have the stored position embeddings.
        positions: how the position embeddings are adapted to images of another size.
    """

    patch: int
    width: int
    depth: int
    heads: int
    layer_scale: bool = False
    registers: int = 0
    image_size: int = 224
    positions: Positions = "fixed"

    @property
    def prefix_tokens(self) -> int:
        """Number of tokens before those of the patches: the class token and the registers."""
        return 1 + self.registers

    def shapes(self, image_size: int) -> dict[str, tuple[int, ...]]:
        """timm's name -> shape of every tensor, in the order of timm's state dict."""
        d, patches = self.width, (image_size // self.patch) ** 2
        made: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, d)}
        if self.registers:
            made["reg_token"] = (1, self.registers, d)
        # With registers, timm adds the position of the class token to the class token itself.
        made["pos_embed"] = (1, patches + (not self.registers), d)

        def affine(name: str, *weight: int) -> None:
            made[f"{name}.weight"] = weight
            made[f"{name}.bias"] = weight[:1]

        affine("patch_embed.proj", d, 3, self.patch, self.patch)
        for block in range(self.depth):
            name = f"blocks.{block}"
            affine(f"{name}.norm1", d)
            affine(f"{name}.attn.qkv", 3 * d, d)
            affine(f"{name}.attn.proj", d, d)
            if self.layer_scale:
                made[f"{name}.ls1.gamma"] = (d,)
            affine(f"{name}.norm2", d)
            affine(f"{name}.mlp.fc1", 4 * d, d)
            affine(f"{name}.mlp.fc2", d, 4 * d)
            if self.layer_scale:
                made[f"{name}.ls2.gamma"] = (d,)
        affine("norm", d)
        return made


def _dinov2(width: int, depth: int, heads: int, registers: int = 0) -> Transformer:
    """DINOv2 (arXiv 2304.07193): patches of 14 pixels, LayerScale, and training that ends at 518 pixels."""
    positions: Positions = "antialiased" if registers else "offset"
    return Transformer(14, width, depth, heads, True, registers, 518, positions)


VITS: dict[str, Transformer] = {
    "vit_tiny_patch16": Transformer(16, 192, 12, 3),
    "vit_small_patch16": Transformer(16, 384, 12, 6),
    "vit_small_patch8": Transformer(8, 384, 12, 6),
    "vit_base_patch16": Transformer(16, 768, 12, 12),
    "vit_base_patch8": Transformer(8, 768, 12, 12),
    "vit_large_patch16": Transformer(16, 1024, 24, 16),
    "vit_huge_patch14": Transformer(14, 1280, 32, 16),
    # MoCo v3's ViT-S has twice as many heads (arXiv 2104.02057, section 5; vits.py).
    "vit_small_patch16_heads12": Transformer(16, 384, 12, 12),
    "vit_small_patch14_dinov2": _dinov2(384, 12, 6),
    "vit_base_patch14_dinov2": _dinov2(768, 12, 12),
    "vit_large_patch14_dinov2": _dinov2(1024, 24, 16),
    "vit_small_patch14_reg4_dinov2": _dinov2(384, 12, 6, registers=4),
    "vit_base_patch14_reg4_dinov2": _dinov2(768, 12, 12, registers=4),
    "vit_large_patch14_reg4_dinov2": _dinov2(1024, 24, 16, registers=4),
}
"""Name -> architecture. The names are timm's without the image size, which the position embeddings show."""

TIMM = "timm/"
"""``timm/NAME`` is a model of the timm library."""


@cache
def _timm_name() -> re.Pattern[str]:
    # No colons and slashes: timm reads names such as hf-hub:OWNER/MODEL as addresses to download from.
    return re.compile(re.escape(TIMM) + r"[A-Za-z0-9_.]+")


def is_resnet(name: str) -> bool:
    """Whether a backbone is one of this suite's ResNets."""
    return name in ARCHITECTURES


def check_backbone_name(name: str) -> None:
    """Check that a name is that of a ResNet, of a vision transformer, or ``timm/NAME``.

    Whether timm has such a model is only known once it is built.

    Raises:
        UserError: it is none of these; the message lists the known names.
    """
    if name not in ARCHITECTURES and name not in VITS and not _timm_name().fullmatch(name):
        known = (*ARCHITECTURES, *VITS)
        raise UserError(
            f"backbone {name!r} is unknown{did_you_mean(name, known) or '.'}\n"
            f"Expected one of: {', '.join(known)}, or {TIMM}NAME, a model of timm"
        )


def no_resnet(name: str) -> str:
    """Why a task of ResNets does not take this backbone; empty if it does, or if the name is unknown."""
    if name in VITS:
        kind = "a vision transformer"
    elif _timm_name().fullmatch(name):
        kind = "a model of timm"
    else:
        return ""
    return (
        f"{name} is {kind}, and only ResNets can be pre-trained, converted, certified, and fine-tuned for "
        "detection and segmentation. These accept it: transfer/knn.py, linear.py, svm.py, logistic.py, "
        "robustness.py and semisupervised.py, and msbreg.extract_features"
    )
