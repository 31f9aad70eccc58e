"""Initial weights of a detector: a backbone checkpoint, its untrained twin, or a whole detector.

The yaml states what weights alone do not show: the channel order and normalization of the input, and
which convolution of a bottleneck has the stride. Both are compared with the checkpoint's spec, so that a
detector is not trained on inputs that its backbone has never seen.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode
from torch import Tensor, nn

from msbreg.backbones.architectures import Architecture, name_of
from msbreg.backbones.spec import BackboneSpec, Provenance, of_gray_levels
from msbreg.backbones.twin import random_backbone
from msbreg.checkpoints.convert.target import no_small_stem
from msbreg.checkpoints.layouts.names import detectron2, to_dialect
from msbreg.checkpoints.load import file_sha256, load_resnet
from msbreg.checkpoints.read import read_file
from msbreg.run.config import flat, plain
from msbreg.run.errors import UserError
from msbreg.run.job import Job, log
from transfer.detectors.detection_config import Config
from transfer.detectors.detector_training import KIND
from transfer.detectors.rcnn.weights import Loaded, is_detector, place_backbone, place_detector

# ---- Backbones


@dataclass(frozen=True)
class Start:
    """Weights of a backbone under Detectron2's names, and their provenance."""

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
    """The backbone in any checkpoint that ``msbreg.load_backbone`` reads.

    Raises:
        UserError: the file cannot be read, or the yaml describes another backbone or another input.
    """
    backbone, provenance = load_resnet(
        path, encoder=encoder, family=family, trust_pickle=trust_pickle
    )
    check_backbone(config, provenance.spec, str(path))
    return Start(_in_detectron2s_names(backbone), provenance)


def untrained(config: CfgNode, *, seed: int) -> Start:
    """The yaml's backbone with the initial weights of a seed: the baseline of every score.

    Raises:
        UserError: the yaml's backbone is not a known architecture.
    """
    try:
        spec = spec_of_yaml(config)
    except UserError as error:
        raise UserError(f"--checkpoint random: {error}") from error
    backbone, provenance = random_backbone(spec, seed=seed)
    return Start(_in_detectron2s_names(backbone), provenance)


def spec_of_yaml(config: CfgNode) -> BackboneSpec:
    """The backbone that MODEL.RESNETS and the yaml's input describe.

    Raises:
        UserError: it is not a known architecture; the message lists the keys that differ.
    """
    resnets = config.MODEL.RESNETS
    width = resnets.STEM_OUT_CHANNELS
    inner = resnets.WIDTH_PER_GROUP // width if resnets.DEPTH >= 50 else 1
    spec = BackboneSpec(
        name_of(Architecture(resnets.DEPTH, width, inner)),
        of_gray_levels(config.MODEL.PIXEL_MEAN, config.MODEL.PIXEL_STD, config.INPUT.FORMAT),
        resnets.STRIDE_IN_1X1,
    )
    check_backbone(config, spec, "the yaml")
    return spec


def check_backbone(config: CfgNode, spec: BackboneSpec, source: str) -> None:
    """Check that the yaml builds this backbone and feeds it the input it was trained on.

    Raises:
        UserError: it does not; the message lists the KEY VALUE pairs to change.
    """
    if reason := no_small_stem(spec):
        raise UserError(
            f"{source} contains a {spec.arch}, which detectors do not support: {reason}.\n"
            "Pre-train with --arch resnet18-narrow (or resnet18, resnet50) instead."
        )
    if wrong := settings_of_backbone(config, spec):
        lines = [f"  {key} is {_value(config, key)!r}" for key in wrong]
        pairs = " ".join(f'{key} "{value}"' for key, value in wrong.items())
        raise UserError(
            f"{source} contains a {spec.arch} with {spec.normalization.channels} input, but the yaml "
            "differs:\n" + "\n".join(lines) + f"\nGive: {pairs}"
        )


def settings_of_backbone(config: CfgNode, spec: BackboneSpec) -> dict[str, Any]:
    """The keys of the yaml that must change for this backbone and its input, with their values."""
    return {key: value for key, value in _wanted(spec).items() if not _same(config, key, value)}


def _wanted(spec: BackboneSpec) -> dict[str, Any]:
    """Keys of the yaml that the backbone determines."""
    a, normalization = spec.architecture, spec.normalization
    wanted: dict[str, Any] = {
        "INPUT.FORMAT": normalization.channels,
        "MODEL.PIXEL_MEAN": [round(value, 3) for value in normalization.pixel_mean],
        "MODEL.PIXEL_STD": [round(value, 3) for value in normalization.pixel_std],
        "MODEL.RESNETS.DEPTH": a.depth,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": a.width,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": a.channels["c2"],
    }
    if a.bottleneck:  # basic blocks have neither an inner width nor a 1x1 convolution
        wanted["MODEL.RESNETS.WIDTH_PER_GROUP"] = a.width * a.inner
        wanted["MODEL.RESNETS.STRIDE_IN_1X1"] = spec.stride_in_1x1
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
    # In gray levels; published yamls round to three decimals.
    return len(given) == len(value) and all(
        math.isclose(a, b, abs_tol=0.01) for a, b in zip(given, value, strict=True)
    )


def _in_detectron2s_names(backbone: nn.Module) -> dict[str, Tensor]:
    return to_dialect(backbone.state_dict(), detectron2)


# ---- Whole detectors, compared with the yaml and the data


WITHOUT_EFFECT = (
    *("MODEL.WEIGHTS", "MODEL.DEVICE", "MODEL.BACKBONE.FREEZE_AT"),
    *("*.NORM", "*_TRAIN", "*.BATCH_SIZE_PER_IMAGE", "*.POSITIVE_FRACTION", "*.IOU_THRESHOLDS"),
    *("*.IOU_LABELS", "*.SMOOTH_L1_BETA", "*.BBOX_REG_LOSS_TYPE", "*LOSS_WEIGHT"),
    *("*.BOUNDARY_THRESH", "*.PROPOSAL_APPEND_GT", "*.TRAIN_ON_PRED_BOXES"),
)
"""Keys of MODEL that do not affect an evaluation (a different norm has different tensors)."""
CHOSEN_AT_TEST = ("*_TEST", "*.NMS_THRESH")
"""Keys of MODEL that choose how to evaluate: they may differ, and are in the record."""


@dataclass(frozen=True)
class WholeDetector:
    """What a file says about the detector in it.

    Attributes:
        provenance: for the record.
        classes: the classes it was trained on; None if the file does not state them.
        settings: MODEL and INPUT.FORMAT by dotted key; None if the file does not state them.
    """

    provenance: dict[str, Any]
    classes: Sequence[str] | None
    settings: Mapping[str, Any] | None

    def check(self, config: CfgNode, classes: Sequence[str], *, eval_only: bool) -> list[str]:
        """Compare the detector with the yaml and the data.

        Returns:
            Warnings, as predicates: the caller puts the name of the file first.

        Raises:
            UserError: it would be evaluated with other classes, another network or other pixels than it was
                trained with.
        """
        found = self._other_settings(config) + self._other_classes(classes)
        if found and eval_only and self.classes is not None:
            raise UserError(f"{self.provenance['source']} " + "\nand ".join(found))
        if not eval_only:
            found.append("is a whole detector; training continues for another full schedule")
        return found

    def _other_settings(self, config: CfgNode) -> list[str]:
        if self.settings is None:
            return []
        now = model_settings(config)
        wrong = {
            key: value
            for key, value in self.settings.items()
            if key in now and now[key] != value and not _free(key)
        }
        if not wrong:
            return []
        lines = [f"  {key} was {value!r}, now it is {now[key]!r}" for key, value in wrong.items()]
        pairs = " ".join(f'{key} "{value}"' for key, value in wrong.items())
        return ["was trained with other settings:\n" + "\n".join(lines) + f"\nGive: {pairs}"]

    def _other_classes(self, classes: Sequence[str]) -> list[str]:
        if self.classes is None:
            return [f"does not state its classes; assuming {_some(classes)}, in this order"]
        if list(self.classes) == list(classes):
            return []
        return [
            f"was trained on the classes {_some(self.classes)}; the data set has {_some(classes)}; "
            "expected the same, in the same order.\n"
            "A folder in VOC layout can list them in classes.txt, one per line."
        ]


def model_settings(config: CfgNode) -> dict[str, Any]:
    """MODEL and INPUT.FORMAT by dotted key, as JSON values."""
    keys = plain(flat(config))
    return {k: v for k, v in keys.items() if k.startswith("MODEL.") or k == "INPUT.FORMAT"}


def whole_detector(
    path: Path, model: nn.Module, config: CfgNode, trust_pickle: bool
) -> WholeDetector | None:
    """Load a detector saved by this script or by Detectron2; None if the file is not a detector.

    Raises:
        UserError: the file cannot be read, or the detector in it has other tensors.
    """
    file = read_file(path, trust_pickle=trust_pickle)
    content = file.content if isinstance(file.content, dict) else {}
    state = content.get("model", content)
    if not isinstance(state, dict) or not is_detector(state):
        return None
    loaded = place_detector(model, config, state, path)
    of_file = {"source": str(path), "sha256": file.sha256, "loaded": counts(loaded)}
    if content.get("kind") != KIND:
        provenance = {
            "name": path.stem,
            "encoder": "whole detector",
            "arch": f"resnet{config.MODEL.RESNETS.DEPTH}",
            "details": {},
            "family": "detector of Detectron2",
        }
        return WholeDetector(provenance | of_file, None, None)
    about = content["about"]
    provenance = about["network"] | {
        "iteration": content["iteration"],
        "family": "detector of this suite",
    }
    trained = {k: v for k, v in about["yaml"].items() if k in model_settings(config)}
    return WholeDetector(provenance | of_file, about["data"]["train"]["classes"], trained)


def counts(loaded: Loaded) -> dict[str, Any]:
    """Numbers of tensors that were loaded, left as initialized and left out, the latter two by reason."""
    grouped = {"fresh": loaded.fresh, "left_out": loaded.left_out}
    numbers = {name: {why: len(v) for why, v in group.items()} for name, group in grouped.items()}
    return {"taken": loaded.taken, **numbers}


def _free(key: str) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in WITHOUT_EFFECT + CHOSEN_AT_TEST)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")


# ---- Loading the initial weights


def start_detector(
    model: nn.Module, config: CfgNode, options: Config, classes: Sequence[str], job: Job
) -> None:
    """Load the initial weights into a detector; their provenance goes into the record.

    Args:
        classes: names of the data set's classes, in label order.

    Raises:
        UserError: no checkpoint is given, it cannot be read, it has another network or input, or
            ``--eval-only`` is given with a backbone.
    """
    given = options.checkpoint or ""
    path = Path(given).expanduser()
    if not given:
        raise UserError(
            "no initial weights: give --checkpoint CHECKPOINT (or MODEL.WEIGHTS in the yaml), or "
            "--checkpoint random for the untrained twin"
        )
    if "://" in given:
        raise UserError(
            f"the weights are {given!r}, a URL; download the file and give its path as --checkpoint"
        )
    whole = None if given == "random" else whole_detector(path, model, config, options.trust_pickle)
    if whole is None and options.eval_only:
        raise UserError(
            f"--eval-only needs a whole detector; {given} is a backbone. Give the checkpoint of a "
            "detection run, or Detectron2's model_final.pth or .pkl"
        )
    if whole is not None:
        for warning in whole.check(config, classes, eval_only=options.eval_only):
            job.warn(f"{given} {warning}")
        network = whole.provenance
        if not options.eval_only:
            network["name"] += f", detector of {network.get('iteration', 'unknown')} iterations"
    else:
        start = (
            untrained(config, seed=options.seed)
            if given == "random"
            else backbone_of_file(
                path,
                config,
                encoder=options.encoder,
                family=options.family,
                trust_pickle=options.trust_pickle,
            )
        )
        loaded = place_backbone(model, start.state, given)
        for reason, names in loaded.left_out.items():
            log.info("left out of the detector: %d tensors (%s)", len(names), reason)
        network = start.provenance.as_dict() | {"loaded": counts(loaded)}
    network["name"] = options.name or network.get("name") or _name(network, options.encoder)
    job.record.content["network"] = network
    log.info("%s: %s of %s (%s)", given, network["encoder"], network["arch"], network["family"])


def weights_digest(checkpoint: str | None) -> dict[str, str]:
    """SHA-256 digest of the checkpoint file; a finished run is recognized by it."""
    file = Path(checkpoint or "").expanduser()
    return {"checkpoint": file_sha256(file) if file.is_file() else checkpoint or ""}


def _name(network: dict[str, Any], encoder: str | None) -> str:
    """The name of the network in tables."""
    name = f"{network['details'].get('method', network['family'])} {network['arch']}"
    return f"{name}, {network['encoder']}" if encoder else name
