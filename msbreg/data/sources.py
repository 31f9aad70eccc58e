"""DATASETS: name -> where it comes from and how it lies on the disk. Any other name is a path.

``digits`` is embedded: it is generated on first use. The layouts are the standard ones, so a folder
of your own in the same layout is read by the same code.
"""

from dataclasses import dataclass
from pathlib import Path

from msbreg.data.digits.generate import prepare_digits
from msbreg.data.folder import ImageList, list_images
from msbreg.run.errors import UserError


@dataclass(frozen=True)
class DatasetInfo:
    """What is fixed about a named data set.

    Attributes:
        classes: number of classes of its single-label face.
        splits: folders of the single-label face; the last one is the test split.
        metric: what is reported on it.
        source, license: where the pixels come from and under which terms.
    """

    classes: int
    splits: tuple[str, str]
    metric: str
    source: str
    license: str


DATASETS: dict[str, DatasetInfo] = {
    "digits": DatasetInfo(
        classes=10,
        splits=("train", "val"),
        metric="top-1 accuracy (folder), mAP (voc)",
        source="scikit-learn's load_digits (UCI Optical Recognition of Handwritten Digits, test part) "
        "on crops of its load_sample_images (china.jpg, flower.jpg), composed by msbreg",
        license="CC BY 4.0 (digits); CC BY 2.0 (photographs, see scikit-learn's README there)",
    ),
}


def face(data: str, name: str) -> Path:
    """The folder of one face (``folder``, ``voc``, ``coco``) of a named data set; a path is itself."""
    if data in DATASETS:
        return prepare_digits() / name
    path = Path(data).expanduser()
    if not path.exists():
        known = ", ".join(DATASETS)
        raise UserError(
            f"data {data!r} is neither a folder nor a known name; expected a path or: {known}"
        )
    return path


def image_split(data: str, split: str, *, classes_file: Path | None = None) -> ImageList:
    """The images of ``split`` (train or val) of an ImageFolder tree ``DATA/{train,val}/CLASS/*``.

    Raises:
        UserError: the folder or the split is missing, empty or mixed.
    """
    root = face(data, "folder")
    if not (root / split).is_dir():
        present = sorted(entry.name for entry in root.iterdir()) if root.is_dir() else []
        raise UserError(
            f"{root} has no folder {split!r}; expected {root}/train/CLASS/*.jpg and "
            f"{root}/val/CLASS/*.jpg, found: {', '.join(present[:8]) or 'nothing'}"
        )
    images = list_images(root / split, classes_file=classes_file)
    if images.labels is None:
        raise UserError(
            f"{root / split} holds images but no class folders; expected {root}/{split}/CLASS/*.jpg"
        )
    return images


def training_images(data: str, *, classes_file: Path | None = None) -> ImageList:
    """The images to pre-train on: ``DATA/train`` where it exists, else DATA itself, labels or not."""
    root = face(data, "folder")
    folder = root / "train" if (root / "train").is_dir() else root
    splits = {"train", "training", "val", "valid", "validation", "test", "testing"}
    named = sorted(e.name for e in folder.iterdir() if e.is_dir() and e.name.lower() in splits)
    if named:
        raise UserError(
            f"{folder} holds {', '.join(named)}, which look like splits, not classes; "
            f"expected {folder}/train, or give the folder of one split"
        )
    return list_images(folder, classes_file=classes_file)
