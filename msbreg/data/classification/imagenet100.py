"""ImageNet-100: 100 classes of ImageNet.

The list is that of CMC (github.com/HobbitLong/CMC, imagenet100.txt), which W-MSE uses; other data sets of the
same name have other classes. A file ``imagenet100.txt`` in ROOT, one wnid per line, replaces the list.
"""

from dataclasses import replace
from pathlib import Path

from msbreg.data.classification.file_lists import PublishedSplit
from msbreg.data.classification.imagenet import (
    image_root,
    imagenet_splits,
    open_imagenet,
    wnids_of,
)
from msbreg.data.folder import ImageList, read_classes
from msbreg.run.errors import UserError

CMC_LIST = Path(__file__).with_name("imagenet100_wnids.txt")
OWN_LIST = "imagenet100.txt"
# The number of training images is the sum over the classes of the list.
IMAGENET100 = {
    "train": PublishedSplit(126_689, 100, (732, 1300)),
    "val": PublishedSplit(5_000, 100, (50, 50)),
    "train-1pct": PublishedSplit(1_278, 100, (12, 13)),
    "train-10pct": PublishedSplit(12_812, 100, (128, 129)),
}


def open_imagenet100(root: Path, split: str, *, classes_file: Path | None = None) -> ImageList:
    """Images of ImageNet-100 from a tree with these classes or more; splits as in ``open_imagenet``.

    Args:
        classes_file: file with one wnid per line, instead of the list of CMC or ``ROOT/imagenet100.txt``.

    Raises:
        UserError: the tree does not contain all of the classes; and those of ``open_imagenet``.
    """
    own = root / OWN_LIST
    file = classes_file or (own if own.is_file() else CMC_LIST)
    chosen, cmc = set(read_classes(file)), set(read_classes(CMC_LIST))
    base = image_root(root)
    present = wnids_of(base / split) if base is not None else set()
    if len(present) == len(chosen) and (other := present - chosen):
        raise UserError(
            f"{root} has another set of {len(present)} classes: {len(other)} of them are not in "
            f"{'the list of CMC' if file == CMC_LIST else file}, such as {min(other)}.\n"
            f"Write its class folders to {own}, one per line, to use them; the scores are then not "
            "comparable with published ones."
        )
    images = open_imagenet(root, split, classes_file=file)
    if chosen == cmc:
        return images
    note = (
        f"the {len(chosen)} classes of {file} are not those of CMC's ImageNet-100 "
        f"({len(chosen & cmc)} in common); scores are not comparable with published ones"
    )
    return replace(images, notes=(*images.notes, note))


def is_imagenet100(root: Path) -> bool:
    """Whether a tree of ImageNet contains exactly these classes, or a list of its own."""
    base, splits = image_root(root), imagenet_splits(root)
    if base is None or not splits:
        return False
    own = (root / OWN_LIST).is_file()
    return own or wnids_of(base / splits[0]) == set(read_classes(CMC_LIST))
