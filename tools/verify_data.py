"""Check a data set with the readers of the protocols, and decode every image.

    python tools/verify_data.py                                  # the embedded digits
    python tools/verify_data.py --data photographs/              # train/CLASS/, CLASS/, or images alone
    python tools/verify_data.py --data /data/VOCdevkit --layout voc
    python tools/verify_data.py --data coco:JSON:IMAGES          # any name that transfer/detection.py accepts

Prints one row per split, the labels per class, and the problems. Exit code 0: no problems; 1: problems;
2: the data set does not exist.
"""

import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
from PIL import Image

from msbreg.data.annotated_images import read_upright
from msbreg.data.catalog import load_scenes
from msbreg.data.coco import coco_scenes
from msbreg.data.decoding import ImageIOError, read_image
from msbreg.data.digits.generate import prepare_digits
from msbreg.data.folder import list_images
from msbreg.data.scenes import Scenes
from msbreg.data.voc import classes_of, image_labels, read_split, voc_scenes
from msbreg.run.errors import UserError, exit_codes
from msbreg.run.files import open_regular
from msbreg.run.options import ToolParser

T = TypeVar("T")
R = TypeVar("R")

LAYOUTS = ("folder", "voc", "segmentation", "coco")
SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing")
VOID = 255
SHOWN = 5  # problems listed per split
THREADS = 4


@dataclass
class Split:
    """The result of checking one split.

    Attributes:
        labels: class -> images (folder) or objects (voc, coco); index -> images (segmentation).
        problems: anything that a protocol would reject or silently get wrong.
        notes: anything unusual that does no harm.
        files: names or content hashes, used to compare splits.
    """

    layout: str
    name: str
    images: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: set[str] = field(default_factory=set)


# ---- One check per layout


def check_folder(root: Path) -> Iterator[Split]:
    """ROOT/SPLIT/CLASS/*, ROOT/CLASS/* or images alone."""
    names = sorted(e.name for e in root.iterdir() if e.is_dir() and e.name.lower() in SPLITS)
    splits = [_check_images(root / name, name) for name in names]
    if not names:
        splits = [_check_images(root, root.name)]
    trained = next((split for split in splits if split.name.lower().startswith("train")), None)
    for split in splits:
        for other in splits[: splits.index(split)]:
            if both := len(split.files & other.files):
                split.problems.append(f"copies of images in {other.name}: {both}")
        if trained is not None and split is not trained and trained.labels:
            for absent in sorted(trained.labels.keys() - split.labels.keys()):
                split.problems.append(f"class {absent} of {trained.name} is missing")
            for extra in sorted(split.labels.keys() - trained.labels.keys()):
                split.problems.append(f"class {extra} is missing in {trained.name}")
    yield from splits


def _check_images(folder: Path, name: str) -> Split:
    split = Split("folder", name)
    try:
        images = list_images(folder)
    except UserError as error:
        split.problems.append(str(error))
        return split
    split.images = len(images)
    if images.labels is not None:
        split.labels.update(images.classes[label] for label in images.labels)
    if note := images.ignored_files():
        split.notes.append(note)

    def check(i: int) -> str:
        images.image(i)
        with open_regular(images.root / images.paths[i]) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    split.files |= set(_each(check, range(len(images)), split))
    return split


def check_voc(root: Path) -> Iterator[Split]:
    """Boxes in Annotations, and the image-level labels in ImageSets/Main if there are any."""
    splits = [
        _check_scenes("voc", name, partial(voc_scenes, name, root, name))
        for name in _splits(root, "Main")
    ]
    for split in splits:
        yield _compared(split, splits)
        if any((root / "ImageSets" / "Main").glob(f"*_{split.name}.txt")):
            _check_presence(root, split)


def _check_presence(root: Path, split: Split) -> None:
    """Check that image-level labels agree with the boxes: 1, 0 if all are difficult, -1 if none."""
    try:
        listed = image_labels(root, split.name)
        scenes = voc_scenes(split.name, root, split.name, look_at_images=False)
        ids = read_split(root, split.name)
    except UserError as error:
        split.problems.append(str(error))
        return
    if [path.stem for path in listed.paths] != ids:
        split.problems.append(f"the class files and {split.name}.txt list different images")
        return
    for scene, row in zip(scenes.scenes, listed.labels, strict=True):
        for name, stated in zip(listed.classes, row, strict=True):
            difficult = [i.difficult for i in scene.instances if scenes.classes[i.label] == name]
            found = -1 if not difficult else int(not all(difficult))
            if found != stated:
                split.problems.append(
                    f"{scene.id}: {name}_{split.name}.txt says {stated}, the annotation says {found}"
                )


def check_coco(root: Path) -> Iterator[Split]:
    """Every annotations/instances_SPLIT.json with the images in SPLIT/."""
    for file in sorted((root / "annotations").glob("instances_*.json")):
        name = file.stem.removeprefix("instances_")
        yield _check_scenes("coco", name, partial(coco_scenes, name, file, root / name))


def check_segmentation(root: Path) -> Iterator[Split]:
    """Label maps in SegmentationClass: palette images of the right size with labels in range."""
    classes = len(classes_of(root)) if (root / "Annotations").is_dir() else 20
    splits = []
    for name in _splits(root, "Segmentation"):
        split = Split("segmentation", name)
        ids = (root / "ImageSets" / "Segmentation" / f"{name}.txt").read_text().split()
        split.images, split.files = len(ids), set(ids)

        def check(image_id: str, split: Split = split) -> list[str]:
            height, width = read_image(root / "JPEGImages" / f"{image_id}.jpg").shape[:2]
            file = root / "SegmentationClass" / f"{image_id}.png"
            with open_regular(file) as opened, Image.open(opened) as labels:
                mode, size, values = labels.mode, labels.size, np.unique(np.asarray(labels))
            if mode != "P":
                raise UserError(
                    f"{image_id}: the label map has mode {mode}; expected a palette (P)"
                )
            if size != (width, height):
                raise UserError(
                    f"{image_id}: the label map is {size}, but the image is {(width, height)}"
                )
            if wrong := [int(v) for v in values if v > classes and v != VOID]:
                raise UserError(f"{image_id}: labels {wrong}, but there are {classes} classes")
            return [str(value) for value in values]

        for found in _each(check, ids, split):
            split.labels.update(found)
        splits.append(split)
    for split in splits:
        yield _compared(split, splits)


def _check_scenes(layout: str, name: str, read: Callable[[], Scenes]) -> Split:
    split = Split(layout, name)
    try:
        scenes = read()
    except UserError as error:
        split.problems.append(str(error))
        return split
    split.images = len(scenes.scenes)
    split.labels.update(scenes.classes[i.label] for scene in scenes.scenes for i in scene.instances)
    split.notes += scenes.warnings
    split.files = {str(scene.file) for scene in scenes.scenes}
    _each(read_upright, scenes.scenes, split)
    return split


# ---- Shared by the checks


def _each(check: Callable[[T], R], items: Iterable[T], split: Split) -> list[R]:
    """Run a check on every item and return the results; exceptions become problems of the split."""

    def caught(item: T) -> tuple[R | None, str]:
        try:
            return check(item), ""
        except (UserError, ImageIOError) as error:
            return None, str(error)
        except (OSError, SyntaxError, ValueError) as error:
            return None, f"{item}: {error}"

    with ThreadPoolExecutor(THREADS) as pool:
        outcomes = list(pool.map(caught, items))
    split.problems += [problem for _, problem in outcomes if problem]
    return [result for result, problem in outcomes if not problem and result is not None]


def _splits(root: Path, kind: str) -> list[str]:
    """Names of the image lists in ImageSets/KIND, without the files CLASS_SPLIT.txt."""
    stems = sorted(path.stem for path in (root / "ImageSets" / kind).glob("*.txt"))
    return [stem for stem in stems if not any(stem.endswith(f"_{other}") for other in stems)]


def _compared(split: Split, splits: list[Split]) -> Split:
    """The split, with added problems for images that it shares with a disjoint split."""
    apart = {"train": ("val", "test"), "val": ("train", "test"), "test": ("trainval",)}
    by_name = {other.name: other for other in splits}
    for name in apart.get(split.name, ()):
        if name in by_name and (both := len(split.files & by_name[name].files)):
            split.problems.append(f"{both} images are also in {name}")
    if split.name == "trainval" and {"train", "val"} <= by_name.keys():
        parts = by_name["train"].files | by_name["val"].files
        if parts != split.files:
            split.problems.append("trainval is not the union of train and val")
    return split


CHECKS: dict[str, Callable[[Path], Iterator[Split]]] = {
    "folder": check_folder,
    "voc": check_voc,
    "segmentation": check_segmentation,
    "coco": check_coco,
}


def find_layouts(root: Path) -> Iterator[tuple[str, Path]]:
    """Layouts at ``root`` or up to two levels below it; (folder, root) if there is no other."""
    folders = [root]
    for _ in range(2):
        folders += [path for base in list(folders) for path in base.iterdir() if path.is_dir()][:50]
    found = False
    for base in dict.fromkeys(folders):
        sets = base / "ImageSets"
        layouts = {
            "voc": (sets / "Main").is_dir() and (base / "Annotations").is_dir(),
            "segmentation": (sets / "Segmentation").is_dir()
            and (base / "SegmentationClass").is_dir(),
            "coco": any((base / "annotations").glob("instances_*.json")),
        }
        if not any(layouts.values()):
            layouts["folder"] = any((base / name).is_dir() for name in SPLITS)
        for layout, present in layouts.items():
            if present:
                found = True
                yield layout, base
    if not found:
        yield "folder", root


def verify(data: str, layout: str) -> list[Split]:
    """Check a data set, given by name or folder, in one layout or in ``all``.

    Raises:
        UserError: the data set does not exist or does not have the layout.
    """
    if data == "digits":
        root = prepare_digits()
    elif not Path(data).expanduser().exists() and (":" in data or "_" in data):
        name, _, rest = data.partition(":")
        return [_check_scenes(name if rest else "scenes", data, partial(load_scenes, data))]
    else:
        root = Path(data).expanduser()
    if not root.is_dir():
        raise UserError(
            f"data {data!r} is neither a folder nor the name of a data set; expected digits, a folder, "
            "voc:FOLDER:SPLIT or coco:JSON:IMAGES"
        )
    wanted = LAYOUTS if layout == "all" else (layout,)
    splits = [s for name, base in find_layouts(root) if name in wanted for s in CHECKS[name](base)]
    if not splits:
        raise UserError(
            f"{root} has no {' or '.join(wanted)} layout.\n"
            "  folder        expects train/CLASS/ and val/CLASS/, CLASS/, or images alone\n"
            "  voc           expects ImageSets/Main/ and Annotations/\n"
            "  segmentation  expects ImageSets/Segmentation/ and SegmentationClass/\n"
            "  coco          expects annotations/instances_*.json\n"
            "in this folder or up to two levels below."
        )
    return splits


def table(splits: list[Split]) -> str:
    """One row per split, followed by its labels, notes and first problems."""
    width = max(12, *(len(split.name) + 2 for split in splits))
    heading = f"{'images':>8}{'classes':>9}{'labels':>9}{'problems':>10}"
    lines = [f"{'layout':<14}{'split':<{width}}{heading}"]
    for s in splits:
        counts = f"{s.images:>8}{len(s.labels):>9}{s.labels.total():>9}{len(s.problems):>10}"
        lines.append(f"{s.layout:<14}{s.name:<{width}}{counts}")
    for s in splits:
        counts = "  ".join(f"{name} {s.labels[name]}" for name in sorted(s.labels)[:25])
        lines.append(f"\n{s.layout} {s.name}: {counts or 'no labels'}")
        lines += [f"  note: {note}" for note in s.notes]
        lines += [f"  problem: {problem}" for problem in s.problems[:SHOWN]]
        if len(s.problems) > SHOWN:
            lines.append(f"  and {len(s.problems) - SHOWN} more problems")
    return "\n".join(lines)


def main() -> int:
    parser = ToolParser(__doc__)
    parser.add_argument(
        "--data", default="digits", help="digits, a folder, or the name of a detection data set"
    )
    parser.add_argument(
        "--layout", default="all", choices=("all", *LAYOUTS), help="layout to check (default: all)"
    )
    with exit_codes():
        options = parser.parse_args()
        splits = verify(options.data, options.layout)
    print(table(splits))
    return int(any(split.problems for split in splits))


if __name__ == "__main__":
    sys.exit(main())
