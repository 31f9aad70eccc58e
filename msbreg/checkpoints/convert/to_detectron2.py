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
    Settings,
    Target,
    no_small_stem,
    pickled,
    torch_saved,
)
from msbreg.checkpoints.layouts.names import detectron2
from msbreg.checkpoints.read import read_file

DEPTHS = (18, 34, 50, 101, 152)
"""Supported by ``build_resnet_backbone``."""

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


def _express(spec: BackboneSpec) -> Settings:
    """Keys of Detectron2's config; a key is omitted if its default is right at every depth."""
    a = spec.architecture
    settings: Settings = {
        "INPUT.FORMAT": spec.normalization.channels,
        "MODEL.PIXEL_MEAN": list(spec.normalization.pixel_mean),
        "MODEL.PIXEL_STD": list(spec.normalization.pixel_std),
        "MODEL.RESNETS.DEPTH": a.depth,
        "MODEL.RESNETS.STRIDE_IN_1X1": spec.stride_in_1x1,
    }
    widths = {
        "MODEL.RESNETS.STEM_OUT_CHANNELS": (a.width, 64),
        "MODEL.RESNETS.RES2_OUT_CHANNELS": (a.channels["c2"], 256),
        # Basic blocks have no inner width; with them, the key would only affect the C4 head.
        "MODEL.RESNETS.WIDTH_PER_GROUP": (a.width * a.inner if a.bottleneck else 64, 64),
    }
    return settings | {key: value for key, (value, default) in widths.items() if value != default}


def _understand(settings: Settings) -> BackboneSpec:
    depth = settings["MODEL.RESNETS.DEPTH"]
    width = settings.get("MODEL.RESNETS.STEM_OUT_CHANNELS", 64)
    inner = settings.get("MODEL.RESNETS.WIDTH_PER_GROUP", 64) // width if depth >= 50 else 1
    return BackboneSpec(
        name_of(Architecture(depth, width, inner)),
        of_gray_levels(
            settings["MODEL.PIXEL_MEAN"], settings["MODEL.PIXEL_STD"], settings["INPUT.FORMAT"]
        ),
        settings["MODEL.RESNETS.STRIDE_IN_1X1"],
    )


def _encode(content: Content, suffix: str) -> dict[str, bytes]:
    whole = {
        "model": content.state,
        "__author__": "msbreg",
        "matching_heuristics": True,
        "msbreg": {
            "settings": content.settings,
            "provenance": content.provenance,
            "certificate": content.certificate,
        },
    }
    return {"": pickled(whole) if suffix == ".pkl" else torch_saved(whole)}


def _decode(path: Path) -> tuple[dict[str, Tensor], Settings | None]:
    content = read_file(path).content
    return content["model"], content["msbreg"]["settings"]


def _fragment(settings: Settings, path: Path) -> str:
    """YAML for Detectron2's config file."""
    tree: dict[str, Any] = {"MODEL": {"WEIGHTS": str(path.resolve())}}
    for name, value in settings.items():
        *parents, leaf = name.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    text = yaml.safe_dump(tree, sort_keys=False, default_flow_style=None, width=1000)
    narrow = settings.get("MODEL.RESNETS.STEM_OUT_CHANNELS", 64) != 64
    if narrow and settings["MODEL.RESNETS.DEPTH"] < 50:
        text += (
            "# Detectron2's own builder requires RES2_OUT_CHANNELS 64 at this depth; use\n"
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
