"""What a detector starts from: a backbone of any origin, its untrained twin, or a whole detector."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode
from torch import nn

from msbreg.checkpoint import file_sha256
from msbreg.errors import UserError
from msbreg.job import Job, log
from transfer.engines.asked import Config
from transfer.engines.backbone_start import backbone_of_file, untrained
from transfer.engines.rcnn.weights import place_backbone
from transfer.engines.whole_detector import counts, whole_detector


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
        for doubt in whole.doubts(config, classes, eval_only=asked.eval_only):
            running.warn(f"{given} {doubt}")
        network = whole.provenance
        if not asked.eval_only:
            network["name"] += f", detector of {network.get('iteration', 'unknown')} iterations"
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
        network = start.provenance.as_dict() | {"loaded": counts(loaded)}
    network["name"] = asked.name or network.get("name") or _name(network, asked.encoder)
    running.record.content["network"] = network
    log.info("%s: %s of %s (%s)", given, network["encoder"], network["arch"], network["family"])


def weights_digest(checkpoint: str | None) -> dict[str, str]:
    """Digest of the checkpoint's contents, by which a finished run is known again."""
    file = Path(checkpoint or "").expanduser()
    return {"checkpoint": file_sha256(file) if file.is_file() else checkpoint or ""}


def _name(network: dict[str, Any], encoder: str | None) -> str:
    """What tables call the network."""
    name = f"{network['details'].get('method', network['family'])} {network['arch']}"
    return f"{name}, {network['encoder']}" if encoder else name
