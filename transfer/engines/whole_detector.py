"""A whole detector as a start: read, and compared with what it is asked to be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode
from torch import nn

from msbreg.config import flat, plain
from msbreg.errors import UserError
from msbreg.reading import read_file
from transfer.engines import continuing
from transfer.engines.rcnn.weights import Loaded, is_detector, place_detector

WITHOUT_EFFECT = (
    *("MODEL.WEIGHTS", "MODEL.DEVICE", "MODEL.BACKBONE.FREEZE_AT"),
    *("*.NORM", "*_TRAIN", "*.BATCH_SIZE_PER_IMAGE", "*.POSITIVE_FRACTION", "*.IOU_THRESHOLDS"),
    *("*.IOU_LABELS", "*.SMOOTH_L1_BETA", "*.BBOX_REG_LOSS_TYPE", "*LOSS_WEIGHT"),
    *("*.BOUNDARY_THRESH", "*.PROPOSAL_APPEND_GT", "*.TRAIN_ON_PRED_BOXES"),
)
"""Keys of MODEL that an evaluation does not depend on (another kind of norm has other tensors)."""
CHOSEN_AT_TEST = ("*_TEST", "*.NMS_THRESH")
"""Keys of MODEL that say how to evaluate: the record holds them, and they may differ."""


@dataclass(frozen=True)
class WholeDetector:
    """What a file says of the detector in it.

    Attributes:
        provenance: for the record; ``classes`` only where the file states them.
        settings: of MODEL and INPUT.FORMAT, by dotted key; None where the file does not state them.
    """

    provenance: dict[str, Any]
    classes: Sequence[str] | None
    settings: Mapping[str, Any] | None

    def doubts(self, config: CfgNode, classes: Sequence[str], *, eval_only: bool) -> list[str]:
        """What makes it another detector than the yaml and the data expect, in words after its name.

        Raises:
            UserError: it would be evaluated with other classes, or as another network or on other
                pixels than those it was trained with.
        """
        found = self._other_settings(config) + self._other_classes(classes)
        if found and eval_only and self.classes is not None:
            raise UserError(f"{self.provenance['source']} " + "\nand ".join(found))
        if not eval_only:
            found.append("is a whole detector: it is trained further, for as many iterations again")
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
        lines = [f"  {key} was {value!r}, here it is {now[key]!r}" for key, value in wrong.items()]
        pairs = " ".join(f'{key} "{value}"' for key, value in wrong.items())
        return ["was trained with other settings:\n" + "\n".join(lines) + f"\nGive: {pairs}"]

    def _other_classes(self, classes: Sequence[str]) -> list[str]:
        if self.classes is None:
            return [f"does not say its classes; taken to be {_some(classes)}, in this order"]
        if list(self.classes) == list(classes):
            return []
        return [
            f"was trained on the classes {_some(self.classes)}, the data have {_some(classes)}; "
            "expected the same, in the same order.\n"
            "A folder in VOC's layout can state them, one a line, in classes.txt."
        ]


def model_settings(config: CfgNode) -> dict[str, Any]:
    """MODEL and INPUT.FORMAT by dotted key, as JSON knows them."""
    keys = plain(flat(config))
    return {k: v for k, v in keys.items() if k.startswith("MODEL.") or k == "INPUT.FORMAT"}


def whole_detector(
    path: Path, model: nn.Module, config: CfgNode, trust_pickle: bool
) -> WholeDetector | None:
    """Load a checkpoint of this script or of Detectron2; None of a file that holds no detector.

    Raises:
        UserError: the file cannot be read, or is of a detector of other tensors.
    """
    file = read_file(path, trust_pickle=trust_pickle)
    content = file.content if isinstance(file.content, dict) else {}
    state = content.get("model", content)
    if not isinstance(state, dict) or not is_detector(state):
        return None
    loaded = place_detector(model, config, state, path)
    of_file = {"source": str(path), "sha256": file.sha256, "loaded": counts(loaded)}
    if content.get("kind") != continuing.KIND:
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
    """Numbers of tensors, by what became of them and why."""
    grouped = {"fresh": loaded.fresh, "left_out": loaded.left_out}
    numbers = {name: {why: len(v) for why, v in group.items()} for name, group in grouped.items()}
    return {"taken": loaded.taken, **numbers}


def _free(key: str) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in WITHOUT_EFFECT + CHOSEN_AT_TEST)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
