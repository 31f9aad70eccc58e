"""The one door to Detectron2: its detector and solver, fed with our samples, giving our detections."""

import warnings
from collections.abc import Mapping
from functools import cache
from typing import Any

from fvcore.common.config import CfgNode
from torch import nn

from msbreg.config import flat
from msbreg.errors import UserError
from transfer.engines.defaults import DEFAULTS
from transfer.engines.rcnn.regions import Detections
from transfer.engines.train_loop import Solver
from transfer.engines.with_detectron2_backbone import (
    available,
    build_backbone,
    import_quietly,
    load,
    narrow_resnet,
    read,
    version,
)
from transfer.engines.with_detectron2_limits import check, is_narrow, suspects
from transfer.scenes.sample import Sample

__all__ = [
    "available",
    "build_backbone",
    "build_detector",
    "build_solver",
    "load",
    "read",
    "said",
    "version",
]


def build_detector(config: CfgNode) -> nn.Module:
    """Detectron2's model of a config, on the CPU: samples -> losses, or -> Detections.

    Raises:
        UserError: the config asks for what a Sample cannot hold, or Detectron2 cannot build it.
    """
    check(config)
    theirs = _theirs(config)
    try:
        _register()
        detector: Any = _detector_type()(theirs)
    except Exception as error:  # its asserts, registries, layers and extensions raise of every kind
        advice = suspects(config) or "\nUpdate Detectron2, or give --engine torchvision."
        raise UserError(
            f"Detectron2 {version()} cannot build this detector: {said(error)}{advice}"
        ) from error
    detector.deformable = any(config.MODEL.RESNETS.DEFORM_ON_PER_STAGE)
    return detector


def said(error: Exception) -> str:
    """An error of Detectron2's with its kind, since the words alone can be as short as a name."""
    return f"{type(error).__name__}: {error}".removesuffix(": ")


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


def _theirs(config: CfgNode) -> Any:
    """The same settings as Detectron2's config."""
    import_quietly()
    from detectron2.config import get_cfg

    theirs = get_cfg()
    _merge(theirs, flat(config))
    theirs.MODEL.DEVICE = "cpu"
    if is_narrow(config):  # the name is looked up in Detectron2's registry
        theirs.MODEL.BACKBONE.NAME = f"narrow_{theirs.MODEL.BACKBONE.NAME}"
    return theirs


def _merge(theirs: Any, settings: Mapping[str, Any]) -> None:
    """Set what a Detectron2 knows; an older one does not need the default of a key that came later.

    Raises:
        UserError: a key that it lacks, or of which it wants another type, is not at its default.
    """
    known = flat(theirs)
    for key, value in settings.items():
        if key not in known and value != DEFAULTS[key]:
            raise UserError(
                f"{key} is {value!r}, but the Detectron2 {version()} installed here has no such "
                "setting.\nUpdate Detectron2, or give --engine torchvision."
            )
        if key in known:
            try:
                theirs.merge_from_list([key, value])
            except ValueError as error:  # yacs's, of two types that do not stand for each other
                raise UserError(
                    f"{key} is {value!r}; the Detectron2 {version()} installed here expects "
                    f"{type(known[key]).__name__}, such as {known[key]!r}"
                ) from error


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
        return narrow_resnet(cfg)

    def narrow_build_resnet_fpn_backbone(cfg: Any, input_shape: Any) -> nn.Module:
        return FPN(
            bottom_up=narrow_resnet(cfg),
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
        deformable: bool

        def forward(self, samples: list[Sample]) -> Any:
            if self.deformable and self.device.type == "cpu":
                raise UserError(
                    "MODEL.RESNETS.DEFORM_ON_PER_STAGE is not False for each stage, and Detectron2's "
                    "deformable convolutions are not for the CPU; give --device cuda, or False"
                )
            given = [
                {"image": s.image, "height": s.height, "width": s.width}
                | ({"instances": targets(s)} if self.training else {})
                for s in samples
            ]
            # Its heads count into a storage that nobody reads, and its anchors warn of their meshgrid.
            with EventStorage(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "torch.meshgrid: in an upcoming release")
                out = super().forward(given)
                return out if self.training else [detections(found["instances"]) for found in out]

    def detections(found: Any) -> Detections:
        masks = found.pred_masks if found.has("pred_masks") else None
        return Detections(found.pred_boxes.tensor, found.scores, found.pred_classes, masks)

    return Detector
