"""The published data sets that the suite looks for below one root folder, and what to fetch for each.

A data set is found in a subfolder of the root whose name is one of its names (upper and lower case, hyphens
and underscores do not matter), or in the root itself. The readers of msbreg/data decide whether it is one.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from msbreg.data.catalog import COCO_NAMES
from msbreg.data.classification.cifar import CIFAR
from msbreg.data.classification.fine_grained import FINE_GRAINED
from msbreg.data.classification.imagenet import SUBSETS
from msbreg.data.classification.imagenet_variants import VARIANTS
from msbreg.data.segmentation.depth_maps import NYU_FILE, NYU_SPLITS
from msbreg.data.segmentation.map_sources import MAP_SOURCES
from msbreg.data.segmentation.voc_maps import voc_root
from msbreg.data.sources import SOURCES, recognized
from msbreg.data.voc import find_voc
from msbreg.run.errors import UserError


@dataclass(frozen=True)
class DataSet:
    """One published data set, or the part of one that a protocol needs.

    Attributes:
        layout: LAYOUT of LAYOUT:FOLDER; empty for a data set that is given by its folder.
        names: names of its folder below the root; the first is the one that messages recommend. An empty
            name is the root itself.
        contains: whether a folder contains all that is needed.
        fetch: what to fetch, and what else must lie there.
    """

    layout: str
    names: tuple[str, ...]
    contains: Callable[[Path], bool]
    fetch: str

    def find(self, root: Path) -> Path | None:
        """The folder of the data set at or below ``root``; None if it is not there."""
        below = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
        known = [_plain(name) for name in self.names if name]
        folders = [path for path in below if _plain(path.name) in known]
        folders.sort(key=lambda path: known.index(_plain(path.name)))
        return next((path for path in (*folders, root) if self.contains(path)), None)

    def place(self, root: Path) -> Path:
        """Where it should lie."""
        return root / self.names[0]


def _plain(name: str) -> str:
    """A name in lower case, without hyphens, underscores and spaces.

    >>> _plain("ImageNet-A")
    'imageneta'
    """
    return re.sub(r"[-_ ]", "", name.lower())


def _has_splits(layout: str, *splits: str) -> Callable[[Path], bool]:
    """Whether a folder has these splits of classified images, and looks like this layout or is named so."""

    def contains(folder: Path) -> bool:
        if not set(splits) <= set(SOURCES[layout].splits(folder)):
            return False
        return _plain(folder.name) == _plain(layout) or recognized(folder) == layout

    return contains


def _has_variant(layout: str) -> Callable[[Path], bool]:
    """ImageNet-C is complete with its first corruption; the others have the splits that are there."""
    return lambda folder: bool(SOURCES[layout].splits(folder))


def _has_list(subset: str) -> Callable[[Path], bool]:
    """ImageNet with one of SimCLR's lists of training images."""
    images, (name, _) = _has_splits("imagenet", "train", "val"), SUBSETS[subset]
    return lambda folder: (
        any((place / name).is_file() for place in (folder, folder / "imagenet_subsets"))
        and images(folder)
    )


def _has_maps(layout: str, *splits: str) -> Callable[[Path], bool]:
    """Whether a folder has these splits with label maps."""
    return lambda folder: set(splits) <= set(MAP_SOURCES[layout].splits(folder))


def _is_voc(folder: Path, year: int) -> bool:
    """VOC with the 20 published classes: the folder that contains ImageSets is called VOCYEAR."""
    try:
        voc = find_voc(folder, year)
    except UserError:
        return False
    return f"VOC{year}" in (voc.name, voc.resolve().name)


def _is_voc07(folder: Path) -> bool:
    return _is_voc(folder, 2007) and {"trainval", "test"} <= set(SOURCES["voc"].splits(folder))


def _is_voc12_with_sbd(folder: Path) -> bool:
    """VOC2012 with its label maps and the list ``trainaug``."""
    voc = voc_root(folder)
    return (
        voc is not None
        and "VOC2012" in (voc.name, voc.resolve().name)
        and {"trainaug", "val"} <= set(MAP_SOURCES["voc"].splits(folder))
    )


def _is_coco(folder: Path, kind: str = "instances") -> bool:
    needed = [COCO_NAMES[f"coco_2017_{split}"] for split in ("train", "val")]
    return all(
        (folder / "annotations" / f"{kind}_{split}.json").is_file() and (folder / split).is_dir()
        for split in needed
    )


def _is_lvis(folder: Path) -> bool:
    files = [folder / "lvis" / f"lvis_v1_{split}.json" for split in ("train", "val")]
    return all(file.is_file() for file in files) and (folder / "coco").is_dir()


_VOC = ("VOCdevkit", "VOC", "pascal-voc", "pascal")
_COCO = ("coco", "coco2017", "mscoco")
_SIMCLR = "of github.com/google-research/simclr (imagenet_subsets/) in that folder"

# The pages that distribute the fine-grained data sets, as far as they still do.
_FINE_GRAINED_FILES = {
    "aircraft": "fgvc-aircraft-2013b.tar.gz of robots.ox.ac.uk/~vgg/data/fgvc-aircraft, extracted",
    "birdsnap": "a mirror with train/CLASS/ and test/CLASS/ (most links of the original are dead)",
    "caltech101": "101_ObjectCategories of data.caltech.edu (Caltech-101), extracted",
    "cars": "cars_train/, cars_test/, devkit/ and cars_test_annos_withlabels.mat, or a mirror with "
    "train/CLASS/ and test/CLASS/",
    "cifar10": "cifar-10-binary.tar.gz of cs.toronto.edu/~kriz/cifar.html, extracted",
    "cifar100": "cifar-100-binary.tar.gz of cs.toronto.edu/~kriz/cifar.html, extracted",
    "dtd": "dtd-r1.0.1.tar.gz of robots.ox.ac.uk/~vgg/data/dtd, extracted",
    "flowers102": "102flowers.tgz, imagelabels.mat and setid.mat of robots.ox.ac.uk/~vgg/data/flowers/102, "
    "in flowers-102/",
    "food101": "food-101.tar.gz of data.vision.ee.ethz.ch/cvl/datasets_extra/food-101, extracted",
    "pets": "images.tar.gz and annotations.tar.gz of robots.ox.ac.uk/~vgg/data/pets, extracted",
    "sun397": "SUN397.tar.gz and Partitions.zip of vision.princeton.edu/projects/2010/SUN, extracted",
}
_VARIANT_FILES = {
    "imagenet-a": "imagenet-a.tar of github.com/hendrycks/natural-adv-examples, extracted",
    "imagenet-r": "imagenet-r.tar of github.com/hendrycks/imagenet-r, extracted",
    "imagenet-sketch": "sketch/ of github.com/HaohanWang/ImageNet-Sketch",
    "imagenet-v2": "imagenetv2-matched-frequency-format-val/ of imagenetv2.org",
    "imagenet-c": "the corruptions (gaussian_noise/1/ and so on) of github.com/hendrycks/robustness",
    "objectnet": "objectnet-1.0/ of objectnet.dev",
}

DATA_SETS: Mapping[str, DataSet] = {
    "imagenet": DataSet(
        "imagenet",
        ("imagenet", "imagenet-1k", "ilsvrc2012", "ilsvrc"),
        _has_splits("imagenet", "train", "val"),
        "ILSVRC2012 of image-net.org: train/ and val/ with a folder for each class",
    ),
    **{
        f"imagenet-{subset}": DataSet(
            "imagenet",
            ("imagenet", "imagenet-1k", "ilsvrc2012", "ilsvrc"),
            _has_list(subset),
            f"ImageNet, and {name} {_SIMCLR}",
        )
        for subset, (name, _) in SUBSETS.items()
    },
    "imagenet100": DataSet(
        "imagenet100",
        ("imagenet100",),
        _has_splits("imagenet100", "train", "val"),
        "the 100 classes of CMC's list: train/ and val/, or a link to ImageNet",
    ),
    "stl10": DataSet(
        "stl10",
        ("stl10",),
        _has_splits("stl10", "train", "test"),
        "stl10_binary.tar.gz of cs.stanford.edu/~acoates/stl10, extracted",
    ),
    "places205": DataSet(
        "places205",
        ("places205",),
        _has_splits("places205", "train", "val"),
        "the 256 x 256 images and trainvalsplit_places205/ of places.csail.mit.edu",
    ),
    "inaturalist18": DataSet(
        "inaturalist18",
        ("inaturalist18", "inaturalist2018", "inat18", "inat2018"),
        _has_splits("inaturalist18", "train", "val"),
        "train_val2018/, train2018.json and val2018.json of github.com/visipedia/inat_comp",
    ),
    **{
        name: DataSet(name, (name,), _has_splits(name, "test"), _FINE_GRAINED_FILES[name])
        for name in (*FINE_GRAINED, *CIFAR)
    },
    **{name: DataSet(name, (name,), _has_variant(name), _VARIANT_FILES[name]) for name in VARIANTS},
    "voc07": DataSet(
        "voc",
        _VOC,
        _is_voc07,
        "VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar of host.robots.ox.ac.uk/pascal/VOC, "
        "extracted to one VOC2007/",
    ),
    "voc07+12": DataSet(
        "",
        _VOC,
        lambda folder: _is_voc07(folder) and _is_voc(folder, 2012),
        "VOC2007 (trainval and test) and VOC2012 (trainval) of host.robots.ox.ac.uk/pascal/VOC: VOC2007/ and "
        "VOC2012/ in one folder",
    ),
    "voc12+sbd": DataSet(
        "voc",
        (*_VOC, "VOC2012"),
        _is_voc12_with_sbd,
        "VOC2012 of host.robots.ox.ac.uk/pascal/VOC, and the split trainaug, which "
        "tools/convert_sbd.py makes from the Semantic Boundaries Dataset",
    ),
    "coco": DataSet(
        "", _COCO, _is_coco, "train2017/, val2017/ and annotations/ (instances) of cocodataset.org"
    ),
    "coco-keypoints": DataSet(
        "",
        _COCO,
        lambda folder: _is_coco(folder, "person_keypoints"),
        "train2017/, val2017/ and annotations/ (person_keypoints) of cocodataset.org",
    ),
    "lvis": DataSet(
        "", ("",), _is_lvis, "lvis/lvis_v1_{train,val}.json of lvisdataset.org, beside coco/"
    ),
    "cityscapes": DataSet(
        "cityscapes",
        ("cityscapes",),
        _has_maps("cityscapes", "train", "val"),
        "leftImg8bit/ and gtFine/ of cityscapes-dataset.com",
    ),
    "ade20k": DataSet(
        "ade20k",
        ("ade20k", "ADEChallengeData2016"),
        _has_maps("ade20k", "training", "validation"),
        "ADEChallengeData2016.zip of sceneparsing.csail.mit.edu, extracted",
    ),
    "nyu": DataSet(
        "",
        ("nyu", "nyuv2", "nyudepthv2"),
        lambda folder: (folder / NYU_FILE).is_file() and (folder / NYU_SPLITS).is_file(),
        f"{NYU_FILE} and {NYU_SPLITS} of cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html",
    ),
}
