"""Labels of ImageNet's validation images, which are distributed in one folder without labels.

Two files have them. Kaggle's ``LOC_val_solution.csv`` names the wnid of each image. The devkit's
``ILSVRC2012_validation_ground_truth.txt`` has an ILSVRC2012_ID per line, 1 to 1000, which is NOT the order of
sorted wnids: ``meta.mat`` of the devkit translates it.
"""

import hashlib
import re
from pathlib import Path

import numpy as np

from msbreg.data.classification.file_lists import (
    check_labels,
    first_folder,
    read_lines,
    without_missing,
)
from msbreg.data.folder import (
    ImageList,
    add_files,
    file_size,
    list_images,
    missing_classes,
    read_classes,
)
from msbreg.data.packed_paths import PackedPaths
from msbreg.run.errors import UserError
from msbreg.run.files import open_regular

KAGGLE = "LOC_val_solution.csv"
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
META = "meta.mat"


def flat_validation(folder: Path, root: Path, classes_file: Path | None = None) -> ImageList:
    """The validation images of a flat folder, with labels from the files below or above ``root``.

    Their order and fingerprint are those of class folders with the same images.

    Args:
        classes_file: file with one wnid per line; only these classes are used, in sorted order.

    Raises:
        MissingImages: some of the labeled images are missing.
        UserError: there are no labels, images without a label, or classes without images.
    """
    wnids, label_file = _labels_of_stems(folder, root)
    found = list_images(folder)
    by_stem = {Path(path).stem: path for path in found.paths}
    if unknown := sorted(by_stem.keys() - wnids.keys()):
        raise UserError(
            f"{label_file} has no label for {len(unknown)} images of {folder}, such as {unknown[0]}"
        )
    known = sorted(set(wnids.values()))
    classes = tuple(known if classes_file is None else read_classes(classes_file))
    if classes_file is not None and (absent := [c for c in classes if c not in set(known)]):
        raise UserError(missing_classes(folder, absent, len(classes), classes_file))
    index = {wnid: label for label, wnid in enumerate(classes)}
    listed = sorted(
        (wnid, by_stem.get(stem, f"{stem}.JPEG")) for stem, wnid in wnids.items() if wnid in index
    )
    labels = np.array([index[wnid] for wnid, _ in listed], np.int64)
    check_labels(labels, classes, str(label_file))
    sizes = [file_size(folder / path) for _, path in listed]
    digest = hashlib.sha256()
    add_files(
        digest,
        [(f"{wnid}/{path}", size) for (wnid, path), size in zip(listed, sizes, strict=True)],
    )
    images = ImageList(
        root=folder,
        paths=PackedPaths(path for _, path in listed),
        labels=labels,
        classes=classes,
        fingerprint=digest.hexdigest(),
        ignored=found.ignored,
    )
    return without_missing(images, np.array(sizes) < 0, label_file)


def _labels_of_stems(folder: Path, root: Path) -> tuple[dict[str, str], Path]:
    """File name without suffix -> wnid, in sorted order; and the file that says so."""
    above = [folder.parent, *folder.parent.parents][:5]
    kaggle = first_folder([root, *above], KAGGLE)
    if kaggle is not None:
        return _kaggle_labels(kaggle / KAGGLE), kaggle / KAGGLE
    devkits = [root, root / "data", *sorted(root.glob("ILSVRC2012_devkit*/data")), folder.parent]
    devkit = first_folder(devkits, GROUND_TRUTH)
    if devkit is None:
        raise UserError(
            f"{folder} contains images but no class folders, and their labels were not found.\n"
            f"Expected {folder}/n01440764/*.JPEG, or Kaggle's {KAGGLE} in {root}, or the devkit's "
            f"{GROUND_TRUTH} and {META} in {root}"
        )
    return _devkit_labels(devkit), devkit / GROUND_TRUTH


def _kaggle_labels(file: Path) -> dict[str, str]:
    """The first word of each prediction string: ``ILSVRC2012_val_00048981,n03995372 85 1 499 272``.

    An image with several boxes repeats the same wnid.
    """
    header, *lines = read_lines(file) or [""]
    if header.replace(" ", "") != "ImageId,PredictionString":
        raise UserError(
            f"{file} starts with {header[:60]!r}; expected the line 'ImageId,PredictionString'"
        )
    labels: dict[str, str] = {}
    for number, line in enumerate(lines, 2):
        stem, _, boxes = line.partition(",")
        words = boxes.strip().strip('"').split()
        if not words or not re.fullmatch(r"n\d{8}", words[0]):
            raise UserError(
                f"{file}:{number} is {line[:60]!r}; expected an image, a comma, a wnid and a box"
            )
        labels[stem.strip()] = words[0]
    return dict(sorted(labels.items()))


def _devkit_labels(folder: Path) -> dict[str, str]:
    """Line i of the ground truth is the ILSVRC2012_ID of ILSVRC2012_val_{i:08d}."""
    file = folder / GROUND_TRUTH
    wnid_of = _meta(folder / META)
    labels: dict[str, str] = {}
    for number, line in enumerate(read_lines(file), 1):
        word = line.strip()
        if not word.isascii() or not word.isdigit() or int(word) not in wnid_of:
            raise UserError(
                f"{file}:{number} is {word[:60]!r}; expected an ILSVRC2012_ID, 1 to {len(wnid_of)}"
            )
        labels[f"ILSVRC2012_val_{number:08d}"] = wnid_of[int(word)]
    return labels


def _meta(file: Path) -> dict[int, str]:
    """ILSVRC2012_ID -> wnid of the leaf synsets, which come before the inner nodes of the hierarchy."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        with open_regular(file) as opened:
            synsets = np.atleast_1d(loadmat(opened, squeeze_me=True)["synsets"])
            return {
                int(row["ILSVRC2012_ID"]): str(row["WNID"])
                for row in synsets
                if int(row["num_children"]) == 0
            }
    except OSError as error:
        raise UserError(
            f"{file} cannot be read: {error.strerror or error}; {GROUND_TRUTH} has class numbers of the "
            "devkit, which only meta.mat beside it translates to wnids"
        ) from error
    except (KeyError, ValueError, TypeError, IndexError, MatReadError) as error:
        raise UserError(
            f"{file} is not the devkit's meta.mat ({error}); expected its table 'synsets'"
        ) from error
