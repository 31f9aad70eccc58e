"""Backbones to start a detector from, and whether they are the ones that its yaml describes.

A yaml states what no file of weights shows: the order and normalisation of the input, the place of
the stride. Here the two are compared, so that a detector is not trained on what its backbone never saw.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from msbreg.backbones import BACKBONES, ResNet, build_backbone
from msbreg.checkpoint import Provenance, load_backbone, random_backbone
from msbreg.errors import UserError
from msbreg.export.settings import Settings, settings_of
from msbreg.export.target import no_small_stem
from msbreg.formats.names import detectron2, to_dialect
from msbreg.transforms import IMAGENET


@dataclass(frozen=True)
class Start:
    """Weights of a backbone, in Detectron2's names, and where they are from."""

    state: dict[str, Tensor]
    provenance: Provenance


def backbone_of_file(
    path: Path,
    config: CfgNode,
    *,
    encoder: str | None = None,
    family: str | None = None,
    trust_pickle: bool = False,
) -> Start:
    """The backbone of any checkpoint of ``msbreg.checkpoint.load_backbone``.

    Raises:
        UserError: the file cannot be read, or the yaml describes another backbone or another input.
    """
    backbone, provenance = load_backbone(
        path, encoder=encoder, family=family, trust_pickle=trust_pickle
    )
    settings = settings_of(
        backbone,
        provenance.arch,
        provenance.normalisation,
        provenance.stride,
        provenance.image_size,
    )
    check_backbone(config, settings, str(path))
    return Start(_in_detectron2s_names(backbone), provenance)


def untrained(config: CfgNode, *, seed: int) -> Start:
    """The backbone of the yaml as initialised by the seed: what every score has to beat.

    Raises:
        UserError: no backbone of BACKBONES is the yaml's.
    """
    resnets = config.MODEL.RESNETS
    for arch in BACKBONES:
        with torch.device("meta"):
            settings = settings_of(build_backbone(arch), arch, IMAGENET, "3x3", 0)
        same = (settings.depth, settings.width) == (resnets.DEPTH, resnets.STEM_OUT_CHANNELS)
        if same and settings.stem == "imagenet":
            backbone, provenance = random_backbone(arch, seed=seed)
            return Start(_in_detectron2s_names(backbone), provenance)
    raise UserError(
        f"--checkpoint random: no backbone of depth {resnets.DEPTH} with STEM_OUT_CHANNELS "
        f"{resnets.STEM_OUT_CHANNELS} is among {', '.join(BACKBONES)}"
    )


def check_backbone(config: CfgNode, settings: Settings, source: str) -> None:
    """That the yaml builds this backbone and feeds it as it was trained.

    Raises:
        UserError: it does not; the message has the KEY VALUE pairs that do.
    """
    if reason := no_small_stem(settings):
        raise UserError(
            f"{source} holds {settings.arch}, which no detector here is built on: {reason}.\n"
            "Pre-train with --arch resnet18-narrow (or resnet18, resnet50) instead."
        )
    wrong = {
        key: value for key, value in _wanted(settings).items() if not _same(config, key, value)
    }
    if wrong:
        lines = [f"  {key} is {_value(config, key)!r} there" for key in wrong]
        pairs = " ".join(f'{key} "{value}"' for key, value in wrong.items())
        raise UserError(
            f"{source} holds {settings.arch}, trained on {settings.channels} input of its own mean "
            "and deviation; the yaml says otherwise:\n" + "\n".join(lines) + f"\nGive: {pairs}"
        )


def _wanted(settings: Settings) -> dict[str, Any]:
    """Keys of the yaml that the backbone decides."""
    wanted: dict[str, Any] = {
        "INPUT.FORMAT": settings.channels,
        "MODEL.PIXEL_MEAN": [round(value, 3) for value in settings.pixel_mean],
        "MODEL.PIXEL_STD": [round(value, 3) for value in settings.pixel_std],
        "MODEL.RESNETS.DEPTH": settings.depth,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": settings.width,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": settings.width * (4 if settings.bottleneck else 1),
    }
    if settings.bottleneck:  # basic blocks have no 1x1 convolution to put it in
        wanted["MODEL.RESNETS.STRIDE_IN_1X1"] = settings.stride_in_1x1
    return wanted


def _value(config: CfgNode, key: str) -> Any:
    node: Any = config
    for name in key.split("."):
        node = node[name]
    return node


def _same(config: CfgNode, key: str, value: Any) -> bool:
    given = _value(config, key)
    if not isinstance(value, list):
        return given == value
    # In grey levels: the third decimal is where the yamls of the field round.
    return len(given) == len(value) and all(
        math.isclose(a, b, abs_tol=0.01) for a, b in zip(given, value, strict=True)
    )


def _in_detectron2s_names(backbone: ResNet) -> dict[str, Tensor]:
    return to_dialect(backbone.state_dict(), detectron2)
