"""Name dialects: how each toolbox names the tensors of a torchvision ResNet (vit_names.py: of a ViT).

A dialect is a function from a ``Place`` in the network to a name. Foreign names are looked up in a
table built from it, so a name matches exactly or not at all: nothing is renamed by substring.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from torch import Tensor

from msbreg.backbones.architectures import ARCHITECTURES
from msbreg.checkpoints.layouts.vit_names import TransformerNames

COUNTER = (
    "num_batches_tracked"  # of BatchNorm; absent before PyTorch 0.4.1 and from most converters
)


@dataclass(frozen=True)
class Place:
    """One tensor of a ResNet.

    Attributes:
        stage: 0 is the stem, 1 to 4 are torchvision's layer1 to layer4.
        block: index in the stage, from 0; 0 in the stem.
        layer: 1 to 3, the convolution or the norm after it; 0 is the shortcut.
        norm: whether it belongs to the BatchNorm, not to the convolution.
        tensor: weight, bias, running_mean, running_var or num_batches_tracked.
    """

    stage: int
    block: int
    layer: int
    norm: bool
    tensor: str


def place(key: str) -> Place:
    """The place of the tensor with this torchvision name."""
    match = re.fullmatch(r"(?:layer(\d)\.(\d+)\.)?(?:(conv|bn)(\d)|downsample\.(\d))\.(\w+)", key)
    assert match, f"{key} is not a tensor of a torchvision ResNet"
    stage, block, kind, layer, shortcut, tensor = match.groups()
    norm = kind == "bn" if kind else shortcut == "1"
    return Place(int(stage or 0), int(block or 0), int(layer or 0), norm, tensor)


Dialect = Callable[[Place], str]


def torchvision(p: Place) -> str:
    """``layer1.0.conv1.weight``: also timm's, MMSelfSup's, and nearly every method's own code."""
    kind = "bn" if p.norm else "conv"
    layer = f"{kind}{p.layer}" if p.layer else f"downsample.{int(p.norm)}"
    block = f"layer{p.stage}.{p.block}." if p.stage else ""
    return f"{block}{layer}.{p.tensor}"


def children(p: Place) -> str:
    """``4.0.conv1.weight``: ``nn.Sequential(*list(resnet.children())[:-1])``; 2 and 3 have no
    tensors.
    """
    if p.stage == 0:
        return f"{int(p.norm)}.{p.tensor}"
    return f"{p.stage + 3}." + torchvision(p).partition(".")[2]


def obow(p: Place) -> str:
    """``1.0.conv1.weight``, stem ``0.Conv`` and ``0.bn`` (valeoai/obow, feature_extractor.py)."""
    if p.stage == 0:
        return f"0.{'bn' if p.norm else 'Conv'}.{p.tensor}"
    return f"{p.stage}." + torchvision(p).partition(".")[2]


def detectron2(p: Place) -> str:
    """``res2.0.conv1.weight``, ``res2.0.conv1.norm.weight``, ``stem.conv1.*``, ``shortcut``."""
    block = f"res{p.stage + 1}.{p.block}" if p.stage else "stem"
    layer = f"conv{p.layer}" if p.layer else "shortcut"
    return f"{block}.{layer}.{'norm.' if p.norm else ''}{p.tensor}"


def huggingface(p: Place) -> str:
    """``encoder.stages.0.layers.0.layer.0.convolution.weight`` (transformers, modeling_resnet.py)."""
    part = "normalization" if p.norm else "convolution"
    if p.stage == 0:
        return f"embedder.embedder.{part}.{p.tensor}"
    layer = f"layer.{p.layer - 1}" if p.layer else "shortcut"
    return f"encoder.stages.{p.stage - 1}.layers.{p.block}.{layer}.{part}.{p.tensor}"


def simclr_v2(p: Place) -> str:
    """``net.1.blocks.0.net.0.weight`` (Separius/SimCLRv2-Pytorch, resnet.py, without selective kernels)."""
    if p.stage == 0:
        return f"net.0.1.0.{p.tensor}" if p.norm else f"net.0.0.{p.tensor}"
    block = f"net.{p.stage}.blocks.{p.block}"
    if p.layer == 0:
        return f"{block}.projection.{'bn.0' if p.norm else 'shortcut'}.{p.tensor}"
    index = 2 * (p.layer - 1)
    return f"{block}.net.{f'{index + 1}.0' if p.norm else index}.{p.tensor}"


def haiku(p: Place) -> str:
    """``block_group_0/~/block_0/~/conv_0/w``, parameters and state in one tree (deepmind-research, byol)."""
    if p.stage == 0:
        layer = "initial_batchnorm" if p.norm else "initial_conv"
    else:
        kind = "batchnorm" if p.norm else "conv"
        layer = f"block_group_{p.stage - 1}/~/block_{p.block}/~/"
        layer += f"{kind}_{p.layer - 1}" if p.layer else f"shortcut_{kind}"
    if not p.norm:
        return f"{layer}/w"
    ending = {
        "weight": "scale",
        "bias": "offset",
        "running_mean": "~/mean_ema/average",
        "running_var": "~/var_ema/average",
    }
    return f"{layer}/{ending.get(p.tensor, p.tensor)}"


def _caffe2(endings: dict[str, str]) -> Dialect:
    def name(p: Place) -> str:
        if p.stage == 0:
            layer, norm = "conv1", "res_conv1"
        else:
            branch = f"branch2{'abc'[p.layer - 1]}" if p.layer else "branch1"
            layer = norm = f"res{p.stage + 1}_{p.block}_{branch}"
        return f"{norm}_bn_{endings.get(p.tensor, p.tensor)}" if p.norm else f"{layer}_w"

    return name


caffe2 = _caffe2({"weight": "gamma", "bias": "beta"})
"""``res2_0_branch2a_w``, ``res2_0_branch2a_bn_gamma`` (Detectron2's MSRA/R-50.pkl)."""

caffe2_short = _caffe2({"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"})
"""Like ``caffe2``, with ``_bn_s``, ``_bn_b``, ``_bn_rm`` and ``_bn_riv``."""


def shapes(arch: str) -> dict[str, tuple[int, ...]]:
    """torchvision name -> shape of every tensor of a backbone, in the module's order."""
    return ARCHITECTURES[arch].shapes


def table(names: Dialect | TransformerNames) -> dict[str, str]:
    """Foreign name -> our name (torchvision's or timm's), for the tensors of all architectures."""
    return names.names if isinstance(names, TransformerNames) else _table(names)


@cache
def _table(dialect: Dialect) -> dict[str, str]:
    keys = dict.fromkeys(key for arch in ARCHITECTURES for key in shapes(arch))
    made = {dialect(place(key)): key for key in keys}
    assert len(made) == len(keys), "a dialect must give each tensor a unique name"
    return made


def to_dialect(state: dict[str, Tensor], dialect: Dialect) -> dict[str, Tensor]:
    """Rename a state dict from torchvision's names to a dialect."""
    return {dialect(place(key)): value for key, value in state.items()}
