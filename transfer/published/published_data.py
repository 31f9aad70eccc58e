"""The test images of the published numbers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TestData:
    """The images that a published column was measured on.

    Attributes:
        name, split: as in the ``DataId`` of our scores.
        images: number of test images.
        classes: number of classes.
        names: names of the folders that usually hold the data, in lower case without ``-``, ``_`` and spaces.
        shared: further such names, which only count with the right number of images.
        layouts: layouts of ``LAYOUT:FOLDER`` that read these data and no others.
    """

    __test__ = False  # not a test for pytest

    name: str
    split: str
    images: int
    classes: int
    names: tuple[str, ...]
    shared: tuple[str, ...] = ()
    layouts: tuple[str, ...] = ()


_IMAGENET_NAMES = ("imagenet", "imagenet1k", "ilsvrc", "ilsvrc2012", "ilsvrc2015", "imagenet2012")
IMAGENET = TestData("imagenet", "val", 50_000, 1000, names=_IMAGENET_NAMES, layouts=("imagenet",))
IMAGENET100 = TestData(
    *("imagenet100", "val", 5_000, 100),
    names=("imagenet100", "in100"),
    shared=_IMAGENET_NAMES,
    layouts=("imagenet100",),
)
STL10 = TestData(*("stl10", "test", 8_000, 10), names=("stl10", "stl10binary"), layouts=("stl10",))
PLACES205 = TestData(
    *("places205", "val", 20_500, 205),
    names=("places205",),
    shared=("places",),
    layouts=("places205",),
)
INATURALIST18 = TestData(
    *("inaturalist18", "val", 24_426, 8142),
    names=("inaturalist18", "inaturalist2018", "inat18", "inat2018"),
    shared=("inaturalist", "inat"),
    layouts=("inaturalist18",),
)
VOC07 = TestData(
    *("VOC2007", "test", 4_952, 20), names=("voc2007", "voc07"), shared=("vocdevkit", "voc")
)
VOC07_SCENES = TestData("voc_2007_test", "", 4_952, 20, names=("voc2007test",))
COCO_SCENES = TestData("coco_2017_val", "", 5_000, 80, names=("coco2017val",))
VOC12_MAPS = TestData(
    *("VOC2012", "val", 1_449, 21), names=("voc2012", "voc12"), shared=("vocdevkit", "voc")
)
NYU_DEPTHS = TestData("NYU-v2", "test", 654, 0, names=("nyuv2",))
