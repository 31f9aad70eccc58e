"""The one door to Detectron2, which is optional: no wheel of it is on PyPI."""

import importlib
import importlib.util
import warnings
from collections import OrderedDict
from functools import cache
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from msbreg.config import flat
from msbreg.errors import UserError
from msbreg.export.target import Reading, Words
from transfer.engines.rcnn.regions import Detections
from transfer.engines.train_loop import Solver
from transfer.scenes.sample import Sample

FEATURES = ("stem", "res2", "res3", "res4", "res5")
NORMS = {"BN": "", "FrozenBN": "num_batches_tracked"}
"""Norms that files are read with -> ending of the tensors for which the norm has no place."""


def available() -> bool:
    """Whether Detectron2 can be imported."""
    return importlib.util.find_spec("detectron2") is not None


@cache
def _import_quietly() -> None:
    """Once before the imports below: fvcore and Detectron2 use what PyTorch calls deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("config", "layers", "modeling", "solver", "checkpoint"):
            importlib.import_module(f"detectron2.{name}")


def version() -> str:
    """Such as ``0.6``."""
    _import_quietly()
    import detectron2

    return detectron2.__version__


def configuration(words: Words, *, norm: str = "FrozenBN") -> Any:
    """Detectron2's config with the settings of a converted file, by dotted key."""
    _import_quietly()
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
    _import_quietly()
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.backbone import build_resnet_backbone

    config = configuration(words, norm=norm)
    settings = config.MODEL.RESNETS
    if settings.STEM_OUT_CHANNELS == 64:
        return build_resnet_backbone(config, ShapeSpec(channels=3))
    return _narrow_resnet(config)


def _narrow_resnet(config: Any) -> nn.Module:
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
    _import_quietly()
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


# ---- The engine: Detectron2's detector and solver, fed with our samples, giving our detections.


def build_detector(config: CfgNode) -> nn.Module:
    """Detectron2's model of a config, on the CPU: samples -> losses, or -> Detections.

    Raises:
        UserError: the config asks for what a Sample cannot hold, or Detectron2 cannot build it.
    """
    _check(config)
    detector_type = _detector_type()
    theirs = _theirs(config)
    try:
        return detector_type(theirs)
    except (AssertionError, KeyError, ValueError) as error:
        raise UserError(
            f"Detectron2 {version()} cannot build this detector: {error or type(error).__name__}"
        ) from error


def build_solver(config: CfgNode, model: nn.Module) -> Solver:
    """Detectron2's own optimizer and scheduler; clipping is the optimizer's."""
    from detectron2.solver import build_lr_scheduler, build_optimizer

    theirs = _theirs(config)
    optimizer = build_optimizer(theirs, model)
    scheduler = build_lr_scheduler(theirs, optimizer)

    def rates(iteration: int) -> list[float]:
        scheduler.last_epoch = iteration  # an epoch of its base class is an iteration
        return scheduler.get_lr()

    return Solver(optimizer, rates)


def _check(config: CfgNode) -> None:
    wanted = {
        "MODEL.META_ARCHITECTURE": (config.MODEL.META_ARCHITECTURE, "GeneralizedRCNN"),
        "MODEL.KEYPOINT_ON": (config.MODEL.KEYPOINT_ON, False),
        "MODEL.LOAD_PROPOSALS": (config.MODEL.LOAD_PROPOSALS, False),
    }
    for key, (given, known) in wanted.items():
        if given != known:
            raise UserError(f"{key} is {given!r}; expected {known!r} (others are not implemented)")


def _theirs(config: CfgNode) -> Any:
    """The same settings as Detectron2's config."""
    _import_quietly()
    from detectron2.config import get_cfg

    _register()
    theirs = get_cfg()
    settings = flat(config)
    theirs.merge_from_list([part for pair in settings.items() for part in pair])
    theirs.MODEL.DEVICE = "cpu"
    narrow = theirs.MODEL.RESNETS.DEPTH < 50 and theirs.MODEL.RESNETS.STEM_OUT_CHANNELS != 64
    if narrow:  # Detectron2's own builder wants 64 channels; the name is looked up in its registry
        theirs.MODEL.BACKBONE.NAME = f"narrow_{theirs.MODEL.BACKBONE.NAME}"
    return theirs


@cache
def _register() -> None:
    """What cards name and Detectron2 lacks: MoCo's head, and narrow backbones."""
    from detectron2.layers import get_norm
    from detectron2.modeling.backbone import BACKBONE_REGISTRY, FPN
    from detectron2.modeling.backbone.fpn import LastLevelMaxPool
    from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, Res5ROIHeads

    class Res5ROIHeadsExtraNorm(Res5ROIHeads):
        """One more norm behind res5 (MoCo, detection/train_net.py)."""

        @classmethod
        def _build_res5_block(cls, cfg: Any) -> tuple[nn.Sequential, int]:
            res5, channels = super()._build_res5_block(cfg)
            res5.add_module("norm", get_norm(cfg.MODEL.RESNETS.NORM, channels))
            return res5, channels

    def narrow_build_resnet_backbone(cfg: Any, input_shape: Any) -> nn.Module:
        return _narrow_resnet(cfg)

    def narrow_build_resnet_fpn_backbone(cfg: Any, input_shape: Any) -> nn.Module:
        return FPN(
            bottom_up=_narrow_resnet(cfg),
            in_features=cfg.MODEL.FPN.IN_FEATURES,
            out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
            norm=cfg.MODEL.FPN.NORM,
            top_block=LastLevelMaxPool(),
            fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
        )

    ROI_HEADS_REGISTRY.register(Res5ROIHeadsExtraNorm)
    BACKBONE_REGISTRY.register(narrow_build_resnet_backbone)
    BACKBONE_REGISTRY.register(narrow_build_resnet_fpn_backbone)


@cache
def _detector_type() -> type[nn.Module]:
    """Its meta architecture with our samples in and our detections out; the names stay its own."""
    _import_quietly()
    from detectron2.modeling import GeneralizedRCNN
    from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
    from detectron2.utils.events import EventStorage

    def targets(sample: Sample) -> Any:
        assert sample.boxes is not None
        instances = Instances(tuple(sample.image.shape[1:]))
        instances.gt_boxes = Boxes(sample.boxes)
        instances.gt_classes = sample.labels
        if sample.polygons is not None:
            instances.gt_masks = PolygonMasks([list(rings) for rings in sample.polygons])
        if sample.bitmasks is not None:
            instances.gt_masks = BitMasks(sample.bitmasks)
        return instances

    class Detector(GeneralizedRCNN):
        def forward(self, samples: list[Sample]) -> Any:
            given = [
                {"image": s.image, "height": s.height, "width": s.width}
                | ({"instances": targets(s)} if self.training else {})
                for s in samples
            ]
            # Its heads count into a storage that nobody reads, and its anchors warn of their meshgrid.
            with EventStorage(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "torch.meshgrid: in an upcoming release")
                if self.training:
                    return super().forward(given)
                return [detections(out["instances"]) for out in super().forward(given)]

    def detections(found: Any) -> Detections:
        masks = found.pred_masks if found.has("pred_masks") else None
        return Detections(found.pred_boxes.tensor, found.scores, found.pred_classes, masks)

    return Detector
