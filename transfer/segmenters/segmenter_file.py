"""The trained network in the checkpoint of a segmentation run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msbreg.backbones.spec import Normalization, spec_of_record
from msbreg.checkpoints.load import load_exactly
from msbreg.checkpoints.read import read_file
from msbreg.run.config import flat, plain
from msbreg.run.errors import UserError
from transfer.segmenters.fcn import Segmenter
from transfer.segmenters.segmentation_config import Config
from transfer.segmenters.segmenter_engine import Engine

KIND = "msbreg-segmentation"
CHECKPOINT = "checkpoint.pth"
TRAINING = ("train_split", "augmentation", "solver", "amp", "accumulate")
"""Settings that shaped a trained network, but not its layers."""
FINAL = "final"  # the phase that trains on all images; others choose a learning rate


@dataclass(frozen=True)
class TrainedSegmenter:
    """A segmentation network and where it comes from.

    Attributes:
        network: the entry ``network`` of the record of its run.
        data: the entry ``data``.
        training: the run's settings in TRAINING.
        iterations: completed iterations.
        complete: whether these are all iterations of the run.
    """

    model: Segmenter
    normalization: Normalization
    network: dict[str, Any]
    data: dict[str, Any]
    training: dict[str, Any]
    iterations: int
    complete: bool


def open_segmenter(
    path: Path, engine: Engine, config: Config, classes: Sequence[str]
) -> TrainedSegmenter:
    """Load the network that a run trained.

    Args:
        classes: names of the classes to score, in label order.

    Raises:
        UserError: the file is not the checkpoint of a segmentation run, or its network has other classes or
            was built with other options.
    """
    content = read_file(path).content
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise UserError(
            f"--eval-only: {path} is not the checkpoint of a segmentation run. Give the {CHECKPOINT} of a "
            "run of transfer/segmentation.py, or omit --eval-only to train a network on this backbone"
        )
    if content.get("phase") != FINAL or "layers" not in content:
        raise UserError(
            f"{path} has no final network: its run was stopped while a learning rate was chosen, or is of an "
            "earlier version. Repeat the command of that run"
        )
    mine, theirs = flat(plain(config.network)), flat(content["layers"])
    other = [name for name in mine if theirs.get(name) != mine[name]]
    if other:
        listed = ", ".join(f"network.{n} {theirs.get(n)} (here {mine[n]})" for n in other)
        raise UserError(
            f"{path} was trained with {listed}.\nGive the card that it was trained with"
        )
    trained_on = next(iter(content["data"].values()))["classes"]
    if list(trained_on) != list(classes):
        raise UserError(
            f"{path} was trained on {len(trained_on)} classes ({', '.join(trained_on[:5])}, ...); the data "
            f"have {len(classes)} ({', '.join(classes[:5])}, ...). Expected the same, in the same order"
        )
    spec = spec_of_record(content["network"])
    model = engine.build(spec, len(classes), config.network)
    load_exactly(model, content["model"], path)
    return TrainedSegmenter(
        model,
        spec.normalization,
        dict(content["network"]),
        dict(content["data"]),
        dict(content["training"]),
        int(content["iteration"]),
        content["iteration"] == content["iterations"],
    )
