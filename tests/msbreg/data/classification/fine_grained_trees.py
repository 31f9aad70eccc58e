"""Write small trees in the layouts of the fine-grained data sets, with digit scans as images."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.io import savemat

from tests.msbreg.data.classification.published_trees import digit_images, write_image


def _lines(file: Path, lines: list[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines))


def _images(classes: tuple[str, ...], count: int) -> Iterator[tuple[int, str, np.ndarray]]:
    """(number, class, image) of ``count`` images per class; classes alternate."""
    for number, image in enumerate(digit_images()):
        if number == count * len(classes):
            return
        yield number, classes[number % len(classes)], image


AIRCRAFT = ("A310", "F/A-18", "Model B200")


def aircraft_tree(root: Path) -> None:
    base = root / "fgvc-aircraft-2013b" / "data"
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": [], "trainval": []}
    for number, variant, image in _images(AIRCRAFT, 6):
        write_image(base / "images" / f"{number:07d}.jpg", image)
        split = ("train", "val", "test")[number // 3 % 3]
        lists[split].append(f"{number:07d} {variant}")
        if split != "test":
            lists["trainval"].append(lists[split][-1])
    for split, lines in lists.items():
        _lines(base / f"images_variant_{split}.txt", lines)
    _lines(base / "variants.txt", list(AIRCRAFT))


def caltech101_tree(root: Path) -> None:
    classes = ("BACKGROUND_Google", "ant")
    for number, name, image in _images(classes, 33):
        write_image(root / "101_ObjectCategories" / name / f"image_{number:04d}.jpg", image)


def cars_tree(root: Path) -> None:
    classes = ("AM General Hummer SUV 2000", "Acura RL Sedan 2012")
    rows: dict[str, list[tuple[str, int]]] = {"train": [], "test": []}
    for number, name, image in _images(classes, 4):
        split = ("train", "test")[number // 2 % 2]
        file = f"{len(rows[split]) + 1:05d}.jpg"
        write_image(root / f"cars_{split}" / file, image)
        rows[split].append((file, classes.index(name) + 1))
    (root / "devkit").mkdir()
    for split, file in (
        ("train", "devkit/cars_train_annos.mat"),
        ("test", "cars_test_annos_withlabels.mat"),
    ):
        kind = [("bbox_x1", "O"), ("class", "O"), ("fname", "O")]
        table = np.array([(1, label, name) for name, label in rows[split]], dtype=kind)
        savemat(root / file, {"annotations": table.reshape(1, -1)})
    names = np.array(classes, dtype=object).reshape(1, -1)
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": names})


def dtd_tree(root: Path) -> None:
    lists: dict[str, list[str]] = {}
    for number, name, image in _images(("banded", "zigzagged"), 6):
        path = f"{name}/{name}_{number:04d}.jpg"
        write_image(root / "dtd" / "images" / path, image)
        for partition in (1, 2):
            split = ("train", "val", "test")[(number // 2 + partition) % 3]
            lists.setdefault(f"{split}{partition}", []).append(path)
    for name, lines in lists.items():
        _lines(root / "dtd" / "labels" / f"{name}.txt", lines)


def flowers102_tree(root: Path) -> None:
    base = root / "flowers-102"
    splits: dict[str, list[int]] = {"trnid": [], "valid": [], "tstid": []}
    labels = []
    for number, name, image in _images(("1", "2"), 6):
        write_image(base / "jpg" / f"image_{number + 1:05d}.jpg", image)
        labels.append(int(name))
        list(splits.values())[number // 2 % 3].append(number + 1)
    savemat(base / "imagelabels.mat", {"labels": np.array([labels], np.uint8)})
    savemat(base / "setid.mat", {k: np.array([v], np.uint16) for k, v in splits.items()})


def food101_tree(root: Path) -> None:
    base, classes = root / "food-101", ("apple_pie", "waffles")
    lists: dict[str, list[str]] = {"train": [], "test": []}
    for number, name, image in _images(classes, 4):
        write_image(base / "images" / name / f"{1000 + number}.jpg", image)
        lists[("train", "test")[number // 2 % 2]].append(f"{name}/{1000 + number}")
    for split, lines in lists.items():
        _lines(base / "meta" / f"{split}.txt", lines)
    _lines(base / "meta" / "classes.txt", list(classes))


def pets_tree(root: Path) -> None:
    names = ("Abyssinian", "american_bulldog", "Bengal")
    lists: dict[str, list[str]] = {"trainval": ["#Image CLASS-ID SPECIES BREED ID"], "test": []}
    for number, name, image in _images(names, 4):
        write_image(root / "images" / f"{name}_{number}.jpg", image)
        split = ("trainval", "test")[number // 3 % 2]
        lists[split].append(f"{name}_{number} {names.index(name) + 1} 1 1")
    for split, lines in lists.items():
        _lines(root / "annotations" / f"{split}.txt", lines)


def sun397_tree(root: Path) -> None:
    base, classes = root / "SUN397", ("/a/abbey", "/a/apartment_building/outdoor")
    lists: dict[str, list[str]] = {"Training_01": [], "Testing_01": []}
    for number, name, image in _images(classes, 4):
        path = f"{name}/sun_{number:016x}.jpg"
        write_image(base / path.strip("/"), image)
        lists[("Training_01", "Testing_01")[number // 2 % 2]].append(path)
    for name, lines in lists.items():
        _lines(base / f"{name}.txt", lines)
    _lines(base / "ClassName.txt", list(classes))


def write_cifar(folder: Path, files: dict[str, int], classes: int, before: int) -> list[np.ndarray]:
    """Binary files of so many records each; returns the images in order."""
    folder.mkdir(parents=True)
    written, source = [], digit_images(32)
    for name, count in files.items():
        with open(folder / name, "wb") as file:
            for i in range(count):
                image = next(source)
                written.append(image)
                file.write(bytes([7] * (before - 1) + [i % classes]))
                for channel in range(3):
                    for row in range(32):
                        file.write(image[row, :, channel].tobytes())
    return written


def cifar10_tree(root: Path) -> list[np.ndarray]:
    files = {f"data_batch_{number}.bin": 4 for number in range(1, 6)} | {"test_batch.bin": 6}
    folder = root / "cifar-10-batches-bin"
    images = write_cifar(folder, files, 2, 1)
    _lines(folder / "batches.meta.txt", ["airplane", "automobile", ""])
    return images


def cifar100_tree(root: Path) -> list[np.ndarray]:
    folder = root / "cifar-100-binary"
    images = write_cifar(folder, {"train.bin": 8, "test.bin": 4}, 2, 2)
    _lines(folder / "fine_label_names.txt", ["apple", "aquarium_fish"])
    return images


# Layout -> the function, the split of the test images, its number of images and of classes.
FINE_GRAINED_TREES = {
    "aircraft": (aircraft_tree, "test", 6, 3),
    "caltech101": (caltech101_tree, "test", 6, 2),
    "cars": (cars_tree, "test", 4, 2),
    "cifar10": (cifar10_tree, "test", 6, 2),
    "cifar100": (cifar100_tree, "test", 4, 2),
    "dtd": (dtd_tree, "test", 4, 2),
    "flowers102": (flowers102_tree, "test", 4, 2),
    "food101": (food101_tree, "test", 4, 2),
    "pets": (pets_tree, "test", 6, 3),
    "sun397": (sun397_tree, "test", 4, 2),
}
