"""Check a data set on disk: the ImageFolder, VOC (boxes, label maps) and COCO layouts.

    python tools/verify_data.py                                  # the embedded digits
    python tools/verify_data.py --data /data/VOCdevkit --face voc

Prints one row per split, the instances per class, and what is wrong. Exit code 0: nothing is;
1: something is; 2: the question made no sense.
"""

import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import contextlib
import hashlib
import io
import json
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from msbreg.run.errors import UserError
from msbreg.run.inputs import check_data
from msbreg.run.options import ToolParser, exit_codes

FACES = ("folder", "voc", "segmentation", "coco")
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm"}
VOID = 255
SHOWN = 5  # problems listed per split


@dataclass
class Split:
    """What was found in one split. `classes` counts images (folder) or instances (others)."""

    face: str
    name: str
    images: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def find_faces(root: Path) -> Iterator[tuple[str, Path]]:
    """The layouts that lie at `root` or up to two folders below it."""
    folders = [root]
    for _ in range(2):
        folders += [path for base in list(folders) for path in base.iterdir() if path.is_dir()][:50]
    for base in dict.fromkeys(folders):
        if (base / "ImageSets").is_dir() and (base / "Annotations").is_dir():
            yield "voc", base
        if (base / "ImageSets").is_dir() and (base / "SegmentationClass").is_dir():
            yield "segmentation", base
        if list((base / "annotations").glob("instances_*.json")):
            yield "coco", base
        elif all(any(p.is_dir() for p in (base / s).glob("*")) for s in ("train", "val")):
            yield "folder", base


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of an image that decodes to its end; ValueError where it does not."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
            return image.size
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path.name} does not decode: {error}") from error


def check_folder(root: Path) -> Iterator[Split]:
    seen: dict[str, str] = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        split = Split("folder", folder.name)
        for path in sorted(p for p in folder.glob("*/*") if p.suffix.lower() in SUFFIXES):
            split.images += 1
            split.classes[path.parent.name] += 1
            try:
                image_size(path)
            except ValueError as error:
                split.problems.append(str(error))
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            other = seen.setdefault(digest, folder.name)
            if other != folder.name:
                split.problems.append(f"{path.name} is also in {other}")
        yield split


def image_set(root: Path, kind: str, name: str) -> list[str]:
    return (root / "ImageSets" / kind / f"{name}.txt").read_text().split()


def voc_splits(root: Path, kind: str) -> list[str]:
    """Splits that list images, without the per-class files."""
    stems = {path.stem for path in (root / "ImageSets" / kind).glob("*.txt")}
    return [name for name in ("train", "val", "trainval", "test") if name in stems]


def check_disjoint(root: Path, kind: str, split: Split) -> None:
    names = {other: set(image_set(root, kind, other)) for other in voc_splits(root, kind)}
    apart = {"train": ("val", "test"), "val": ("train", "test"), "test": ("trainval",)}
    for other in apart.get(split.name, ()):
        if both := names[split.name] & names.get(other, set()):
            split.problems.append(f"{len(both)} images are also in {other}")
    parts = names.get("train", set()) | names.get("val", set())
    if split.name == "trainval" and parts and parts != names["trainval"]:
        split.problems.append("trainval is not train and val together")


def check_voc_image(root: Path, name: str, split: Split) -> dict[str, int]:
    """Check one image and its boxes; returns class -> 1, or 0 if only difficult."""
    tree = ET.parse(root / "Annotations" / f"{name}.xml")
    declared = tuple(int(tree.findtext(f"size/{key}", "0")) for key in ("width", "height"))
    size = image_size(root / "JPEGImages" / f"{name}.jpg")
    if size != declared:
        split.problems.append(f"{name}: image is {size}, annotation says {declared}")
    present: dict[str, int] = {}
    for element in tree.iter("object"):
        label = element.findtext("name", "")
        split.classes[label] += 1
        easy = int(element.findtext("difficult", "0") == "0")
        present[label] = max(present.get(label, 0), easy)
        keys = ("xmin", "ymin", "xmax", "ymax")
        x0, y0, x1, y1 = (float(element.findtext(f"bndbox/{key}", "nan")) for key in keys)
        if not (1 <= x0 <= x1 <= size[0] and 1 <= y0 <= y1 <= size[1]):
            split.problems.append(f"{name}: box {(x0, y0, x1, y1)} is not inside {size}")
    return present


def check_voc(root: Path) -> Iterator[Split]:
    for split_name in voc_splits(root, "Main"):
        split = Split("voc", split_name)
        check_disjoint(root, "Main", split)
        present: dict[str, dict[str, int]] = {}
        for name in image_set(root, "Main", split_name):
            split.images += 1
            try:
                present[name] = check_voc_image(root, name, split)
            except (OSError, ET.ParseError, ValueError) as error:
                split.problems.append(f"{name}: {error}")
        for path in sorted((root / "ImageSets" / "Main").glob(f"*_{split_name}.txt")):
            label = path.stem.removesuffix(f"_{split_name}")
            listed = dict(line.split() for line in path.read_text().splitlines() if line.strip())
            if listed.keys() != set(image_set(root, "Main", split_name)):
                split.problems.append(f"{path.name} lists other images than {split_name}.txt")
            wrong = [n for n in present if int(listed.get(n, -9)) != present[n].get(label, -1)]
            if wrong:
                split.problems.append(f"{path.name} contradicts the XML of {', '.join(wrong[:3])}")
        yield split


def check_segmentation(root: Path) -> Iterator[Split]:
    from PIL import Image

    mains = (root / "ImageSets" / "Main").glob("*_train.txt")
    classes = len(list(mains)) or 20
    for split_name in voc_splits(root, "Segmentation"):
        split = Split("segmentation", split_name)
        check_disjoint(root, "Segmentation", split)
        for name in image_set(root, "Segmentation", split_name):
            split.images += 1
            try:
                size = image_size(root / "JPEGImages" / f"{name}.jpg")
                with Image.open(root / "SegmentationClass" / f"{name}.png") as image:
                    mode, values = image.mode, np.unique(np.asarray(image))
                    if image.size != size:
                        split.problems.append(f"{name}: map is {image.size}, image is {size}")
            except (OSError, ValueError) as error:
                split.problems.append(f"{name}: {error}")
                continue
            split.classes.update(str(value) for value in values)
            if mode != "P":
                split.problems.append(f"{name}: mode {mode}, not a palette image")
            if wrong := [int(v) for v in values if v > classes and v != VOID]:
                split.problems.append(f"{name}: labels {wrong} with {classes} classes")
        yield split


def check_coco(root: Path) -> Iterator[Split]:
    from pycocotools.coco import COCO

    for path in sorted((root / "annotations").glob("instances_*.json")):
        split = Split("coco", path.stem.removeprefix("instances_"))
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                coco = COCO(path)
        except (json.JSONDecodeError, KeyError) as error:
            split.problems.append(f"{path.name} does not load: {error!r}")
            yield split
            continue
        split.images = len(coco.imgs)
        for image in coco.imgs.values():
            try:
                size = image_size(root / split.name / image["file_name"])
                if size != (image["width"], image["height"]):
                    split.problems.append(f"{image['file_name']}: image is {size}")
            except (OSError, ValueError) as error:
                split.problems.append(str(error))
        check_coco_annotations(coco, split)
        if not split.problems:
            for kind in ("bbox", "segm"):
                if (score := self_precision(coco, kind)) < 1 - 1e-6:
                    split.problems.append(f"{kind}: the truth scores AP {score:.4f} on itself")
        yield split


def check_coco_annotations(coco: Any, split: Split) -> None:
    if len(coco.anns) != len(coco.dataset["annotations"]):
        split.problems.append("annotation ids repeat")
    for annotation in coco.dataset["annotations"]:
        image, category = (
            coco.imgs.get(annotation["image_id"]),
            coco.cats.get(annotation["category_id"]),
        )
        if image is None or category is None:
            split.problems.append(f"annotation {annotation['id']}: no such image or category")
            continue
        split.classes[category["name"]] += 1
        x, y, width, height = annotation["bbox"]
        inside = x + width <= image["width"] + 0.5 and y + height <= image["height"] + 0.5
        if min(x, y) < 0 or min(width, height) <= 0 or not inside:
            split.problems.append(f"annotation {annotation['id']}: box {annotation['bbox']}")


def self_precision(coco: Any, kind: str, images: int = 500) -> float:
    """COCO AP (all sizes) of the non-crowd truth of the first `images` against itself."""
    from pycocotools.cocoeval import COCOeval

    chosen = sorted(coco.imgs)[:images]
    truth = coco.loadAnns(coco.getAnnIds(chosen, iscrowd=0))
    keys = {"image_id", "category_id", "bbox"}
    found = [{key: a[key] for key in keys} | {"score": 1.0} for a in truth]
    if kind == "segm":
        for detection, annotation in zip(found, truth, strict=True):
            del detection["bbox"]
            detection["segmentation"] = coco.annToRLE(annotation)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco, coco.loadRes(found), kind)
        evaluation.params.imgIds = chosen
        evaluation.params.maxDets = [max(Counter(a["image_id"] for a in truth).values())]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"]
    return float(precision[precision > -1].mean())


CHECKS: dict[str, Callable[[Path], Iterator[Split]]] = {
    "folder": check_folder,
    "voc": check_voc,
    "segmentation": check_segmentation,
    "coco": check_coco,
}


def table(splits: list[Split]) -> str:
    lines = [f"{'face':<13}{'split':<12}{'images':>7}{'labels':>8}{'problems':>10}"]
    for s in splits:
        labels = sum(s.classes.values())
        lines.append(f"{s.face:<13}{s.name:<12}{s.images:>7}{labels:>8}{len(s.problems):>10}")
    for s in splits:
        counts = "  ".join(f"{name} {s.classes[name]}" for name in sorted(s.classes)[:25])
        lines.append(f"\n{s.face} {s.name}: {counts}")
        lines += [f"  ! {problem}" for problem in s.problems[:SHOWN]]
        if len(s.problems) > SHOWN:
            lines.append(f"  ! and {len(s.problems) - SHOWN} more")
    return "\n".join(lines)


def verify(data: str, face: str) -> list[Split]:
    if data == "digits":
        from msbreg.data.digits.generate import prepare_digits

        root = prepare_digits()
    else:
        root = Path(data).expanduser()
    if not root.is_dir():
        raise UserError(f"{data} is neither a folder nor the name of an embedded set (digits).")
    wanted = FACES if face == "all" else (face,)
    splits = [s for f, base in find_faces(root) if f in wanted for s in CHECKS[f](base)]
    if not splits:
        raise UserError(
            f"{root} holds no {' or '.join(wanted)} layout.\n"
            "  folder        wants train/CLASS/ and val/CLASS/\n"
            "  voc           wants ImageSets/Main/ and Annotations/\n"
            "  segmentation  wants ImageSets/Segmentation/ and SegmentationClass/\n"
            "  coco          wants annotations/instances_*.json\n"
            "here or up to two folders below."
        )
    return splits


def main() -> int:
    parser = ToolParser(__doc__)
    parser.add_argument("--data", default="digits", help="digits, or a folder")
    parser.add_argument("--face", default="all", choices=("all", *FACES))
    options = parser.parse_args()
    with exit_codes():
        check_data(options.data, ("digits",))
        splits = verify(options.data, options.face)
    print(table(splits))
    return int(any(split.problems for split in splits))


if __name__ == "__main__":
    sys.exit(main())
