"""Test sets for classifiers of ImageNet: other pictures of its classes, and corrupted ones.

    imagenet-a       imagenet-a/n01498041/*.jpg           200 classes (Hendrycks et al., arXiv 1907.07174)
    imagenet-r       imagenet-r/n01443537/*.jpg           200 classes (Hendrycks et al., arXiv 2006.16241)
    imagenet-sketch  sketch/n01440764/*.JPEG              (Wang et al., arXiv 1905.13549)
    imagenet-v2      imagenetv2-matched-frequency-format-val/0/*.jpeg   (Recht et al., arXiv 1902.10811)
    imagenet-c       gaussian_noise/1/n01440764/*.JPEG    corruption/severity (Hendrycks, arXiv 1903.12261)
    objectnet        objectnet-1.0/{images/air_freshener/*.png, mappings/}   (Barbu et al., NeurIPS 2019)

Folders of ImageNet-V2 are indices in the order of sorted wnids, 0 to 999; as strings, 10 would come before 2.
Images of ObjectNet have a red border, and only 113 of its classes are also classes of ImageNet.
"""

import hashlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from msbreg.data.classification.file_lists import (
    NoSplit,
    PublishedSplit,
    WrongLayout,
    check_labels,
    first_folder,
    read_lines,
    relabeled,
)
from msbreg.data.classification.imagenet import WNID
from msbreg.data.folder import ImageList, list_images
from msbreg.run.errors import UserError
from msbreg.run.files import open_regular

# Layout -> the names of its folder.
_WNID_FOLDERS = {
    "imagenet-a": ("imagenet-a",),
    "imagenet-r": ("imagenet-r",),
    "imagenet-sketch": ("sketch", "imagenet-sketch"),
}
V2 = {
    "matched-frequency": "imagenetv2-matched-frequency-format-val",
    "threshold-0.7": "imagenetv2-threshold0.7-format-val",
    "top-images": "imagenetv2-top-images-format-val",
}
# The 15 corruptions of the benchmark; four more are meant for validation.
CORRUPTIONS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
SEVERITIES = (1, 2, 3, 4, 5)
BORDER = 2  # the border is one pixel; the next one may contain some of it
# The counts are those of the papers above and of mlfoundations/datacomp (tasklist.yml). The authors of
# ImageNet-Sketch round theirs to 50,000; ObjectNet has 50,273 images, 18,574 of them in the common classes.
VARIANTS: dict[str, dict[str, PublishedSplit]] = {
    "imagenet-a": {"test": PublishedSplit(7_500, 200)},
    "imagenet-r": {"test": PublishedSplit(30_000, 200)},
    "imagenet-sketch": {"test": PublishedSplit(50_889, 1000)},
    "imagenet-v2": dict.fromkeys(V2, PublishedSplit(10_000, 1000, (10, 10))),
    "imagenet-c": {
        f"{corruption}/{severity}": PublishedSplit(50_000, 1000, (50, 50))
        for group in CORRUPTIONS.values()
        for corruption in group
        for severity in SEVERITIES
    },
    "objectnet": {"test": PublishedSplit(18_574, 113)},
}


class ObjectNetImages(ImageList):
    """Images without their red border."""

    def image(self, i: int) -> np.ndarray:  # (H, W, 3) uint8 RGB
        pixels = super().image(i)
        if min(pixels.shape[:2]) <= 2 * BORDER:
            raise UserError(
                f"{self.name(i)} has {pixels.shape[1]} x {pixels.shape[0]} pixels; expected more than the "
                f"{BORDER} of the border on each side"
            )
        return np.ascontiguousarray(pixels[BORDER:-BORDER, BORDER:-BORDER])

    def cache_key(self) -> str:
        return hashlib.sha256(f"border {BORDER} {super().cache_key()}".encode()).hexdigest()


def open_variant(name: str, root: Path, split: str) -> ImageList:
    """Images of one split of the layout ``name`` in ``VARIANTS``.

    The classes are wnids; for ImageNet-V2, indices; for ObjectNet, the folders of the 113 common classes.

    Raises:
        WrongLayout: the folder is not there, or has other class folders.
        NoSplit: the split does not exist.
    """
    if split not in VARIANTS[name]:
        known = list(VARIANTS[name])
        shown = ", ".join(known[:6]) + (", ..." if len(known) > 6 else "")
        raise NoSplit(f"{name} has no split {split!r}; expected {shown}")
    folder = _folder(name, root, split)
    if folder is None:
        raise WrongLayout(
            f"{root} contains no folder of {name}, such as {_example(name, root, split)}"
        )
    images = list_images(folder)
    if images.labels is None:
        raise WrongLayout(f"{folder} contains images but no class folders")
    if name == "imagenet-v2":
        return _numeric(images)
    if name == "objectnet":
        return _common(images, folder.parent)
    if strange := [wnid for wnid in images.classes if not WNID.fullmatch(wnid)]:
        raise WrongLayout(
            f"{folder} contains the folder {strange[0]!r}; expected names such as n01440764"
        )
    return images


def variant_splits(name: str, root: Path) -> tuple[str, ...]:
    """The splits that are below ROOT; empty if ROOT has another layout."""
    return tuple(split for split in VARIANTS[name] if _folder(name, root, split) is not None)


def _folder(name: str, root: Path, split: str) -> Path | None:
    """The folder of class folders; None if there is none."""
    candidates: list[Path] = []
    if name in _WNID_FOLDERS:
        candidates = [root / folder for folder in _WNID_FOLDERS[name]]
        candidates += [root] * (root.name in _WNID_FOLDERS[name])
    elif name == "imagenet-v2":
        candidates = [root / V2[split], *([root] * (root.name == V2[split]))]
    elif name == "objectnet":
        base = first_folder((root, root / "objectnet-1.0"), "mappings")
        candidates = [base / "images"] if base is not None else []
    else:
        corruption = split.partition("/")[0]
        group = next(g for g, names in CORRUPTIONS.items() if corruption in names)
        bases = [root, root / "imagenet-c", root / "ImageNet-C"]
        candidates = [place / split for base in bases for place in (base, base / group)]
    return next((folder for folder in candidates if folder.is_dir()), None)


def _example(name: str, root: Path, split: str) -> Path:
    if name == "imagenet-v2":
        return root / V2[split]
    if name == "objectnet":
        return root / "objectnet-1.0" / "mappings"
    return root / (_WNID_FOLDERS[name][0] if name in _WNID_FOLDERS else split)


def _numeric(images: ImageList) -> ImageList:
    """Classes named by their index, in numeric order."""
    if strange := [
        n for n in images.classes if not (n.isascii() and n.isdigit() and int(n) < 1000)
    ]:
        raise WrongLayout(
            f"{images.root} contains the folder {strange[0]!r}; expected 0 to 999, the index of the class in "
            "the order of sorted wnids"
        )
    assert images.labels is not None
    classes = tuple(sorted(images.classes, key=int))
    new = np.array([classes.index(name) for name in images.classes])
    return relabeled(images, new[images.labels], classes)


# ---- ObjectNet


def objectnet_classes(mappings: Path) -> dict[str, tuple[int, ...]]:
    """Folder -> indices of its ImageNet classes in the order of sorted wnids, for the common classes.

    Four files are chained: folder -> name of the object; name -> labels of ImageNet, separated by "; ";
    label -> its line; index -> line.

    Raises:
        UserError: a file is missing, or the files do not fit together.
    """
    folders = _json(mappings / "folder_to_objectnet_label.json")
    labels = _json(mappings / "objectnet_to_imagenet_1k.json")
    index_of_line = {
        int(line): int(index)
        for index, line in _json(mappings / "pytorch_to_imagenet_2012_id.json").items()
    }
    lines = read_lines(mappings / "imagenet_to_label_2012_v2")
    line_of_label = {line.strip(): number for number, line in enumerate(lines)}
    found: dict[str, tuple[int, ...]] = {}
    for folder, name in sorted(folders.items()):
        if name not in labels:
            continue
        wanted = str(labels[name]).split("; ")
        try:
            found[folder] = tuple(index_of_line[line_of_label[label]] for label in wanted)
        except KeyError as error:
            raise UserError(
                f"{mappings}: the class {error} of {name!r} is not in the lists of ImageNet's classes; "
                "expected the four files of one version of ObjectNet"
            ) from error
    return found


def _json(file: Path) -> dict[str, Any]:
    try:
        with open_regular(file) as opened:
            content = json.loads(opened.read())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read: {error}; expected a file of ObjectNet") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} is not a json object; expected a file of ObjectNet")
    return content


def _common(images: ImageList, base: Path) -> ImageList:
    """The images of classes that ImageNet also has, without their border."""
    assert images.labels is not None
    common = objectnet_classes(base / "mappings")
    classes = tuple(name for name in images.classes if name in common)
    if not classes:
        raise UserError(
            f"none of the folders of {images.root} is a class of ImageNet by {base / 'mappings'}; expected "
            "folders such as alarm_clock"
        )
    new = np.full(len(images.classes), -1)
    new[[images.classes.index(name) for name in classes]] = np.arange(len(classes))
    labels = new[images.labels]
    kept = images.subset(np.flatnonzero(labels >= 0))
    check_labels(labels[labels >= 0], classes, str(images.root))
    chosen = relabeled(kept, labels[labels >= 0], classes)
    return ObjectNetImages(**{field.name: getattr(chosen, field.name) for field in fields(chosen)})
