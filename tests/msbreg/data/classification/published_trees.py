"""Write small trees in the layouts of published data sets, from scikit-learn's digit scans.

Every image is another scan, so no two splits share one.
"""

import functools
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from scipy.io import savemat
from sklearn.datasets import load_digits

WNIDS = ("n01440764", "n01443537", "n02123045")  # in sorted order


@functools.cache
def scans() -> tuple[np.ndarray, np.ndarray]:
    """(1797, 8, 8) in 0..255 and the digits (1797,)."""
    digits = load_digits()
    return (digits.images * 15).astype(np.uint8), digits.target


def digit_images(side: int = 24) -> Iterator[np.ndarray]:  # (side, side, 3) uint8 RGB
    """Different color images, always in the same order."""
    for number, scan in enumerate(scans()[0]):
        gray = cv2.resize(scan, (side, side), interpolation=cv2.INTER_NEAREST)
        tint = np.array([255, 40 + number % 200, 90], np.float64) / 255
        yield (gray[..., None] * tint).astype(np.uint8)


def write_image(path: Path, image: np.ndarray) -> None:  # (H, W, 3) RGB
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.ascontiguousarray(image[..., ::-1]))


def imagenet_tree(
    root: Path, *, wnids: tuple[str, ...] = WNIDS, train: int = 4, val: int = 2, flat: bool = False
) -> dict[str, str]:
    """train/WNID/*.JPEG and val/WNID/*.JPEG, or a flat val/; returns validation stem -> wnid."""
    images = digit_images()
    for wnid in wnids:
        for i in range(train):
            write_image(root / "train" / wnid / f"{wnid}_{10 * i + 3}.JPEG", next(images))
    # Validation images of a class do not follow one another.
    order = [wnids[i % len(wnids)] for i in range(val * len(wnids))][::-1]
    labels = {f"ILSVRC2012_val_{i:08d}": wnid for i, wnid in enumerate(order, 1)}
    for stem, wnid in labels.items():
        folder = root / "val" if flat else root / "val" / wnid
        write_image(folder / f"{stem}.JPEG", next(images))
    return labels


def write_devkit(root: Path, labels: dict[str, str], *, ids: dict[str, int]) -> None:
    """The devkit's meta.mat with these class numbers and an inner node, and the ground truth."""
    folder = root / "ILSVRC2012_devkit_t12" / "data"
    folder.mkdir(parents=True)
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    rows = [(number, wnid, "words", 0) for wnid, number in ids.items()]
    rows.append((len(ids) + 1, "n00001740", "entity", 2))
    savemat(folder / "meta.mat", {"synsets": np.array(rows, dtype=fields).reshape(-1, 1)})
    lines = [f"{ids[wnid]}\n" for _, wnid in sorted(labels.items())]
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(lines))


def write_kaggle_labels(root: Path, labels: dict[str, str]) -> None:
    """LOC_val_solution.csv, in another order than the files, and with two boxes for the first image."""
    rows = [f"{stem},{wnid} 1 1 20 20 " for stem, wnid in reversed(labels.items())]
    rows[-1] += f"{rows[-1].partition(',')[2]}"
    (root / "LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\n" + "\n".join(rows) + "\n"
    )


def stl10_tree(root: Path, *, train: int = 20, test: int = 10, unlabeled: int = 5) -> np.ndarray:
    """The binary files; returns the images (N, 96, 96, 3) of train, test and unlabeled, one after another."""
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    images = np.stack(list(itertools.islice(digit_images(96), train + test + unlabeled)))
    start = 0
    for name, count in (("train", train), ("test", test), ("unlabeled", unlabeled)):
        with open(folder / f"{name}_X.bin", "wb") as file:
            for image in images[start : start + count]:
                for channel in range(3):
                    for column in range(96):
                        file.write(image[:, column, channel].tobytes())
        start += count
    for name, count in (("train", train), ("test", test)):
        (folder / f"{name}_y.bin").write_bytes(bytes(1 + i % 10 for i in range(count)))
    (folder / "fold_indices.txt").write_text(
        "".join(" ".join(str((i + fold) % train) for i in range(10)) + "\n" for fold in range(10))
    )
    return images


PLACES = ("a/abbey", "a/apartment building/outdoor", "b/bar")


def places205_tree(root: Path, *, train: int = 4, val: int = 2) -> None:
    """The published lists and images; one category has a space in its name and a subfolder."""
    lists = root / "trainvalsplit_places205"
    lists.mkdir(parents=True)
    images = digit_images()
    for split, count in (("train", train), ("val", val)):
        lines = []
        for label, place in enumerate(PLACES):
            for i in range(count):
                path = f"{place}/gsun_{split}{i}.jpg"
                write_image(
                    root / "data/vision/torralba/deeplearning/images256" / path, next(images)
                )
                lines.append(f"{path} {label}\n")
        (lists / f"{split}_places205.csv").write_text("".join(lines[::-1]))


def inaturalist18_tree(root: Path, *, train: int = 4, val: int = 2) -> None:
    """One tree with the images of both splits, and the json files that tell them apart."""
    images = digit_images()
    groups = ("Plantae", "Aves", "Aves")
    categories = [{"id": i, "name": str(i), "supercategory": g} for i, g in enumerate(groups)]
    number = 0
    for split, count in (("train", train), ("val", val)):
        content: dict[str, list] = {"categories": categories, "images": [], "annotations": []}
        for _ in range(count):
            for label, group in enumerate(groups):
                number += 1
                path = f"train_val2018/{group}/{label}/{number:032x}.jpg"
                write_image(root / path, next(images))
                content["images"].append({"id": number, "file_name": path, "width": 24})
                content["annotations"].insert(
                    0, {"id": number, "image_id": number, "category_id": label}
                )
        (root / f"{split}2018.json").write_text(json.dumps(content))


def parquet_tree(
    root: Path, *, train: int = 8, validation: int = 4, arrow: bool = False
) -> list[bytes]:
    """Shards as ``datasets`` writes them, two for train; returns the encoded images of train.

    Needs pyarrow.
    """
    import pyarrow
    import pyarrow.parquet

    features = {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": ["even", "odd"]},
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    schema = pyarrow.schema([("image", kind), ("label", pyarrow.int64())], metadata=metadata)
    encoded = [cv2.imencode(".png", i)[1].tobytes() for i in itertools.islice(digit_images(), 100)]
    start = 0
    for split, count, shards in (("train", train, 2), ("validation", validation, 1)):
        for shard in range(shards):
            rows = range(start, start + count // shards)
            start = rows.stop
            table = pyarrow.Table.from_arrays(
                [
                    pyarrow.array([{"bytes": encoded[i], "path": None} for i in rows], kind),
                    pyarrow.array([i % 2 for i in rows]),
                ],
                schema=schema,
            )
            end = f"{shard:05d}-of-{shards:05d}"
            if arrow:
                file = root / split / f"data-{end}.arrow"
                file.parent.mkdir(parents=True, exist_ok=True)
                with pyarrow.ipc.new_stream(file, schema) as writer:
                    writer.write_table(table, max_chunksize=2)
            else:
                file = root / "data" / f"{split}-{end}.parquet"
                file.parent.mkdir(parents=True, exist_ok=True)
                pyarrow.parquet.write_table(table, file, row_group_size=3)
    return encoded[:train]


TREES = {
    "imagenet": imagenet_tree,
    "stl10": stl10_tree,
    "places205": places205_tree,
    "inaturalist18": inaturalist18_tree,
    "parquet": parquet_tree,
}
