"""What a detector starts from: a backbone of any origin, its untrained twin, or a whole detector."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode
from torch import nn

from msbreg.checkpoint import file_sha256
from msbreg.errors import UserError
from msbreg.job import Job, log
from msbreg.reading import read_file
from transfer.engines import continuing
from transfer.engines.asked import Config
from transfer.engines.backbone_start import backbone_of_file, untrained
from transfer.engines.rcnn.weights import Loaded, is_detector, place_backbone, place_detector


def start_detector(
    model: nn.Module, config: CfgNode, asked: Config, classes: Sequence[str], running: Job
) -> None:
    """Load what was asked for; the network's provenance goes into the record.

    Args:
        classes: of the data, in the order of their labels.

    Raises:
        UserError: nothing was asked for, it cannot be read, it is of another network or input, or only
            a backbone is there to be evaluated.
    """
    given = asked.checkpoint or ""
    path = Path(given).expanduser()
    if not given:
        raise UserError(
            "no weights to start from: give --checkpoint CHECKPOINT (or MODEL.WEIGHTS in the yaml), or "
            "--checkpoint random for the untrained twin"
        )
    if "://" in given:
        raise UserError(
            f"the weights are {given!r}, and nothing is downloaded here; download them, and give the "
            "file as --checkpoint"
        )
    whole = None if given == "random" else whole_detector(path, model, config, asked.trust_pickle)
    if whole is None and asked.eval_only:
        raise UserError(
            f"--eval-only needs a whole detector; {given} is a backbone. Give the checkpoint of a "
            "detection run, or Detectron2's model_final.pth or .pkl"
        )
    if whole is not None:
        if doubt := class_doubt(whole, classes, eval_only=asked.eval_only):
            running.warn(f"{given} {doubt}")
        network = whole
    else:
        start = (
            untrained(config, seed=asked.seed)
            if given == "random"
            else backbone_of_file(
                path,
                config,
                encoder=asked.encoder,
                family=asked.family,
                trust_pickle=asked.trust_pickle,
            )
        )
        loaded = place_backbone(model, start.state, given)
        for reason, names in loaded.left_out.items():
            log.info("left out of the detector: %d tensors (%s)", len(names), reason)
        network = start.provenance.as_dict() | {"loaded": _counts(loaded)}
    network["name"] = asked.name or network.get("name") or _name(network, asked.encoder)
    running.record.content["network"] = network
    log.info("%s: %s of %s (%s)", given, network["encoder"], network["arch"], network["family"])


def weights_digest(checkpoint: str | None) -> dict[str, str]:
    """Digest of the checkpoint's contents, by which a finished run is known again."""
    file = Path(checkpoint or "").expanduser()
    return {"checkpoint": file_sha256(file) if file.is_file() else checkpoint or ""}


def whole_detector(
    path: Path, model: nn.Module, config: CfgNode, trust_pickle: bool
) -> dict[str, Any] | None:
    """Load a checkpoint of this script or of Detectron2; None of a file that holds no detector.

    Raises:
        UserError: the file cannot be read, or is of a detector of other settings.
    """
    file = read_file(path, trust_pickle=trust_pickle)
    content = file.content if isinstance(file.content, dict) else {}
    state = content.get("model", content)
    if not isinstance(state, dict) or not is_detector(state):
        return None
    loaded = place_detector(model, config, state, path)
    if content.get("kind") == continuing.KIND:
        about = content["about"]
        trained = about["network"] | {
            "iteration": content["iteration"],
            "classes": about["data"]["train"]["classes"],
        }
    else:
        trained = {
            "name": path.stem,
            "encoder": "whole detector",
            "arch": _arch(config),
            "details": {},
            "classes": None,
        }
    return trained | {
        "source": str(path),
        "family": "detector of this suite" if "about" in content else "detector of Detectron2",
        "sha256": file.sha256,
        "loaded": _counts(loaded),
    }


def class_doubt(detector: dict[str, Any], classes: Sequence[str], *, eval_only: bool) -> str | None:
    """What is to be said of the classes that a detector was trained on, beside those of the data.

    Raises:
        UserError: it would be evaluated on data with other classes, or in another order.
    """
    trained = detector["classes"]
    if trained is None:
        return f"does not say its classes; taken to be {_some(classes)}, in this order"
    if list(trained) == list(classes):
        return None
    doubt = f"was trained on the classes {_some(trained)}, the data have {_some(classes)}"
    if eval_only:
        raise UserError(
            f"{detector['source']} {doubt}; expected the same, in the same order.\n"
            "A folder in VOC's layout can state them, one a line, in classes.txt."
        )
    return f"{doubt}: its class scores start with other meanings"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")


def _counts(loaded: Loaded) -> dict[str, Any]:
    """Numbers of tensors, by what became of them and why."""
    grouped = {"fresh": loaded.fresh, "left_out": loaded.left_out}
    counts = {name: {why: len(v) for why, v in group.items()} for name, group in grouped.items()}
    return {"taken": loaded.taken, **counts}


def _arch(config: CfgNode) -> str:
    return f"resnet{config.MODEL.RESNETS.DEPTH}"


def _name(network: dict[str, Any], encoder: str | None) -> str:
    """What tables call the network."""
    name = f"{network['details'].get('method', network['family'])} {network['arch']}"
    return f"{name}, {network['encoder']}" if encoder else name
