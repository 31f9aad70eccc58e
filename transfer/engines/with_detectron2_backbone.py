"""Detectron2's import, which is optional (no wheel of it is on PyPI), its ResNets, and files read by it."""

import importlib
import importlib.util
import warnings
from collections import OrderedDict
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from msbreg.export.target import Reading, Words

FEATURES = ("stem", "res2", "res3", "res4", "res5")
NORMS = {"BN": "", "FrozenBN": "num_batches_tracked"}
"""Norms that files are read with -> ending of the tensors for which the norm has no place."""
PARTS = ("config", "layers", "structures", "modeling", "solver", "checkpoint", "utils.events")
"""Of Detectron2, all that is used here and in with_detectron2.py."""


def available() -> bool:
    """Whether Detectron2 can be imported."""
    return importlib.util.find_spec("detectron2") is not None


@cache
def import_quietly() -> None:
    """Once before other imports of it: fvcore and Detectron2 use what PyTorch calls deprecated.

    Raises:
        Exception: any. One built for another PyTorch lacks symbols (ImportError, OSError); an old one
            asks newer Pillow or NumPy for names that are gone (AttributeError).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in PARTS:
            importlib.import_module(f"detectron2.{name}")


def version() -> str:
    """Such as ``0.6``; raises what import_quietly raises."""
    import_quietly()
    import detectron2

    return detectron2.__version__


def configuration(words: Words, *, norm: str = "FrozenBN") -> Any:
    """Detectron2's config with the settings of a converted file, by dotted key."""
    import_quietly()
    from detectron2.config import get_cfg

    config = get_cfg()
    # Its own check wants 64 channels at depths 18 and 34, so build_backbone sets others by hand.
    config.merge_from_list([part for pair in words.items() for part in pair])
    config.MODEL.RESNETS.NORM = norm
    config.MODEL.RESNETS.OUT_FEATURES = list(FEATURES)
    config.MODEL.BACKBONE.FREEZE_AT = 0
    return config


def build_backbone(words: Words, *, norm: str = "FrozenBN") -> nn.Module:
    """Detectron2's ResNet, of any width: images (B, 3, H, W) -> stem and res2 to res5.

    ``build_resnet_backbone`` asserts RES2_OUT_CHANNELS 64 for basic blocks; a narrow network is put
    together from the same parts.
    """
    import_quietly()
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.backbone import build_resnet_backbone

    config = configuration(words, norm=norm)
    settings = config.MODEL.RESNETS
    if settings.STEM_OUT_CHANNELS == 64:
        return build_resnet_backbone(config, ShapeSpec(channels=3))
    return narrow_resnet(config)


def narrow_resnet(config: Any) -> nn.Module:
    """A ResNet-18 or -34 of another width, from Detectron2's own parts."""
    from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, ResNet

    settings = config.MODEL.RESNETS
    width, norm = settings.STEM_OUT_CHANNELS, settings.NORM
    stem = BasicStem(3, width, norm)
    # All four, as build_resnet_backbone does: those that are not used are drawn, then dropped.
    stages = [
        ResNet.make_stage(
            BasicBlock,
            blocks,
            in_channels=width * 2 ** max(stage - 1, 0),
            out_channels=width * 2**stage,
            stride_per_block=[1 if stage == 0 else 2] + [1] * (blocks - 1),
            norm=norm,
        )
        for stage, blocks in enumerate({18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}[settings.DEPTH])
    ]
    return ResNet(
        stem,
        stages,
        out_features=list(settings.OUT_FEATURES),
        freeze_at=config.MODEL.BACKBONE.FREEZE_AT,
    )


def load(backbone: nn.Module, path: Path) -> tuple[str, ...]:
    """Load a file as a detector would, by DetectionCheckpointer; returns what it could not place."""
    import_quietly()
    from detectron2.checkpoint import DetectionCheckpointer

    class Checkpointer(DetectionCheckpointer):
        """Keeps what Detectron2 only logs."""

        def _log_incompatible_keys(self, incompatible: Any) -> None:
            self.found = incompatible

    checkpointer = Checkpointer(nn.Sequential(OrderedDict(backbone=backbone)))
    checkpointer.load(str(path))
    found = checkpointer.found
    return (
        *(f"not found in the checkpoint: {name}" for name in found.missing_keys),
        *(f"unexpected: {name}" for name in found.unexpected_keys),
        *(f"wrong shape: {name}" for name, *_ in found.incorrect_shapes),
    )


def read(path: Path, words: Words, batches: list[Tensor]) -> list[Reading]:
    """A converted file in Detectron2's own network, with trainable and with frozen BatchNorm.

    Pixels are prepared as ``GeneralizedRCNN`` does: the order of FORMAT, then (x - mean) / std.
    """
    readings = []
    for norm, passed_over in NORMS.items():
        config = configuration(words, norm=norm)
        backbone = build_backbone(words, norm=norm).eval()
        problems = load(backbone, path)
        mean = torch.tensor(config.MODEL.PIXEL_MEAN).view(-1, 1, 1)
        std = torch.tensor(config.MODEL.PIXEL_STD).view(-1, 1, 1)
        features = []
        for images in batches:
            ordered = images.flip(1) if config.INPUT.FORMAT == "BGR" else images
            with torch.no_grad():
                features.append(backbone((ordered - mean) / std))
        readings.append(
            Reading(
                reader=f"detectron2 {version()}, {norm}",
                loaded=dict(backbone.state_dict()),
                features=features,
                problems=tuple(
                    p for p in problems if not (passed_over and p.endswith(passed_over))
                ),
                passed_over=passed_over,
            )
        )
    return readings
