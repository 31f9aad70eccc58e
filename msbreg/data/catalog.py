"""Load scenes by name: Detectron2's names and layouts, the embedded digits, and any folder.

voc_2007_trainval      ROOT/VOC2007, ROOT/VOCdevkit/VOC2007 or ROOT itself
coco_2017_train        ROOT/coco/annotations/instances_train2017.json and ROOT/coco/train2017,
                       or the same in ROOT itself
keypoints_coco_2017_train
                       the same with person_keypoints_train2017.json
lvis_v1_train          ROOT/lvis/lvis_v1_train.json, and ROOT/coco/train2017 and val2017
cityscapes_fine_instance_seg_train
                       ROOT/cityscapes/leftImg8bit/train and ROOT/cityscapes/gtFine/train, or the
                       same in ROOT itself
digits_voc_trainval    embedded data, generated on first use
voc:FOLDER:SPLIT       any classes in VOC's layout
coco:JSON:IMAGES       any instances JSON and its folder of images
lvis:JSON:IMAGES       any JSON in LVIS's format, and COCO's folder of train2017 and val2017
"""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from msbreg.data.cityscapes import cityscapes_scenes
from msbreg.data.coco import coco_scenes
from msbreg.data.coco_variants.keypoints import labeled
from msbreg.data.coco_variants.lvis import lvis_scenes
from msbreg.data.digits.writers import NAMES as DIGITS
from msbreg.data.scenes import Scene, Scenes
from msbreg.data.sources import data_root
from msbreg.data.voc import VOC_CLASSES, UnknownClass, classes_of, find_voc, voc_scenes
from msbreg.run.errors import UserError, did_you_mean

log = logging.getLogger("msbreg")

# As registered in detectron2/data/datasets/builtin.py. VOC2012 has no public annotations of the test split.
VOC_NAMES = {
    f"voc_{year}_{split}": (year, split)
    for year, splits in ((2007, "trainval train val test"), (2012, "trainval train val"))
    for split in splits.split()
}
COCO_NAMES = {
    f"coco_{year}_{split}": f"{split}{year}" for year in (2014, 2017) for split in ("train", "val")
}
KEYPOINT_NAMES = {f"keypoints_{name}": split for name, split in COCO_NAMES.items()}
LVIS_NAMES = {
    f"lvis_{version}_{split}": f"lvis_{version}_{split}.json"
    for version in ("v1", "v0.5")
    for split in ("train", "val")
}
DIGITS_NAMES = {
    **{f"digits_voc_{split}": split for split in ("trainval", "train", "val", "test")},
    **{f"digits_coco_{split}": f"{split}2017" for split in ("train", "val")},
}
CITYSCAPES_NAMES = {f"cityscapes_fine_instance_seg_{split}": split for split in ("train", "val")}
ROOT_VARIABLE = "DETECTRON2_DATASETS"


def load_scenes(
    name: str,
    root: Path | None = None,
    *,
    classes: Sequence[str] | None = None,
    look_at_images: bool = True,
    strict: bool = False,
) -> Scenes:
    """Load the scenes called ``name``; the docstring of this module lists the names.

    Args:
        root: folder of the named data sets; relative folders in a name are relative to it. None means
            Detectron2's default for names ($DETECTRON2_DATASETS, else ./datasets) and the current folder
            for relative folders.
        classes: class names of a ``voc:`` folder, indexed by label; see ``voc.classes_of``.
        look_at_images: check that image files exist and have the annotated size.
        strict: raise an error for irregular data that Detectron2 accepts.

    Raises:
        UserError: the name is unknown, or the data are missing or invalid.
    """
    reading = {"look_at_images": look_at_images, "strict": strict}
    kind, colon, rest = name.partition(":")
    if colon and kind in ("voc", "coco", "lvis"):
        first, colon, last = rest.rpartition(":")
        if not (first and last):
            form = "voc:FOLDER:SPLIT" if kind == "voc" else f"{kind}:JSON:IMAGES"
            raise UserError(f"data set {name!r} is incomplete; expected {form}")
        base = root if root is not None else Path()
        path = base / Path(first).expanduser()
        if kind != "voc":
            _no_classes(name, classes)
            images = base / Path(last).expanduser()
            return (coco_scenes if kind == "coco" else lvis_scenes)(name, path, images, **reading)
        return voc_scenes(name, _only_voc(path), last, classes=classes, **reading)
    _no_classes(name, classes)
    return _by_name(name, root, **reading)


def _by_name(name: str, root: Path | None, **reading: bool) -> Scenes:
    if name in DIGITS_NAMES:
        split = DIGITS_NAMES[name]
        if name.startswith("digits_voc"):
            voc = data_root("digits", "voc") / "VOC2007"
            return voc_scenes(name, voc, split, classes=DIGITS, **reading)
        file, images = _coco_files(data_root("digits", "coco"), split)
        return coco_scenes(name, file, images, **reading)
    coco = [*COCO_NAMES, *KEYPOINT_NAMES, *LVIS_NAMES]
    known = [*VOC_NAMES, *coco, *CITYSCAPES_NAMES, *DIGITS_NAMES]
    if name not in known:
        raise UserError(
            f"data set {name!r} is unknown{did_you_mean(name, known) or '.'}\n"
            "Expected voc:FOLDER:SPLIT, coco:JSON:IMAGES, lvis:JSON:IMAGES or one of: "
            f"{', '.join(known)}"
        )
    folder = root if root is not None else Path(os.environ.get(ROOT_VARIABLE) or "datasets")
    if not folder.is_dir():
        raise UserError(
            f"data folder {str(folder)!r} not found; {name} is expected inside it.\n"
            f"Give --data ROOT, or set {ROOT_VARIABLE}."
        )
    if name in VOC_NAMES:
        year, split = VOC_NAMES[name]
        return _named_voc(name, find_voc(folder, year), year, split, **reading)
    if name in CITYSCAPES_NAMES:
        return cityscapes_scenes(name, _cityscapes(folder), CITYSCAPES_NAMES[name], **reading)
    if name in LVIS_NAMES:
        file, images = _lvis_files(folder, LVIS_NAMES[name])
        return lvis_scenes(name, file, images, **reading)
    if name in KEYPOINT_NAMES:
        file, images = _coco_files(folder, KEYPOINT_NAMES[name], kind="person_keypoints")
    else:
        file, images = _coco_files(folder, COCO_NAMES[name])
    return coco_scenes(name, file, images, **reading)


def _named_voc(name: str, voc: Path, year: int, split: str, **reading: bool) -> Scenes:
    """PASCAL VOC with its 20 classes; a folder with other classes must be given as voc:FOLDER:SPLIT."""
    try:
        scenes = voc_scenes(name, voc, split, classes=VOC_CLASSES, **reading)
    except UnknownClass as error:
        own = classes_of(voc)
        raise UserError(
            f"{error}\n{voc} contains {len(own)} custom classes ({', '.join(own[:20])}), but {name} "
            "expects the 20 classes of PASCAL VOC.\n"
            f"For custom classes, set DATASETS.TRAIN to \"('voc:{voc}:{split}',)\", DATASETS.TEST likewise, "
            f"and MODEL.ROI_HEADS.NUM_CLASSES to {len(own)}."
        ) from error
    return replace(scenes, year=year)


def join_scenes(parts: Sequence[Scenes]) -> Scenes:
    """Concatenate several splits, such as VOC07+12 in cfg.DATASETS.TRAIN.

    If two parts share an id, all ids become ``NAME/ID``.

    Raises:
        UserError: there are no parts, their classes differ, or they share an image file.
    """
    if not parts:
        raise UserError("no data sets were given; expected one name or more")
    first = parts[0]
    for part in parts[1:]:
        if (part.classes, part.category_ids) != (first.classes, first.category_ids):
            raise UserError(
                f"{first.name} and {part.name} have different classes, so they cannot be joined:\n"
                f"  {', '.join(first.classes)}\n  {', '.join(part.classes)}"
            )
        if part.keypoints != first.keypoints:
            raise UserError(
                f"{first.name} and {part.name} have different keypoints, so they cannot be joined"
            )
    files = Counter(scene.file.resolve() for part in parts for scene in part.scenes)
    file, count = files.most_common(1)[0]
    if count > 1:
        raise UserError(
            f"{' + '.join(p.name for p in parts)} contain {file} twice; expected different images"
        )
    if len(parts) == 1:
        return first
    ids = [{scene.id for scene in part.scenes} for part in parts]
    unique = len(set.union(*ids)) == sum(map(len, ids))
    joined = tuple(
        scene if unique else replace(scene, id=f"{part.name}/{scene.id}")
        for part in parts
        for scene in part.scenes
    )
    years = {part.year for part in parts}
    return Scenes(
        " + ".join(part.name for part in parts),
        first.classes,
        joined,
        category_ids=first.category_ids,
        year=years.pop() if len(years) == 1 else None,
        warnings=tuple(warning for part in parts for warning in part.warnings),
        oddities=dict(sum((Counter(part.oddities) for part in parts), Counter())),
        sized_boxes=first.sized_boxes,
        keypoints=first.keypoints,
    )


def drawable(scenes: Scenes) -> Scenes:
    """Remove objects whose polygons all have fewer than three points.

    Detectron2's loader (load_coco_json) drops them before training; its evaluation keeps them.
    """

    def kept(scene: Scene) -> Scene:
        instances = tuple(i for i in scene.instances if i.mask != ())
        return (
            scene if len(instances) == len(scene.instances) else replace(scene, instances=instances)
        )

    return replace(scenes, scenes=tuple(map(kept, scenes.scenes)))


def without_empty(scenes: Scenes) -> Scenes:
    """Keep the scenes with at least one object that is not a crowd, as Detectron2 does for training.

    Enabled by DATALOADER.FILTER_EMPTY_ANNOTATIONS (detectron2/data/build.py); not used in testing.

    Raises:
        UserError: no scene remains.
    """
    kept = tuple(s for s in scenes.scenes if any(not i.crowd for i in s.instances))
    dropped = len(scenes.scenes) - len(kept)
    if dropped:
        log.info(
            "%s: dropped %d images without usable annotations, %d remain",
            scenes.name, dropped, len(kept),
        )  # fmt: skip
    if not kept:
        raise UserError(
            f"none of the {len(scenes.scenes)} images of {scenes.name} has an object that is not a crowd; "
            "expected at least one"
        )
    return replace(scenes, scenes=kept)


def with_labeled_keypoints(scenes: Scenes, least: int) -> Scenes:
    """Keep the scenes with at least this many labeled keypoints, those of crowds included.

    As Detectron2 does for training with MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE
    (detectron2/data/build.py); not used in testing.

    Raises:
        UserError: no scene remains.
    """
    kept = tuple(
        s for s in scenes.scenes if sum(labeled(i.keypoints) for i in s.instances) >= least
    )
    if not kept:
        raise UserError(
            f"none of the {len(scenes.scenes)} images of {scenes.name} has {least} labeled keypoints; "
            "use data with keypoints, such as keypoints_coco_2017_train, or lower "
            "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE"
        )
    dropped = len(scenes.scenes) - len(kept)
    if dropped:
        log.info(
            "%s: dropped %d images with fewer than %d labeled keypoints, %d remain",
            scenes.name, dropped, least, len(kept),
        )  # fmt: skip
    return replace(scenes, scenes=kept)


def _coco_files(root: Path, split: str, *, kind: str = "instances") -> tuple[Path, Path]:
    """The paths of the JSON file and of the image folder."""
    folders = [root / "coco", root]
    for folder in folders:
        file = folder / "annotations" / f"{kind}_{split}.json"
        if file.is_file():
            return file, folder / split
    raise UserError(
        f"{root} does not have COCO's layout; expected annotations/{kind}_{split}.json in one of: "
        f"{', '.join(map(str, folders))}"
    )


def _lvis_files(root: Path, file_name: str) -> tuple[Path, Path]:
    """The paths of the JSON file and of the folder that contains COCO's folders of images.

    Raises:
        UserError: there is no such file.
    """
    files = [root / "lvis" / file_name, root / file_name]
    for file in files:
        if file.is_file():
            return file, root / "coco" if (root / "coco").is_dir() else root
    raise UserError(f"{root} does not contain LVIS; expected one of: {', '.join(map(str, files))}")


def _cityscapes(root: Path) -> Path:
    """The folder that contains leftImg8bit and gtFine.

    Raises:
        UserError: neither ROOT/cityscapes nor ROOT does.
    """
    for folder in (root / "cityscapes", root):
        if (folder / "leftImg8bit").is_dir() and (folder / "gtFine").is_dir():
            return folder
    raise UserError(
        f"{root} does not have Cityscapes' layout; expected leftImg8bit/ and gtFine/ in "
        f"{root / 'cityscapes'} or {root}"
    )


def _only_voc(folder: Path) -> Path:
    """The folder itself, or the only subfolder named VOC*, that contains ImageSets."""
    below = sorted(folder.glob("VOC*")) + sorted(folder.glob("VOCdevkit/VOC*"))
    found = [path for path in [folder, *below] if (path / "ImageSets" / "Main").is_dir()]
    if len(found) == 1 or (found and found[0] == folder):
        return found[0]
    state = (
        f"contains several folders with VOC's layout ({', '.join(map(str, found))})"
        if found
        else "does not have VOC's layout"
    )
    raise UserError(
        f"{folder} {state}; expected one folder with ImageSets/Main, Annotations and JPEGImages"
    )


def _no_classes(name: str, classes: Sequence[str] | None) -> None:
    if classes is not None:
        raise UserError(f"{name} has fixed classes; classes can only be given for voc:FOLDER:SPLIT")
