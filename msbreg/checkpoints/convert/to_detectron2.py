"""Detectron2: ``{"model": ..., "__author__": ..., "matching_heuristics": True}``, ``.pkl`` or ``.pth``.

Read by detectron2/checkpoint/detection_checkpoint.py: a ``.pkl`` is used as it is only with both ``model``
and ``__author__``, and names are matched to ``backbone.`` and ``backbone.bottom_up.`` only with
``matching_heuristics``.
"""

from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from msbreg.checkpoints.convert.consumer_settings import Settings
from msbreg.checkpoints.convert.encoding import pickled, torch_saved
from msbreg.checkpoints.convert.executor import Layout
from msbreg.checkpoints.convert.target import Content, Target, Words, no_small_stem
from msbreg.checkpoints.layouts.names import detectron2
from msbreg.checkpoints.read import read_file

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


def _express(settings: Settings) -> Words:
    """Keys of Detectron2's config; a key is left out only where its default fits all depths."""
    words: Words = {
        "INPUT.FORMAT": settings.channels,
        "MODEL.PIXEL_MEAN": list(settings.pixel_mean),
        "MODEL.PIXEL_STD": list(settings.pixel_std),
        "MODEL.RESNETS.DEPTH": settings.depth,
        "MODEL.RESNETS.STRIDE_IN_1X1": settings.stride_in_1x1,
    }
    if settings.width != 64:
        words["MODEL.RESNETS.STEM_OUT_CHANNELS"] = settings.width
    if not settings.bottleneck or settings.width != 64:  # the default, 256, is that of bottlenecks
        expansion = 4 if settings.bottleneck else 1
        words["MODEL.RESNETS.RES2_OUT_CHANNELS"] = expansion * settings.width
    return words


def _understand(words: Words) -> Settings:
    return Settings(
        depth=words["MODEL.RESNETS.DEPTH"],
        width=words.get("MODEL.RESNETS.STEM_OUT_CHANNELS", 64),
        stem="imagenet",
        stride_in_1x1=words["MODEL.RESNETS.STRIDE_IN_1X1"],
        channels=words["INPUT.FORMAT"],
        pixel_mean=tuple(words["MODEL.PIXEL_MEAN"]),
        pixel_std=tuple(words["MODEL.PIXEL_STD"]),
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
    if words.get("MODEL.RESNETS.STEM_OUT_CHANNELS", 64) != 64:
        text += (
            "# Detectron2's own builder insists on RES2_OUT_CHANNELS 64 at this depth; a narrow\n"
            "# network has to be built by transfer/detectors/detectron2_engine.py.\n"
        )
    return text


DETECTRON2 = Target(
    name="detectron2",
    ending="_d2.pkl",
    suffixes=(".pkl", ".pth"),
    names=detectron2,
    layout=LAYOUT,
    refusal=no_small_stem,
    express=_express,
    understand=_understand,
    encode=_encode,
    decode=_decode,
    fragment=_fragment,
)
