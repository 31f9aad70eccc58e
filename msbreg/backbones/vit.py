"""Vision transformers with timm's modules and tensor names, and the position embeddings of their sources.

timm adapts position embeddings to other image sizes by one formula, and the authors of DINO, DINOv2 and MAE
by others. DINOv2 is always evaluated at another size (224 pixels) than its embeddings have (518), so the
formula is part of its published scores.
"""

import torch
from timm.models.vision_transformer import VisionTransformer as TimmTransformer
from torch import Tensor
from torch.nn import functional

from msbreg.backbones.backbone_interface import Backbone
from msbreg.backbones.spec import BackboneSpec
from msbreg.backbones.vit_architectures import Positions
from msbreg.run.errors import UserError

LAST_BLOCKS = (2, 3, 4)
"""Numbers of last blocks whose class tokens are concatenated; DINO's and DINOv2's is 4."""


def resized_positions(
    embeddings: Tensor,  # (1, M * M, D), the positions of patches row by row
    height: int,
    width: int,
    positions: Positions,
) -> Tensor:  # (1, height * width, D)
    """Position embeddings of a grid of height x width patches, from those of a grid of M x M.

    Equal sizes are returned unchanged. Sources: ``interpolate_pos_encoding`` of facebookresearch/dino and
    facebookresearch/dinov2, ``interpolate_pos_embed`` of facebookresearch/mae, ``resample_abs_pos_embed``
    of timm.
    """
    side = round(embeddings.shape[1] ** 0.5)
    if (height, width) == (side, side):
        return embeddings
    assert positions != "fixed", "checked by adaptation()"
    grid = embeddings.reshape(1, side, side, -1).permute(0, 3, 1, 2).float()
    if positions == "offset":
        # The factor, not the ratio of the sizes, determines where the grid is sampled.
        factor = ((height + 0.1) / side, (width + 0.1) / side)
        resized = functional.interpolate(grid, scale_factor=factor, mode="bicubic")
    else:
        antialias = positions == "antialiased"
        resized = functional.interpolate(
            grid, size=(height, width), mode="bicubic", antialias=antialias
        )
    return resized.permute(0, 2, 3, 1).reshape(1, height * width, -1).to(embeddings.dtype)


class VisionTransformer(TimmTransformer, Backbone):
    """A vision transformer without a classifier.

    Attributes:
        representations: features after the final norm:

            - ``cls``: the class token. DINO (kNN), DINOv2 (kNN), MoCo v3 (linear) and MAE (linear
              probing; arXiv 2111.06377, appendix A.1) evaluate it.
            - ``mean``: the mean of the patch tokens, without the registers.
            - ``cls+mean``: both, in this order (DINO, linear classification with ViT-B).
            - ``cls-N``: the class tokens of the last N blocks from the first to the last, each after the
              final norm (DINO, linear classification with ViT-S, N = 4); ``cls-N+mean`` also exists
              (DINOv2, linear classification).
    """

    def __init__(self, spec: BackboneSpec) -> None:
        a = spec.transformer
        assert a is not None
        super().__init__(
            img_size=spec.image_size,
            patch_size=a.patch,
            embed_dim=a.width,
            depth=a.depth,
            num_heads=a.heads,
            init_values=1e-5 if a.layer_scale else None,  # timm's value for DINOv2
            reg_tokens=a.registers,
            no_embed_class=a.registers > 0,
            num_classes=0,
            dynamic_img_size=True,
        )
        self.image_size, self.patch = spec.image_size, a.patch
        assert spec.positions is not None
        self.positions: Positions = spec.positions
        last = [f"cls-{n}" for n in LAST_BLOCKS if n <= a.depth]
        self.representations = (
            "cls",
            "cls+mean",
            "mean",
            *last,
            *(f"{name}+mean" for name in last),
        )

    def _pos_embed(
        self,
        patches: Tensor,  # (B, h, w, D)
    ) -> Tensor:  # (B, prefix tokens + h * w, D)
        """Add position embeddings and prepend the class token and the registers; timm's method."""
        count, height, width, _ = patches.shape
        class_token, embeddings = self.cls_token, self.pos_embed
        assert class_token is not None
        assert embeddings is not None
        if self.reg_token is None:
            prefix, stored = [class_token + embeddings[:, :1]], embeddings[:, 1:]
        else:  # the class token contains its position, and registers have none
            prefix, stored = [class_token, self.reg_token], embeddings
        tokens = patches.flatten(1, 2) + resized_positions(stored, height, width, self.positions)
        return torch.cat([*(token.expand(count, -1, -1) for token in prefix), tokens], dim=1)

    def width(self, representation: str) -> int:
        return int(self.embed_dim) * sum(map(_blocks_of, representation.split("+")))

    def represent(
        self,
        images: Tensor,  # (B, 3, H, W), normalized
        representation: str,
    ) -> Tensor:  # (B, D)
        parts = representation.split("+")
        outputs = self.last_outputs(images, max(map(_blocks_of, parts)))
        features: list[Tensor] = []
        for part in parts:
            if part == "mean":
                features.append(outputs[-1][:, self.num_prefix_tokens :].mean(1))
            else:
                features += [output[:, 0] for output in outputs[-_blocks_of(part) :]]
        return torch.cat(features, dim=1)

    def tokens(
        self,
        images: Tensor,  # (B, 3, H, W), normalized
    ) -> Tensor:  # (B, patches, D)
        """The patch tokens after the final norm, without the class token and the registers."""
        return self.last_outputs(images, 1)[0][:, self.num_prefix_tokens :]

    def last_outputs(
        self,
        images: Tensor,  # (B, 3, H, W), normalized
        count: int,
    ) -> list[Tensor]:  # each (B, tokens, D)
        """Tokens after each of the last ``count`` blocks and the final norm; the last block is last."""
        x = self.norm_pre(self._pos_embed(self.patch_embed(images)))
        outputs = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index >= len(self.blocks) - count:
                outputs.append(self.norm(x))
        return outputs

    def adaptation(self, side: int) -> str:
        if side % self.patch:
            raise UserError(
                f"the images have {side} x {side} pixels; this network expects a multiple of its patch size "
                f"{self.patch}. Set --transform.resize and --transform.crop"
            )
        if side == self.image_size:
            return ""
        if self.positions == "fixed":
            raise UserError(
                f"the images have {side} x {side} pixels, but the position embeddings of this network belong "
                f"to {self.image_size} x {self.image_size}, and its source does not adapt them. Use "
                f"--transform.crop {self.image_size}, or for a bare file give the --family that says where "
                "it is from (vit-dino, vit-timm)"
            )
        how = {
            "offset": "bicubic with the scale factor (new + 0.1) / old, as in DINO",
            "bicubic": "bicubic, as in MAE",
            "antialiased": "bicubic and antialiased, as in timm",
        }[self.positions]
        grids = f"{self.image_size // self.patch}^2 to {side // self.patch}^2"
        return f"position embeddings are interpolated from {grids} patches ({how})"


def _blocks_of(part: str) -> int:
    """Number of blocks whose tokens are part of a feature: 4 for ``cls-4``, 1 for ``cls`` and ``mean``."""
    _, _, number = part.partition("-")
    return int(number or 1)
