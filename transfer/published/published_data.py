"""The test images of the published numbers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ScoredImages:
    """The images that a published column was measured on.

    Attributes:
        name, split: as in the ``DataId`` of our scores.
        images: number of test images.
        classes: number of classes.
        names: names of the folders that usually hold the data, in lower case without ``-``, ``_`` and spaces.
        shared: further such names, which only count with the right number of images.
        layouts: layouts of ``LAYOUT:FOLDER`` that read these data and no others.
        unique: whether the number of images identifies them in a folder of any name.
    """

    name: str
    split: str
    images: int
    classes: int
    names: tuple[str, ...]
    shared: tuple[str, ...] = ()
    layouts: tuple[str, ...] = ()
    unique: bool = False


_IMAGENET_NAMES = (
    *("imagenet", "imagenet1k", "imagenet2012"),
    *("ilsvrc", "ilsvrc2012", "ilsvrc2015", "clsloc"),
)
IMAGENET = ScoredImages(
    *("imagenet", "val", 50_000, 1000),
    names=_IMAGENET_NAMES,
    layouts=("imagenet",),
    unique=True,
)
IMAGENET100 = ScoredImages(
    *("imagenet100", "val", 5_000, 100),
    names=("imagenet100", "in100"),
    shared=_IMAGENET_NAMES,
    layouts=("imagenet100",),
)
STL10 = ScoredImages(
    *("stl10", "test", 8_000, 10), names=("stl10", "stl10binary"), layouts=("stl10",)
)
PLACES205 = ScoredImages(
    *("places205", "val", 20_500, 205),
    names=("places205",),
    layouts=("places205",),
    unique=True,
)
INATURALIST18 = ScoredImages(
    *("inaturalist18", "val", 24_426, 8142),
    names=("inaturalist18", "inaturalist2018", "inat18", "inat2018"),
    layouts=("inaturalist18",),
    unique=True,
)
VOC07 = ScoredImages(*("VOC2007", "test", 4_952, 20), names=("voc2007", "voc07"), unique=True)
VOC07_SCENES = ScoredImages("voc_2007_test", "", 4_952, 20, names=("voc2007test",))
COCO_SCENES = ScoredImages("coco_2017_val", "", 5_000, 80, names=("coco2017val",))
VOC12_MAPS = ScoredImages(*("VOC2012", "val", 1_449, 21), names=("voc2012", "voc12"), unique=True)
NYU_DEPTHS = ScoredImages("NYU-v2", "test", 654, 0, names=("nyuv2",))
