"""The data splits that a yaml names, checked against its settings."""

import hashlib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from msbreg.data.catalog import (
    drawable,
    join_scenes,
    load_scenes,
    with_labeled_keypoints,
    without_empty,
)
from msbreg.data.coco_variants.keypoints import PERSON_KEYPOINTS
from msbreg.data.folder import list_fingerprint
from msbreg.data.scenes import Scenes
from msbreg.run.errors import UserError
from transfer.scoring.predictions import split_digest


@dataclass(frozen=True)
class Data:
    """Training scenes (none for an evaluation only) and test scenes."""

    train: Scenes
    test: Scenes

    def warnings(self) -> list[str]:
        """Warnings about the data that a reader of the scores must know."""
        found = [*self.train.warnings, *self.test.warnings]
        shared = len(_files(self.train) & _files(self.test))
        if shared:
            found.append(
                f"{shared} of the {len(self.test.scenes)} images of {self.test.name} are also training "
                "images: the scores do not measure generalization"
            )
        present = {o.label for s in self.test.scenes for o in s.instances if not o.crowd}
        absent = [name for k, name in enumerate(self.test.classes) if k not in present]
        if absent:
            found.append(f"{self.test.name} has no object of {_some(tuple(absent))}")
        return found

    def described(self) -> dict[str, Any]:
        """For the record: names, counts, digests, and unusual annotations that were accepted.

        ``annotations`` is a digest of the annotations; ``fingerprint`` also covers the names and sizes of
        the image files. ``oddities`` is present only if there are any.
        """
        splits = {"train": self.train, "test": self.test}
        return {
            which: {
                "name": scenes.name,
                "images": len(scenes.scenes),
                "objects": sum(len(scene.instances) for scene in scenes.scenes),
                "classes": list(scenes.classes),
                "annotations": (annotations := split_digest(scenes)),
                "fingerprint": _fingerprint(annotations, scenes),
            }
            | ({"oddities": dict(scenes.oddities)} if scenes.oddities else {})
            for which, scenes in splits.items()
            if scenes.scenes
        }


def data_of(config: CfgNode, root: Path | None, *, train: bool, strict: bool = False) -> Data:
    """Load DATASETS.TRAIN (concatenated, filtered as DATALOADER says) and DATASETS.TEST.

    Args:
        root: the folder that contains named data sets.
        train: whether to load the training splits.
        strict: raise an error for unusual annotations that Detectron2 accepts.

    Raises:
        UserError: a split is missing or malformed, the classes of the splits differ, or NUM_CLASSES is not
            their number.
    """
    root = None if root is None else _folder(root)
    _check_names(config)
    if len(config.DATASETS.TEST) != 1:
        raise UserError(
            f"DATASETS.TEST is {list(config.DATASETS.TEST)}; expected a single data set, whose scores are "
            "those of the run"
        )
    test = load_scenes(config.DATASETS.TEST[0], root, strict=strict)
    _check_classes(config, test)
    if config.MODEL.MASK_ON:
        _check_masks(test)
    if config.MODEL.KEYPOINT_ON:
        test = _with_sigmas(test, config)
    if all(i.crowd or i.difficult for scene in test.scenes for i in scene.instances):
        raise UserError(
            f"{test.name} has nothing to score: none of its {len(test.scenes)} images shows an object "
            "that is neither a crowd nor difficult; give a split with annotations as DATASETS.TEST"
        )
    if not train:
        return Data(replace(test, scenes=()), test)
    if not config.DATASETS.TRAIN:
        raise UserError("DATASETS.TRAIN is empty; expected the names of one or more data sets")
    parts = [load_scenes(name, root, strict=strict) for name in config.DATASETS.TRAIN]
    joined = join_scenes(parts)
    if joined.classes != test.classes:
        raise UserError(
            f"{joined.name} has the classes {_some(joined.classes)}, {test.name} has "
            f"{_some(test.classes)}; expected the same, in the same order"
        )
    joined = drawable(joined)
    if config.MODEL.KEYPOINT_ON:
        joined = _with_sigmas(joined, config)
    if config.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        joined = without_empty(joined)
    if config.MODEL.KEYPOINT_ON:
        least = config.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE
        joined = with_labeled_keypoints(joined, least)
    return Data(joined, test)


def _fingerprint(annotations: str, scenes: Scenes) -> str:
    files = list_fingerprint([scene.file for scene in scenes.scenes])
    return hashlib.sha256(f"{annotations} {files}".encode()).hexdigest()


def _files(scenes: Scenes) -> set[Path]:
    """The image files, with links in their folders resolved."""
    folder = cache(Path.resolve)
    return {folder(scene.file.parent) / scene.file.name for scene in scenes.scenes}


def _folder(root: Path) -> Path:
    folder = root.expanduser()
    if not folder.is_dir():
        raise UserError(
            f"--data: folder {str(root)!r} not found; expected the folder that contains the data sets, "
            "such as VOC2007 or coco"
        )
    return folder


def _check_names(config: CfgNode) -> None:
    for key, names in config.DATASETS.items():
        if key in ("TRAIN", "TEST") and any(not isinstance(name, str) for name in names):
            raise UserError(
                f"DATASETS.{key} is {list(names)}; expected names in quotation marks, such as "
                "('voc_2007_trainval',)"
            )


def _check_classes(config: CfgNode, scenes: Scenes) -> None:
    given, found = config.MODEL.ROI_HEADS.NUM_CLASSES, len(scenes.classes)
    if given != found:
        raise UserError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {given}, but {scenes.name} has {found} classes "
            f"({_some(scenes.classes)}).\nGive: MODEL.ROI_HEADS.NUM_CLASSES {found}"
        )


def _check_masks(test: Scenes) -> None:
    """Fail before the training, not when masks are scored after it."""
    without = [s.id for s in test.scenes if any(o.mask is None for o in s.instances)]
    if without:
        raise UserError(
            f"{len(without)} of the {len(test.scenes)} images of {test.name} have objects without a "
            f"mask, for example {without[0]!r}; expected a mask for each object.\nUse other data, or "
            "MODEL.MASK_ON False to detect boxes only."
        )


def _with_sigmas(scenes: Scenes, config: CfgNode) -> Scenes:
    """The scenes with TEST.KEYPOINT_OKS_SIGMAS, checked against the settings of the keypoint head."""
    found = scenes.keypoints
    if found is None:
        raise UserError(
            f"MODEL.KEYPOINT_ON is True, but {scenes.name} has no keypoints; use data whose categories "
            "define keypoints, such as keypoints_coco_2017_val, or set MODEL.KEYPOINT_ON to False"
        )
    count, given = len(found.names), config.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    if given != count:
        raise UserError(
            f"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is {given}, but {scenes.name} has {count} keypoints "
            f"({_some(found.names)}).\nGive: MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS {count}"
        )
    sigmas = tuple(config.TEST.KEYPOINT_OKS_SIGMAS)
    if len(sigmas) != count and (sigmas or count != PERSON_KEYPOINTS):
        raise UserError(
            f"TEST.KEYPOINT_OKS_SIGMAS has {len(sigmas)} numbers; expected {count}, one for each keypoint "
            f"of {scenes.name} (the default, an empty list, is for COCO's {PERSON_KEYPOINTS} keypoints of "
            "persons)"
        )
    return replace(scenes, keypoints=replace(found, sigmas=sigmas))


def _some(names: tuple[str, ...]) -> str:
    return f"{len(names)}: " + ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
