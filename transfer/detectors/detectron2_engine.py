"""The Detectron2 engine, and the only module that imports Detectron2.

Detectron2 is optional: it has no wheel on PyPI. Here are its ResNets (for checks of converted files), the
settings that the engine supports, and its detector and solver, adapted to our samples and detections.
"""

import importlib
import importlib.util
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from msbreg.backbones.architectures import BLOCKS
from msbreg.checkpoints.convert.target import Features, Reading, Settings
from msbreg.run.config import flat
from msbreg.run.errors import UserError
from transfer.detectors.config.consistency import C4_HEADS, PYRAMID, RESNET, RULES, value_of
from transfer.detectors.config.defaults import DEFAULTS
from transfer.detectors.config.supported import LIMITED_NETWORK
from transfer.detectors.mapper import Sample
from transfer.detectors.rcnn.regions import Detections
from transfer.detectors.solver import Solver

# ---- Import, backbones and converted files


FEATURES = ("stem", "res2", "res3", "res4", "res5")
NORMS = {"BN": "", "FrozenBN": "num_batches_tracked"}
"""Norms to load files with -> ending of the names of tensors that the norm does not have."""
PARTS = ("config", "layers", "structures", "modeling", "solver", "checkpoint", "utils.events")
"""The modules of Detectron2 that are used here."""


def available() -> bool:
    """Whether Detectron2 is installed."""
    return importlib.util.find_spec("detectron2") is not None


@cache
def import_quietly() -> None:
    """Import Detectron2 without the deprecation warnings that it and fvcore cause in PyTorch.

    Raises:
        Exception: of any kind. A build for another PyTorch lacks symbols (ImportError, OSError); an old
            version uses names that newer Pillow or NumPy have removed (AttributeError).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in PARTS:
            importlib.import_module(f"detectron2.{name}")


def version() -> str:
    """Version of Detectron2, such as ``0.6``; raises what ``import_quietly`` raises."""
    import_quietly()
    import detectron2

    return detectron2.__version__


def configuration(settings: Settings, *, norm: str = "FrozenBN") -> Any:
    """Detectron2's config with the settings of a converted file, by dotted key."""
    import_quietly()
    from detectron2.config import get_cfg

    config = get_cfg()
    # Detectron2 requires 64 channels at depths 18 and 34; build_backbone handles other widths.
    config.merge_from_list([part for pair in settings.items() for part in pair])
    config.MODEL.RESNETS.NORM = norm
    config.MODEL.RESNETS.OUT_FEATURES = list(FEATURES)
    config.MODEL.BACKBONE.FREEZE_AT = 0
    return config


def build_backbone(settings: Settings, *, norm: str = "FrozenBN") -> nn.Module:
    """Detectron2's ResNet of any width: images (B, 3, H, W) -> stem and res2 to res5.

    ``build_resnet_backbone`` asserts RES2_OUT_CHANNELS 64 for basic blocks; narrow networks are assembled
    from the same parts.
    """
    import_quietly()
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.backbone import build_resnet_backbone

    config = configuration(settings, norm=norm)
    resnet = config.MODEL.RESNETS
    if resnet.STEM_OUT_CHANNELS == 64 or resnet.DEPTH >= 50:
        return build_resnet_backbone(config, ShapeSpec(channels=3))
    return narrow_resnet(config)


def narrow_resnet(config: Any) -> nn.Module:
    """A ResNet-18 or -34 of another width, from Detectron2's own parts."""
    from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, ResNet

    settings = config.MODEL.RESNETS
    width, norm = settings.STEM_OUT_CHANNELS, settings.NORM
    stem = BasicStem(3, width, norm)
    # Like build_resnet_backbone: unused stages are initialized too, which consumes random numbers.
    stages = [
        ResNet.make_stage(
            BasicBlock,
            blocks,
            in_channels=width * 2 ** max(stage - 1, 0),
            out_channels=width * 2**stage,
            stride_per_block=[1 if stage == 0 else 2] + [1] * (blocks - 1),
            norm=norm,
        )
        for stage, blocks in enumerate(BLOCKS[settings.DEPTH])
    ]
    return ResNet(
        stem,
        stages,
        out_features=list(settings.OUT_FEATURES),
        freeze_at=config.MODEL.BACKBONE.FREEZE_AT,
    )


def load(backbone: nn.Module, path: Path) -> tuple[str, ...]:
    """Load a file with DetectionCheckpointer, as a detector would; return the tensors that did not match."""
    import_quietly()
    from detectron2.checkpoint import DetectionCheckpointer

    class Checkpointer(DetectionCheckpointer):
        """Stores the incompatible keys, which Detectron2 only logs."""

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


def read(path: Path, settings: Settings, images: Tensor) -> list[Reading]:
    """Read a converted file into Detectron2's network, with trainable and with frozen BatchNorm."""
    return [_reading(path, settings, images, norm, ignored) for norm, ignored in NORMS.items()]


def _reading(path: Path, settings: Settings, images: Tensor, norm: str, ignored: str) -> Reading:
    config = configuration(settings, norm=norm)
    backbone = build_backbone(settings, norm=norm).eval()
    problems = load(backbone, path)
    loaded = dict(backbone.state_dict())

    @torch.no_grad()
    def features(dtype: torch.dtype) -> Features:
        """Features of images that are preprocessed as in ``GeneralizedRCNN``."""
        mean = torch.tensor(config.MODEL.PIXEL_MEAN, dtype=dtype).view(-1, 1, 1)
        std = torch.tensor(config.MODEL.PIXEL_STD, dtype=dtype).view(-1, 1, 1)
        ordered = images.flip(1) if config.INPUT.FORMAT == "BGR" else images
        return dict(backbone.to(dtype)((ordered.to(dtype) - mean) / std))

    return Reading(
        reader=f"detectron2 {version()}, {norm}",
        loaded=loaded,
        features=features,
        problems=tuple(p for p in problems if not (ignored and p.endswith(ignored))),
        ignored=ignored,
    )


# ---- Supported settings (Detectron2 itself checks most others when it builds a model)


REGRESSION_LOSSES = ("smooth_l1", "giou", "diou", "ciou")
POOLERS = ("ROIAlignV2", "ROIAlign", "ROIPool")

LIMITED: dict[str, tuple[Any, ...]] = {
    "MODEL.META_ARCHITECTURE": ("GeneralizedRCNN",),
    "MODEL.LOAD_PROPOSALS": (False,),
    "MODEL.PROPOSAL_GENERATOR.NAME": ("RPN",),
    "MODEL.ANCHOR_GENERATOR.NAME": ("DefaultAnchorGenerator",),
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": REGRESSION_LOSSES,
    "MODEL.ROI_HEADS.NAME": (*C4_HEADS, "StandardROIHeads", "CascadeROIHeads"),
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": POOLERS,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": REGRESSION_LOSSES,
    "MODEL.ROI_BOX_HEAD.USE_FED_LOSS": (False,),
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": POOLERS,
}
"""Settings that Detectron2 only reads while training, or that need data a Sample does not have (rotated
boxes, proposals, class frequencies) -> supported values. Sources: box_regression.py, poolers.py
and roi_heads/fast_rcnn.py in detectron2/modeling."""

LIMITED_IF_NARROW: dict[str, tuple[Any, ...]] = {
    "MODEL.BACKBONE.NAME": (RESNET, PYRAMID),
    "MODEL.RESNETS.NUM_GROUPS": (1,),
    "MODEL.RESNETS.RES5_DILATION": (1,),
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": ([False] * 4,),
}
"""The same for a ResNet-18 or -34 that is not 64 channels wide, which ``narrow_resnet`` builds. Detectron2's
own builder has the same limits at these depths (modeling/backbone/resnet.py)."""


def is_narrow(config: CfgNode) -> bool:
    """Whether Detectron2's builder, which requires 64 channels for basic blocks, cannot build it."""
    return config.MODEL.RESNETS.DEPTH in (18, 34) and config.MODEL.RESNETS.STEM_OUT_CHANNELS != 64


def check(config: CfgNode) -> None:
    """Check for settings that Detectron2 would ignore, or fail on during training.

    Raises:
        UserError: the message lists each such setting with the supported values.
    """
    limits, resnet = dict(LIMITED), config.MODEL.RESNETS
    if is_narrow(config):
        limits |= LIMITED_IF_NARROW
        limits["MODEL.RESNETS.RES2_OUT_CHANNELS"] = (resnet.STEM_OUT_CHANNELS,)
    if config.MODEL.ROI_HEADS.NAME in C4_HEADS:  # their res5 takes the channels of res4
        limits["MODEL.ROI_HEADS.IN_FEATURES"] = (["res4"],)
    if problems := _unsupported_values(config, limits):
        raise UserError(
            "settings that the detectron2 engine does not support:\n  " + "\n  ".join(problems)
        )


def unusual_settings(config: CfgNode) -> str:
    """Lines that list each unusual setting, to follow an error of Detectron2 that may not name the key."""
    lines = _unsupported_values(config, LIMITED_NETWORK) or [
        line for rule in RULES for line in rule(config)
    ]
    return "\n  ".join(["\nPossible causes:", *lines]) if lines else ""


def _unsupported_values(config: CfgNode, limits: Mapping[str, tuple[Any, ...]]) -> list[str]:
    return [
        f"{key} is {value_of(config, key)!r}; expected {' or '.join(map(repr, allowed))}"
        for key, allowed in limits.items()
        if value_of(config, key) not in allowed
    ]


# ---- Detector and solver


__all__ = [
    "available",
    "build_backbone",
    "build_detector",
    "build_solver",
    "describe_error",
    "load",
    "read",
    "version",
]


def build_detector(config: CfgNode) -> nn.Module:
    """Build Detectron2's model on the CPU: samples -> losses in training mode, Detections in eval mode.

    Raises:
        UserError: a setting is not supported, or Detectron2 cannot build the model.
    """
    check(config)
    theirs = _detectron2_config(config)
    try:
        _register()
        detector: Any = _detector_type()(theirs)
    except (
        Exception
    ) as error:  # asserts, registries, layers and extensions raise all kinds of errors
        advice = unusual_settings(config) or "\nUpdate Detectron2, or give --engine torchvision."
        raise UserError(
            f"Detectron2 {version()} cannot build this detector: {describe_error(error)}{advice}"
        ) from error
    detector.deformable = any(config.MODEL.RESNETS.DEFORM_ON_PER_STAGE)
    return detector


def describe_error(error: Exception) -> str:
    """Type and message of an error; the message alone may be a single name."""
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def build_solver(config: CfgNode, model: nn.Module) -> Solver:
    """Detectron2's optimizer and scheduler; the optimizer clips the gradients."""
    from detectron2.solver import build_lr_scheduler, build_optimizer

    theirs = _detectron2_config(config)
    optimizer = build_optimizer(theirs, model)
    scheduler = build_lr_scheduler(theirs, optimizer)

    def rates(iteration: int) -> list[float]:
        scheduler.last_epoch = iteration  # what the base class calls an epoch is an iteration
        return scheduler.get_lr()

    return Solver(optimizer, rates)


def _detectron2_config(config: CfgNode) -> Any:
    """Convert our config to Detectron2's."""
    import_quietly()
    from detectron2.config import get_cfg

    theirs = get_cfg()
    _merge(theirs, flat(config))
    theirs.MODEL.DEVICE = "cpu"
    if is_narrow(config):  # registered by _register
        theirs.MODEL.BACKBONE.NAME = f"narrow_{theirs.MODEL.BACKBONE.NAME}"
    return theirs


def _merge(theirs: Any, settings: Mapping[str, Any]) -> None:
    """Merge settings into a Detectron2 config; keys that an older Detectron2 lacks are skipped if default.

    Raises:
        UserError: this Detectron2 lacks a key that is not at its default, or expects another type.
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
            except ValueError as error:  # from yacs: the types do not match
                raise UserError(
                    f"{key} is {value!r}; the Detectron2 {version()} installed here expects "
                    f"{type(known[key]).__name__}, such as {known[key]!r}"
                ) from error


@cache
def _register() -> None:
    """Register what cards use and Detectron2 lacks: MoCo's head and narrow backbones."""
    from detectron2.layers import get_norm
    from detectron2.modeling.backbone import BACKBONE_REGISTRY, FPN
    from detectron2.modeling.backbone.fpn import LastLevelMaxPool
    from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, Res5ROIHeads

    class Res5ROIHeadsExtraNorm(Res5ROIHeads):
        """Res5ROIHeads with an extra norm after res5 (MoCo, detection/train_net.py)."""

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
    """GeneralizedRCNN that takes our samples and returns our detections, with the same parameter names."""
    from detectron2.modeling import GeneralizedRCNN
    from detectron2.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks
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
        if sample.keypoints is not None:
            instances.gt_keypoints = Keypoints(sample.keypoints)
        return instances

    class Detector(GeneralizedRCNN):
        deformable: bool

        def forward(self, samples: list[Sample]) -> Any:
            if self.deformable and self.device.type == "cpu":
                raise UserError(
                    "MODEL.RESNETS.DEFORM_ON_PER_STAGE is True for a stage, but Detectron2's deformable "
                    "convolutions do not run on the CPU; give --device cuda, or set it to False"
                )
            given = [
                {"image": s.image, "height": s.height, "width": s.width}
                | ({"instances": targets(s)} if self.training else {})
                for s in samples
            ]
            # The heads log to an event storage, which is discarded; the anchors call meshgrid, which warns.
            with EventStorage(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "torch.meshgrid: in an upcoming release")
                out = super().forward(given)
                return out if self.training else [detections(found["instances"]) for found in out]

    def detections(found: Any) -> Detections:
        masks = found.pred_masks if found.has("pred_masks") else None
        points = found.pred_keypoints if found.has("pred_keypoints") else None
        return Detections(found.pred_boxes.tensor, found.scores, found.pred_classes, masks, points)

    return Detector
