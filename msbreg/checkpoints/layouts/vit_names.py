"""How each source names and cuts the tensors of a vision transformer.

Our names are timm's. A source may store some of its tensors in parts: three matrices for query, key and
value, or the position of the class token beside those of the patches. Parts have names of their own, so that
a missing one is reported as such, and ``assembled`` puts them together.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from msbreg.backbones.vit_architectures import VITS, Transformer

PARTS = ("query", "key", "value")


@dataclass(frozen=True)
class TransformerNames:
    """The names of a source.

    Attributes:
        of: our name of a part -> its name in the source.
        separate_qkv: whether query, key and value are three tensors, here ``attn.query`` and so on.
        class_position: whether ``pos_embed`` starts with the position of the class token although there are
            registers; the network adds it, and timm's tensors contain the sum.
    """

    of: Callable[[str], str]
    separate_qkv: bool = False
    class_position: bool = False

    def parts(self, a: Transformer, image_size: int) -> dict[str, tuple[int, ...]]:
        """Our name -> shape of every part that a file of this source contains."""
        made: dict[str, tuple[int, ...]] = {}
        for name, shape in a.shapes(image_size).items():
            if self.separate_qkv and ".attn.qkv." in name:
                for part in PARTS:
                    made[name.replace(".qkv.", f".{part}.")] = (a.width, *shape[1:])
            elif name == "pos_embed" and a.registers and self.class_position:
                made[name] = (1, shape[1] + 1, a.width)
            else:
                made[name] = shape
        return made

    @property
    def names(self) -> dict[str, str]:
        """Name in the source -> our name, for the parts of all architectures."""
        return _table(self)

    def image_size(self, a: Transformer, state: Mapping[str, object]) -> int:
        """Side in pixels of the images to which the position embeddings of a state belong.

        The architecture's own size if their number is not that of a square grid.
        """
        stored = state.get("pos_embed")
        if not isinstance(stored, Tensor) or stored.ndim != 3:
            return a.image_size
        patches = stored.shape[1] - (not a.registers or self.class_position)
        side = round(max(patches, 0) ** 0.5)
        return side * a.patch if side and side * side == patches else a.image_size

    def assembled(self, parts: Mapping[str, Tensor], a: Transformer) -> dict[str, Tensor]:
        """timm's tensors, from all the parts of a file."""
        state = dict(parts)
        if a.registers and self.class_position:
            positions = state["pos_embed"]
            state["cls_token"] = state["cls_token"] + positions[:, :1]
            state["pos_embed"] = positions[:, 1:].contiguous()
        if self.separate_qkv:
            for name in [name for name in state if ".attn.query." in name]:
                three = [state.pop(name.replace(".query.", f".{part}.")) for part in PARTS]
                state[name.replace(".query.", ".qkv.")] = torch.cat(three)
        return {name: state[name] for name in a.shapes(a.image_size)}


@cache
def _table(names: TransformerNames) -> dict[str, str]:
    keys = dict.fromkeys(key for a in VITS.values() for key in names.parts(a, a.image_size))
    made = {names.of(key): key for key in keys}
    assert len(made) == len(keys), "a source must give each part a unique name"
    return made


def _dinov2(name: str) -> str:
    """timm's names, except for the registers (facebookresearch/dinov2 models/vision_transformer.py)."""
    return "register_tokens" if name == "reg_token" else name


_EMBEDDINGS = {
    "cls_token": "embeddings.cls_token",
    "reg_token": "embeddings.register_tokens",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}

_ATTENTION = {
    **{f"attn.{part}": f"attention.attention.{part}" for part in PARTS},
    "attn.proj": "attention.output.dense",
}

_VIT_LAYERS = _ATTENTION | {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    # Hugging Face's ViT has no LayerScale; its DINOv2 has.
    "ls1": "layer_scale1",
    "ls2": "layer_scale2",
}

_DINOV2_LAYERS = _ATTENTION | {"ls1": "layer_scale1", "ls2": "layer_scale2"}


def _huggingface(layers: Mapping[str, str]) -> Callable[[str], str]:
    """``encoder.layer.0.attention.attention.query.weight`` (transformers models/vit, models/dinov2)."""

    def name(ours: str) -> str:
        if ours in _EMBEDDINGS:
            return _EMBEDDINGS[ours]
        module, _, tensor = ours.rpartition(".")
        if module in _EMBEDDINGS:
            return f"{_EMBEDDINGS[module]}.{tensor}"
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)", module)
        assert block, f"{ours} is not a tensor of a vision transformer"
        index, layer = block.groups()
        tensor = "lambda1" if tensor == "gamma" else tensor
        return f"encoder.layer.{index}.{layers.get(layer, layer)}.{tensor}"

    return name


timm = TransformerNames(lambda name: name)
"""Also DINO's, MAE's, DeiT's and MoCo v3's, and DINOv2's without registers."""

dinov2_registers = TransformerNames(_dinov2, class_position=True)

huggingface_vit = TransformerNames(_huggingface(_VIT_LAYERS), separate_qkv=True)

huggingface_dinov2 = TransformerNames(
    _huggingface(_DINOV2_LAYERS), separate_qkv=True, class_position=True
)
"""With and without registers."""
