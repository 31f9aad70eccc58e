"""PASCAL VOC's layout with any classes: image labels from ImageSets/Main, boxes from Annotations/*.xml.

Boxes are read as in Detectron2 (detectron2/data/datasets/pascal_voc.py): VOC counts pixels from 1, and xmax
and ymax are inclusive, so 1 is subtracted from xmin and ymin, while xmax and ymax are unchanged. Coordinates
may be fractional. Irregular boxes that Detectron2 accepts are accepted and counted (``Oddities``).
"""

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from msbreg.data.annotated_images import (
    Oddities,
    Oddity,
    advising,
    box_oddity,
    check_images,
    quote,
    size_problem,
)
from msbreg.data.decoding import IMAGE_SUFFIXES
from msbreg.data.scenes import Instance, Scene, Scenes
from msbreg.run.errors import UserError
from msbreg.run.files import open_regular

# ---- Image-level labels from ImageSets/Main


@dataclass(frozen=True)
class ImageLabels:
    """Multi-label annotations of N images with C classes.

    Attributes:
        paths: N image paths.
        classes: C class names in alphabetical order.
        labels: (N, C) int8: 1 present, -1 absent, 0 present only as ``difficult`` objects.
    """

    paths: tuple[Path, ...]
    classes: tuple[str, ...]
    labels: np.ndarray


def find_voc(root: Path, year: int = 2007) -> Path:
    """The folder that contains ImageSets: ROOT itself, ROOT/VOC2007 or ROOT/VOCdevkit/VOC2007.

    ROOT itself is not considered if its name is that of another year, such as VOC2012.

    Raises:
        UserError: no such folder contains ImageSets.
    """
    folders = [root / f"VOC{year}", root / "VOCdevkit" / f"VOC{year}"]
    other_year = re.fullmatch(rf"VOC(?!{year})\d{{4}}", root.resolve().name)
    if not other_year:
        folders.insert(0, root)
    for folder in folders:
        if (folder / "ImageSets" / "Main").is_dir():
            return folder
    raise UserError(
        f"{root} does not have VOC's layout; expected ImageSets/Main in one of: "
        f"{', '.join(map(str, folders))}"
    )


def image_labels(voc: Path, split: str) -> ImageLabels:
    """Labels of a split from the files ``<class>_<split>.txt`` in ``VOC/ImageSets/Main``.

    Raises:
        UserError: there are no such files, a line is not ``id label``, the files list different images, or an
            image is missing in JPEGImages.
    """
    main = voc / "ImageSets" / "Main"
    ending = f"_{split}.txt"
    files = sorted(file for file in main.iterdir() if file.name.endswith(ending))
    if not files:
        raise UserError(
            f"{main} contains no files <class>{ending}; expected one such file per class"
        )
    columns = [_read_labels(file) for file in files]
    ids = list(columns[0])
    if not ids:
        raise UserError(f"{files[0]} is empty; expected one line 'id label' per image of {split}")
    for file, column in zip(files, columns, strict=True):
        if list(column) != ids:
            raise UserError(
                f"{file} and {files[0].name} list different images; "
                "expected the same ids in the same order in each class's file"
            )
    paths = tuple(voc / "JPEGImages" / f"{name}.jpg" for name in ids)
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(ids)} images of {split} are missing, the first: {missing[0]}"
        )
    labels = np.array([[column[name] for column in columns] for name in ids], dtype=np.int8)
    return ImageLabels(paths, tuple(file.name.removesuffix(ending) for file in files), labels)


def _read_labels(file: Path) -> dict[str, int]:
    labels: dict[str, int] = {}
    for number, line in enumerate(_text(file).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2 or words[1] not in ("1", "-1", "0"):
            raise UserError(f"{file}:{number} is {line!r}; expected an image id and 1, 0 or -1")
        if words[0] in labels:
            raise UserError(f"{file}:{number} lists the image {words[0]} a second time")
        labels[words[0]] = int(words[1])
    return labels


# ---- Boxes from Annotations/*.xml


log = logging.getLogger("msbreg")


class UnknownClass(UserError):
    """The class of an object is not a class of the data set."""


# Detectron2's (alphabetical) order, on which the labels of trained heads depend.
# fmt: off
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)
# fmt: on
CLASSES_FILE = "classes.txt"


def voc_scenes(
    name: str,
    voc: Path,
    split: str,
    *,
    classes: Sequence[str] | None = None,
    look_at_images: bool = True,
    strict: bool = False,
) -> Scenes:
    """The images of ImageSets/Main/SPLIT.txt with their boxes.

    Args:
        name: name of the scenes.
        voc: folder that contains ImageSets, Annotations and JPEGImages.
        classes: class names, indexed by label; None uses ``classes_of(voc)``.
        look_at_images: check that image files exist and have the annotated size; not needed for scoring.
        strict: raise an error for irregular data that Detectron2 accepts.

    Raises:
        UserError: data are missing, malformed or contradictory; the message gives file and field.
    """
    if look_at_images and not (voc / "JPEGImages").is_dir():
        raise UserError(f"{voc} has no folder JPEGImages; expected the images there")
    odd = Oddities(voc / "Annotations", strict=strict)
    ids = read_split(voc, split)
    files = _image_files(voc) if look_at_images else {}
    scenes = []
    with advising():
        names = tuple(classes) if classes is not None else classes_of(voc)
        check_classes(names, "the list of classes")
        for scene_id in ids:
            file = files.get(scene_id, voc / "JPEGImages" / f"{scene_id}.jpg")
            scenes.append(
                read_annotation(voc / "Annotations" / f"{scene_id}.xml", scene_id, file, names, odd)
            )
        if look_at_images:
            xml = voc / "Annotations"
            check_images(scenes, annotated_in=lambda scene: str(xml / f"{scene.id}.xml"))
    return Scenes(
        name,
        names,
        tuple(scenes),
        annotations=voc / "Annotations",
        year=_year(voc),
        warnings=odd.sentences(),
        oddities=odd.counts(),
    )


def _year(voc: Path) -> int | None:
    """The year in a folder name such as VOC2007, before or after resolving links; None if there is none."""
    for name in (voc.name, voc.resolve().name):
        if year := re.fullmatch(r"VOC(\d{4})", name):
            return int(year[1])
    return None


def read_split(voc: Path, split: str) -> list[str]:
    """The image ids in ImageSets/Main/SPLIT.txt, one per line.

    Raises:
        UserError: the file is missing or empty, or lists an image twice.
    """
    file = voc / "ImageSets" / "Main" / f"{split}.txt"
    if not file.is_file():
        raise UserError(f"{file} does not exist; expected the image ids of {split}, one per line")
    lines: dict[str, int] = {}
    for number, line in enumerate(_text(file).splitlines(), 1):
        words = line.split()
        if len(words) > 1:
            raise UserError(f"{file}:{number} is {quote(line)}; expected one image id")
        for word in words:
            if word in lines:
                raise UserError(
                    f"{file}:{number} lists the image {word} a second time (first in line "
                    f"{lines[word]}); expected each image once"
                )
            lines[word] = number
    if not lines:
        raise UserError(f"{file} is empty; expected the image ids of {split}, one per line")
    return list(lines)


def classes_of(voc: Path) -> tuple[str, ...]:
    """The classes in ``classes.txt``, one per line; without this file, all names in Annotations, sorted.

    The annotations of all splits are read, so that all splits have the same labels.

    Raises:
        UserError: ``classes.txt`` is empty or lists a class twice, an annotation is malformed, or there are
            no objects.
    """
    file = voc / CLASSES_FILE
    if file.is_file():
        named = tuple(line.strip() for line in _text(file).splitlines() if line.strip())
        check_classes(named, str(file))
        return named
    annotations = sorted((voc / "Annotations").glob("*.xml"))
    found: set[str] = set()
    for annotation in annotations:
        objects = _parse(annotation).findall("object")
        found |= {_field(o, "name", f"{annotation}: object {n}") for n, o in enumerate(objects, 1)}
    if not found:
        raise UserError(
            f"{voc / 'Annotations'} contains {len(annotations)} annotations but no objects; "
            f"expected objects, or {file} with one class per line"
        )
    classes = tuple(sorted(found))
    log.info("%s: %d classes found in Annotations: %s", voc, len(classes), ", ".join(classes))
    return classes


def check_classes(classes: Sequence[str], where: str) -> None:
    """Check that there is at least one class and no duplicate.

    Raises:
        UserError: otherwise.
    """
    duplicates = sorted({name for name in classes if list(classes).count(name) > 1})
    if not classes or duplicates:
        state = f"contains {', '.join(duplicates)} twice" if duplicates else "is empty"
        raise UserError(f"{where} {state}; expected one or more different names")


def read_annotation(
    file: Path, scene_id: str, image: Path, classes: Sequence[str], odd: Oddities
) -> Scene:
    """Read one XML file.

    Raises:
        UserError: the file is missing or malformed, or a field is missing, not a number, or out of range.
    """
    root = _parse(file)
    size = root.find("size")
    if size is None:
        raise UserError(f"{file}: size is missing; expected size/width and size/height")
    height, width = (_pixels(size, side, str(file)) for side in ("height", "width"))
    if problem := size_problem(height, width):
        raise UserError(f"{file}: size: {problem}")
    read = _ObjectReader(height, width, classes, odd)
    instances = tuple(
        read.instance(element, f"{file}: object {number}")
        for number, element in enumerate(root.findall("object"), 1)
    )
    return Scene(scene_id, image, height, width, instances)


@dataclass(frozen=True)
class _ObjectReader:
    """Reads the objects of an image of this size."""

    height: int
    width: int
    classes: Sequence[str]
    odd: Oddities

    def instance(self, element: ElementTree.Element, where: str) -> Instance:
        """Read one ``object`` element."""
        name = _field(element, "name", where)
        where = f"{where} ({name})"
        if name not in self.classes:
            known = ", ".join(self.classes[:20]) + (", ..." if len(self.classes) > 20 else "")
            raise UnknownClass(
                f"{where}: unknown class; expected one of the {len(self.classes)} classes: {known}"
            )
        bounds = element.find("bndbox")
        if bounds is None:
            raise UserError(f"{where}: bndbox is missing; expected xmin, ymin, xmax and ymax in it")
        left, top, right, bottom = (
            _number(bounds, side, f"{where}: bndbox") for side in ("xmin", "ymin", "xmax", "ymax")
        )
        box = (left - 1.0, top - 1.0, right, bottom)
        text = f"{where}: bndbox {left:g}, {top:g}, {right:g}, {bottom:g}"
        if not all(map(math.isfinite, box)):
            raise UserError(f"{text} is not finite")
        beyond = max(-min(box[0], box[2]), -min(box[1], box[3]))
        beyond = max(beyond, max(box[0], box[2]) - self.width, max(box[1], box[3]) - self.height)
        kind = box_oddity(box[2] - box[0], box[3] - box[1], beyond)
        if kind is not None:
            self.odd.add(kind, text)
        return Instance(
            box,
            self.classes.index(name),
            difficult=self._difficult(element, where),
            truncated=self._truncated(element, where),
        )

    def _difficult(self, element: ElementTree.Element, where: str) -> bool:
        """Any integer, as in Detectron2's evaluation; 0 if missing, as in VOC2012's actions."""
        text = (element.findtext("difficult") or "0").strip()
        try:
            value = int(text)
        except ValueError as error:
            raise UserError(f"{where}: difficult is {quote(text)}; expected 0 or 1") from error
        if value not in (0, 1):
            self.odd.add(Oddity.DIFFICULT_VALUE, f"{where}: difficult is {quote(text)}")
        return value != 0

    def _truncated(self, element: ElementTree.Element, where: str) -> bool:
        """0 or 1; other values are accepted because this flag is not used."""
        text = (element.findtext("truncated") or "0").strip()
        if text not in ("0", "1"):
            self.odd.add(Oddity.TRUNCATED_VALUE, f"{where}: truncated is {quote(text)}")
        return text == "1"


def _parse(file: Path) -> ElementTree.Element:
    try:
        with open_regular(file) as opened:
            return ElementTree.parse(opened).getroot()
    except FileNotFoundError as error:
        raise UserError(f"{file} does not exist; expected the annotations of an image") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # LookupError: its encoding
        line = f":{error.position[0]}" if isinstance(error, ElementTree.ParseError) else ""
        raise UserError(f"{file}{line} is malformed XML: {error}") from error


def _field(element: ElementTree.Element, tag: str, where: str) -> str:
    text = (element.findtext(tag) or "").strip()
    if not text:
        raise UserError(f"{where}: {tag} is missing or empty")
    return text


def _number(element: ElementTree.Element, tag: str, where: str) -> float:
    text = _field(element, tag, where)
    try:
        return float(text)
    except ValueError as error:
        raise UserError(f"{where}: {tag} is {quote(text)}; expected a number") from error


def _pixels(size: ElementTree.Element, side: str, where: str) -> int:
    value = _number(size, side, f"{where}: size")
    if not (value > 0 and value.is_integer()):
        raise UserError(f"{where}: size: {side} is {value:g}; expected a positive integer")
    return int(value)


def _image_files(voc: Path) -> dict[str, Path]:
    """id -> file; ID.jpg, the suffix in VOC, takes precedence over other suffixes."""
    found = [f for f in (voc / "JPEGImages").iterdir() if f.suffix.lower() in IMAGE_SUFFIXES]
    return {file.stem: file for file in sorted(found, key=lambda f: (f.suffix == ".jpg", f.name))}


def _text(file: Path) -> str:
    try:
        with open_regular(file) as opened:
            return opened.read().decode("utf-8-sig")  # Windows editors add a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as text: {error}") from error
