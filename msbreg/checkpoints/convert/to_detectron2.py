"""Detectron2: ``{"model": ..., "__author__": ..., "matching_heuristics": True}``, ``.pkl`` or ``.pth``.

detectron2/checkpoint/detection_checkpoint.py reads a ``.pkl`` unchanged only if it has both ``model`` and
``__author__``, and matches names to ``backbone.`` and ``backbone.bottom_up.`` only with
``matching_heuristics``.
"""

from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from msbreg.backbones.architectures import Architecture, name_of
from msbreg.backbones.spec import BackboneSpec, of_gray_levels
from msbreg.checkpoints.convert.target import (
    Content,
    Layout,
    Target,
    Words,
    no_small_stem,
    pickled,
    torch_saved,
)
from msbreg.checkpoints.layouts.names import detectron2
from msbreg.checkpoints.read import read_file

DEPTHS = (18, 34, 50, 101, 152)
"""Of ``build_resnet_backbone``."""

LAYOUT = Layout(
    stem="stem.conv1",
    stem_norm="stem.conv1.norm",
    convolution="res{stage}.{block}.conv{layer}",
    norm="res{stage}.{block}.conv{layer}.norm",
    shortcut="res{stage}.{block}.shortcut",
    shortcut_norm="res{stage}.{block}.shortcut.norm",
    first_stage=2,
    first_layer=1,
)


def _refusal(spec: BackboneSpec) -> str:
    if spec.architecture.depth not in DEPTHS:
        return f"it has depth {spec.architecture.depth}, and Detectron2 builds {DEPTHS}"
    return no_small_stem(spec)


def _express(spec: BackboneSpec) -> Words:
    """Keys of Detectron2's config; a key is omitted only if its default fits all depths."""
    a = spec.architecture
    words: Words = {
        "INPUT.FORMAT": spec.normalization.channels,
        "MODEL.PIXEL_MEAN": list(spec.normalization.pixel_mean),
        "MODEL.PIXEL_STD": list(spec.normalization.pixel_std),
        "MODEL.RESNETS.DEPTH": a.depth,
        "MODEL.RESNETS.STRIDE_IN_1X1": spec.stride_in_1x1,
    }
    widths = {
        "MODEL.RESNETS.STEM_OUT_CHANNELS": (a.width, 64),
        "MODEL.RESNETS.RES2_OUT_CHANNELS": (a.channels["c2"], 256),
        # Basic blocks have no inner width; the key would then be that of the C4 head.
        "MODEL.RESNETS.WIDTH_PER_GROUP": (a.width * a.inner if a.bottleneck else 64, 64),
    }
    return words | {key: value for key, (value, default) in widths.items() if value != default}


def _understand(words: Words) -> BackboneSpec:
    depth = words["MODEL.RESNETS.DEPTH"]
    width = words.get("MODEL.RESNETS.STEM_OUT_CHANNELS", 64)
    inner = words.get("MODEL.RESNETS.WIDTH_PER_GROUP", 64) // width if depth >= 50 else 1
    return BackboneSpec(
        name_of(Architecture(depth, width, inner)),
        of_gray_levels(words["MODEL.PIXEL_MEAN"], words["MODEL.PIXEL_STD"], words["INPUT.FORMAT"]),
        words["MODEL.RESNETS.STRIDE_IN_1X1"],
    )


def _encode(content: Content, suffix: str) -> dict[str, bytes]:
    whole = {
        "model": content.state,
        "__author__": "msbreg",
        "matching_heuristics": True,
        "msbreg": {
            "settings": content.words,
            "provenance": content.provenance,
            "certificate": content.certificate,
        },
    }
    return {"": pickled(whole) if suffix == ".pkl" else torch_saved(whole)}


def _decode(path: Path) -> tuple[dict[str, Tensor], Words | None]:
    content = read_file(path).content
    return content["model"], content["msbreg"]["settings"]


def _fragment(words: Words, path: Path) -> str:
    """YAML for Detectron2's config file."""
    tree: dict[str, Any] = {"MODEL": {"WEIGHTS": str(path.resolve())}}
    for name, value in words.items():
        *parents, leaf = name.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    text = yaml.safe_dump(tree, sort_keys=False, default_flow_style=None, width=1000)
    narrow = words.get("MODEL.RESNETS.STEM_OUT_CHANNELS", 64) != 64
    if narrow and words["MODEL.RESNETS.DEPTH"] < 50:
        text += (
            "# Detectron2's own builder insists on RES2_OUT_CHANNELS 64 at this depth; use\n"
            "# transfer/detectors/detectron2_engine.py to build a narrow network.\n"
        )
    return text


DETECTRON2 = Target(
    name="detectron2",
    ending="_d2.pkl",
    suffixes=(".pkl", ".pth"),
    names=detectron2,
    layout=LAYOUT,
    refusal=_refusal,
    express=_express,
    understand=_understand,
    encode=_encode,
    decode=_decode,
    fragment=_fragment,
)
