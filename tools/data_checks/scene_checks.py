"""Checks of splits with boxes or label maps: the layouts voc, coco and segmentation (of any label maps)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from msbreg.data.annotated_images import read_upright
from msbreg.data.coco import coco_scenes
from msbreg.data.scenes import Scenes
from msbreg.data.segmentation.label_maps import LabelMaps, only_one_class, pixel_counts
from msbreg.data.segmentation.map_sources import MAP_SOURCES, recognized_maps
from msbreg.data.sources import voc_images
from msbreg.data.voc import voc_scenes
from msbreg.run.errors import UserError
from tools.data_checks.checked_split import Split, check_contents, check_each, compare_contents
from tools.data_checks.source_checks import check_source, differences


def check_voc(root: Path) -> Iterator[Split]:
    """Boxes in Annotations, and the image-level labels in ImageSets/Main if there are any."""
    if not (root / "Annotations").is_dir():  # image-level labels alone
        yield from check_source("voc", root)
        return
    splits = [
        check_scenes("voc", name, partial(voc_scenes, name, root, name))
        for name in _splits(root, "Main")
    ]
    for split in splits:
        yield _compared(split, splits)
        if any((root / "ImageSets" / "Main").glob(f"*_{split.name}.txt")):
            _check_presence(root, split)


def _check_presence(root: Path, split: Split) -> None:
    """Check that image-level labels agree with the boxes: 1, 0 if all are difficult, -1 if none."""
    try:
        listed = voc_images(root, split.name)
        scenes = voc_scenes(split.name, root, split.name, look_at_images=False)
    except UserError as error:
        split.problems.append(str(error))
        return
    ids = [Path(path).stem for path in listed.paths]
    rows = dict(zip(ids, np.asarray(listed.labels), strict=True))
    if set(ids) != {str(scene.id) for scene in scenes.scenes}:
        split.problems.append(f"the class files and {split.name}.txt list different images")
        return
    split.fingerprint = listed.fingerprint
    for scene in scenes.scenes:
        for name, stated in zip(listed.classes, rows[str(scene.id)], strict=True):
            difficult = [i.difficult for i in scene.instances if scenes.classes[i.label] == name]
            found = -1 if not difficult else int(not all(difficult))
            if found != stated:
                split.problems.append(
                    f"{scene.id}: {name}_{split.name}.txt says {stated}, the annotation says {found}"
                )


def check_coco(root: Path) -> Iterator[Split]:
    """Every annotations/instances_SPLIT.json and person_keypoints_SPLIT.json with the images in SPLIT/."""
    for kind in ("instances_", "person_keypoints_"):
        for file in sorted((root / "annotations").glob(f"{kind}*.json")):
            images = root / file.stem.removeprefix(kind)
            name = file.stem.removeprefix("instances_")
            yield check_scenes("coco", name, partial(coco_scenes, name, file, images))


def check_segmentation(root: Path, names: Sequence[str] = ()) -> Iterator[Split]:
    """Label maps in any layout of transfer/segmentation.py: of the right size, with labels in range."""
    layout = MAP_SOURCES[recognized_maps(root)]
    lists = root / "ImageSets" / "Segmentation"
    names = names or (_splits(root, "Segmentation") if lists.is_dir() else layout.splits(root))
    splits = []
    for name in names:
        split = Split("segmentation", name)
        splits.append(split)
        try:
            source = layout.open(root, name)
        except UserError as error:
            split.problems.append(str(error))
            continue
        split.images, split.classes = len(source), source.classes
        split.fingerprint = source.fingerprint
        split.files = {source.name(i) for i in range(len(source))}
        published = layout.published.get(name)
        if published is not None and published.classes == len(source.classes):
            split.warnings += differences(split, published)

        def check(i: int, source: LabelMaps = source) -> list[str]:
            found = pixel_counts(source, i)
            return [source.classes[k] for k in np.flatnonzero(found[: len(source.classes)])]

        for labels in filter(None, check_each(check, len(source), split)):
            split.labels.update(labels)
        present = [k for k, name in enumerate(source.classes) if split.labels[name]]
        if problem := only_one_class(source, present):
            split.problems.append(problem)
        check_contents(source.image, len(source), split)
    for split in splits:
        yield _compared(split, splits)


def check_scenes(layout: str, name: str, read: Callable[[], Scenes]) -> Split:
    split = Split(layout, name)
    try:
        scenes = read()
    except UserError as error:
        split.problems.append(str(error))
        return split
    split.images = len(scenes.scenes)
    split.labels.update(scenes.classes[i.label] for scene in scenes.scenes for i in scene.instances)
    split.notes += scenes.warnings
    split.classes = scenes.classes
    split.files = {str(scene.file) for scene in scenes.scenes}
    split.name_of = lambda i: str(scenes.scenes[i].file)
    split.boxes_fingerprint = _boxes_fingerprint(scenes)
    check_contents(lambda i: np.asarray(read_upright(scenes.scenes[i])), len(scenes.scenes), split)
    return split


def _boxes_fingerprint(scenes: Scenes) -> str:
    """The fingerprint that records of transfer/detection.py cite."""
    from transfer.detectors.splits import Data

    described = Data(replace(scenes, scenes=()), scenes).described()
    return str(described["test"]["fingerprint"]) if described else ""


def _splits(root: Path, kind: str) -> list[str]:
    """Names of the image lists in ImageSets/KIND, without the files CLASS_SPLIT.txt."""
    stems = sorted(path.stem for path in (root / "ImageSets" / kind).glob("*.txt"))
    return [stem for stem in stems if not any(stem.endswith(f"_{other}") for other in stems)]


def _compared(split: Split, splits: list[Split]) -> Split:
    """The split, with added problems for images that it shares with a disjoint split."""
    apart = {
        "train": ("val", "test"),
        "training": ("validation",),
        "trainaug": ("val",),
        "val": ("train", "test"),
        "test": ("trainval",),
    }
    by_name = {other.name: other for other in splits}
    for name in apart.get(split.name, ()):
        if name not in by_name:
            continue
        if both := len(split.files & by_name[name].files):
            split.problems.append(f"{both} images are also in {name}")
        else:
            compare_contents(split, by_name[name])
    if split.name == "trainval" and {"train", "val"} <= by_name.keys():
        parts = by_name["train"].files | by_name["val"].files
        if parts != split.files:
            split.problems.append("trainval is not the union of train and val")
    return split
