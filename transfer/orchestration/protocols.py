"""The protocols of the suite, one entry each: script, card, data. To add a protocol, add an entry.

An entry has up to three sources of data: a published data set with the card of the published protocol, the
embedded digits with a small card, and data of the user's own of one kind.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["classes", "several classes", "label maps", "depths"]
"""Kinds of data of a user's own: images with one class each, with several, with label maps or depths."""

GATE = "gate"
"""The first look at a checkpoint, which says whether it has learned anything."""
FINE_TUNING = frozenset({"detection", "segmentation", "semisupervised"})
"""Scripts that usually train the whole network; they take longer than those on frozen features."""
RESNETS_ONLY = frozenset({"detection", "segmentation", "depth"})
"""Scripts that take the feature maps of a ResNet."""


@dataclass(frozen=True)
class Protocol:
    """One protocol of the suite.

    Attributes:
        name: of its tasks, and of their folders.
        script: stem of the script in transfer/.
        data: the published data set in ``DATA_SETS``; empty for none.
        card: stem of the card in configs/ for the published data; empty means the script's defaults.
        settings: changes on top of that card, by dotted name.
        digits: stem of the card for the embedded digits; empty means the script's defaults, None that the
            protocol does not run on them.
        takes: kinds of data of a user's own.
        instead: data sets to use if ``data`` is not there, the first that is.
        needs: names of the protocols whose tasks on the same network must be done first.
        on_request: runs only if ``--only`` names it: variants, and protocols that take weeks.
    """

    name: str
    script: str
    data: str = ""
    card: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    digits: str | None = None
    takes: tuple[Kind, ...] = ()
    instead: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    on_request: bool = False

    @property
    def fine_tunes(self) -> bool:
        """Whether it takes as long as training a network does."""
        return self.script in FINE_TUNING

    def called(self, word: str) -> bool:
        """Whether a word of ``--only`` or ``--skip`` means this protocol: its name or its script."""
        return word in (self.name, self.script)


_STL10 = {"val_split": "test"} | {
    f"transform.{name}": value
    for name, value in {"resize": 70, "crop": 64, "interpolation": "bicubic"}.items()
}
# Splits and metric of the fine-grained data sets (BYOL, arXiv 2006.07733, D.1).
_FINE_GRAINED: dict[str, dict[str, Any]] = {
    "aircraft": {"selection_split": "val", "metric": "mean_per_class"},
    "birdsnap": {},
    "caltech101": {"metric": "mean_per_class"},
    "cars": {},
    "cifar10": {},
    "cifar100": {},
    "dtd": {"selection_split": "val"},
    "flowers102": {"selection_split": "val", "metric": "mean_per_class"},
    "food101": {},
    "pets": {"train_split": "trainval", "metric": "mean_per_class"},
    "sun397": {},
}
_VARIANTS = (
    "imagenet-a",
    "imagenet-r",
    "imagenet-sketch",
    "imagenet-v2",
    "imagenet-c",
    "objectnet",
)


def _fine_tuned(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Fine-tuning holds out training images instead of using a validation split."""
    kept = {name: value for name, value in settings.items() if name != "selection_split"}
    return kept | {"val_split": "test"}


# In the order in which they run: the fast ones first.
PROTOCOLS: tuple[Protocol, ...] = (
    Protocol(
        GATE,
        "gate",
        "imagenet",
        digits="",
        takes=("classes", "several classes"),
        instead=("imagenet100", "stl10", "places205", "inaturalist18", "voc07", *_FINE_GRAINED),
    ),
    Protocol("knn", "knn", "imagenet", "imagenet_knn", digits="digits_knn", takes=("classes",)),
    Protocol("knn-imagenet100", "knn", "imagenet100", "knn_wmse"),
    Protocol("knn-stl10", "knn", "stl10", "knn_wmse", _STL10),
    Protocol("svm", "svm", "voc07", "voc07_svm", digits="digits_svm", takes=("several classes",)),
    Protocol("svm-low-shot", "svm", "voc07", "voc07_svm_low_shot"),
    Protocol(
        "linear",
        "linear",
        "imagenet",
        "imagenet_linear",
        digits="digits_linear",
        takes=("classes",),
    ),
    Protocol("linear-imagenet100", "linear", "imagenet100", "linear_wmse"),
    Protocol("linear-stl10", "linear", "stl10", "linear_wmse", _STL10),
    Protocol("linear-places205", "linear", "places205", "places205_linear"),
    Protocol("linear-inaturalist18", "linear", "inaturalist18", "inat18_linear"),
    Protocol(
        "logistic", "logistic", digits="digits_logistic", takes=("classes", "several classes")
    ),
    Protocol(
        "logistic-voc07",
        "logistic",
        "voc07",
        "fine_grained_logistic",
        {"train_split": "train", "selection_split": "val"},
    ),
    *(
        Protocol(f"logistic-{name}", "logistic", name, "fine_grained_logistic", settings)
        for name, settings in _FINE_GRAINED.items()
    ),
    Protocol("robustness", "robustness", digits="digits_robustness", needs=("linear",)),
    *(Protocol(f"robustness-{name}", "robustness", name, needs=("linear",)) for name in _VARIANTS),
    Protocol("depth", "depth", "nyu", "nyu_linear_depth", digits="digits_depth", takes=("depths",)),
    Protocol("dense_knn", "dense_knn", digits="digits_dense_knn_small", takes=("label maps",)),
    Protocol("dense_knn-voc12", "dense_knn", "voc12+sbd", "voc12_dense_knn"),
    Protocol("dense_knn-ade20k", "dense_knn", "ade20k", "ade20k_dense_knn"),
    Protocol("imagenet_1pct", "semisupervised", "imagenet-1pct", "imagenet_1pct_msbreg"),
    Protocol("imagenet_10pct", "semisupervised", "imagenet-10pct", "imagenet_10pct_msbreg"),
    Protocol(
        "semisupervised",
        "semisupervised",
        digits="digits_semisupervised_frozen",
        takes=("classes",),
    ),
    *(
        Protocol(
            f"fine-tuning-{name}",
            "semisupervised",
            name,
            "fine_tuning_byol",
            _fine_tuned(settings),
            on_request=True,
        )
        for name, settings in _FINE_GRAINED.items()
    ),
    Protocol("segmentation", "segmentation", digits="digits_segmentation", takes=("label maps",)),
    Protocol("voc12_fcn", "segmentation", "voc12+sbd", "voc12_fcn"),
    Protocol("cityscapes_fcn", "segmentation", "cityscapes", "cityscapes_fcn"),
    Protocol("ade20k_fcn_d8", "segmentation", "ade20k", "ade20k_fcn_d8"),
    Protocol("voc_c4", "detection", "voc07+12", "voc_c4", digits="digits_voc_c4"),
    Protocol("coco_mask_fpn", "detection", "coco", "coco_mask_fpn", digits="digits_coco_fpn"),
    Protocol("coco_mask_c4", "detection", "coco", "coco_mask_c4", on_request=True),
    Protocol(
        "coco_keypoints",
        "detection",
        "coco-keypoints",
        "coco_keypoint_fpn_moco",
        on_request=True,
    ),
    Protocol("lvis_mask_fpn", "detection", "lvis", "lvis_v1_mask_fpn_moco", on_request=True),
)


def known_words() -> Iterator[str]:
    """What ``--only`` and ``--skip`` accept: names of protocols, and scripts for all of their protocols."""
    yield from dict.fromkeys(word for p in PROTOCOLS for word in (p.script, p.name))
