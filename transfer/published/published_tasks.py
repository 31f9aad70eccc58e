"""The tasks of published.csv that our protocols run: which of our scores answers which column.

A published column holds numbers of several papers, made by protocols that are alike but not equal. ``Task``
says what makes a score an answer to the column at all (data, name of the score, ``requires``, ``defining``),
and the settings that a comparison names if they differ (``settings``): those of the protocol in ``protocol``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transfer.published.published_data import (
    COCO_SCENES,
    IMAGENET,
    IMAGENET100,
    INATURALIST18,
    NYU_DEPTHS,
    PLACES205,
    STL10,
    VOC07,
    VOC07_SCENES,
    VOC12_MAPS,
    ScoredImages,
)


@dataclass(frozen=True)
class Measure:
    """A metric of published.csv, and our score that measures the same.

    Attributes:
        score: name of our score.
        rules: rules of our score; empty for those of the task.
        factor: our value divided by the published one.
    """

    score: str
    rules: str = ""
    unit: str = "%"
    higher_is_better: bool = True
    factor: float = 1.0


@dataclass(frozen=True)
class Task:
    """A task of published.csv.

    Attributes:
        measures: metric of published.csv -> measure.
        protocol: whose settings ``rules`` and ``settings`` are.
        rules: rules that our protocol writes with these settings.
        other_rules: rules of all methods but MSBReg, if they differ.
        requires: a regular expression that the rules of an answer contain.
        defining: settings of our run, by dotted name; with another value it answers another task.
        settings: settings of our run, by dotted name, that a comparison names if they differ.
        unstated: what the sources leave open or do differently, for the column.
        card: the card in configs/ with these settings; empty if there is none.
    """

    data: ScoredImages
    measures: Mapping[str, Measure]
    protocol: str
    rules: str = ""
    other_rules: str = ""
    requires: str = ""
    defining: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    unstated: str = ""
    card: str = ""


# ---- Settings that several tasks share

_FEATURE = {"representation": "gap", "transform.resize": 256, "transform.crop": 224}
_WMSE_STL10 = {
    "representation": "gap",
    **{"transform.resize": 70, "transform.crop": 64, "transform.interpolation": "bicubic"},
}
_SGD = {"route": "streamed", "norms": ["none"], "optimizer": "sgd", "momentum": 0.9}
_WMSE_LINEAR = {
    **{"route": "cached", "norms": ["none"], "optimizer": "adam", "schedule": "exponential"},
    **{"learning_rates": [0.01], "rate_per": 0, "weight_decays": [5e-6]},
    **{"epochs": 500, "batch_size": 1000},
}
_MSBREG_LINEAR = {
    **_SGD,
    **{"nesterov": False, "learning_rates": [0.2], "weight_decays": [1e-4]},
    **{"schedule": "steps", "batch_size": 256, **_FEATURE},
}
_MSBREG_LABELS = {
    **{"optimizer": "sgd", "momentum": 0.9, "nesterov": True, "batch_size": 1024},
    **_FEATURE,
}
_C4 = {
    **{"yaml.SOLVER.BASE_LR": 0.02, "yaml.SOLVER.WARMUP_ITERS": 100},
    **{"yaml.SOLVER.STEPS": [18_000, 22_000], "yaml.SOLVER.MAX_ITER": 24_000},
    **{"yaml.SOLVER.IMS_PER_BATCH": 16, "yaml.MODEL.BACKBONE.FREEZE_AT": 0},
    **{"yaml.MODEL.RESNETS.NORM": "SyncBN", "yaml.TEST.PRECISE_BN.ENABLED": True},
    **{"yaml.MODEL.ROI_HEADS.NAME": "Res5ROIHeadsExtraNorm", "yaml.INPUT.MIN_SIZE_TEST": 800},
}
_FPN = {
    **{"yaml.SOLVER.BASE_LR": 0.05, "yaml.SOLVER.WARMUP_ITERS": 50},
    **{"yaml.SOLVER.STEPS": [60_000, 80_000], "yaml.SOLVER.IMS_PER_BATCH": 16},
    **{"yaml.MODEL.BACKBONE.FREEZE_AT": 0, "yaml.MODEL.RESNETS.NORM": "SyncBN"},
    **{"yaml.MODEL.FPN.NORM": "SyncBN", "yaml.INPUT.MIN_SIZE_TEST": 800},
}
_FCN = {
    **{"train_split": "trainaug", "solver.iterations": 30_000, "solver.batch_size": 16},
    **{"network.output_stride": 16, "network.convolutions": 2, "network.channels": 256},
    **{"network.dilation": 6, "augmentation.crop": [513, 513], "inference.mode": "center"},
}
_LINEAR = {"top1": Measure("linear top-1"), "top5": Measure("linear top-5")}
_FINE_TUNED = {"top1": Measure("fine-tuned top-1"), "top5": Measure("fine-tuned top-5")}
_FIVE_NN = {"5-NN top1": Measure("5-NN top-1")}
_BOX = {name: Measure(f"box {name}") for name in ("AP50", "AP75", "AP")}

_MSBREG = "MSBReg's protocol (arXiv 2207.03552, section 8)"
_WMSE = "W-MSE's protocol (arXiv 2007.06346)"
_WMSE_UNSTATED = (
    "The paper does not state its classifier. Its 5-NN columns and baselines are W-MSE's, and so is the "
    "protocol that scores of this suite are compared with"
)
_OTHER_LISTS = "The paper calls the 100 classes a random sample; here they are CMC's list"
_BARE_LAYER = (
    "The paper does not state the layer, a BatchNorm before it, or the augmentation. The baselines follow "
    "their own papers, most of them with learning rate 0.01"
)

# ---- The tasks, by their names in published.csv

TASKS: dict[str, Task] = {
    "ImageNet linear": Task(
        IMAGENET,
        {"top1": _LINEAR["top1"]},
        protocol="BYOL's protocol (arXiv 2006.07733, C.1)",
        rules=(
            "linear layer on features of augmented images, learning rate chosen on held-out training "
            "images"
        ),
        requires="^linear layer on ",
        settings={
            **_SGD,
            **{"nesterov": True, "schedule": "cosine", "epochs": 80, "batch_size": 1024},
            **{"learning_rates": [0.05, 0.1, 0.2, 0.3, 0.4], "weight_decays": [0.0]},
            **{**_FEATURE, "transform.interpolation": "bicubic"},
        },
        unstated=(
            "The paper states no settings of the linear classifier, and the baselines follow their own "
            "papers. Scores of this suite are compared with BYOL's protocol"
        ),
        card="imagenet_linear",
    ),
    "ImageNet-100 linear": Task(
        IMAGENET100,
        _LINEAR,
        protocol=_WMSE,
        rules="linear layer on frozen features, one learning rate",
        requires="^linear layer on ",
        settings={**_WMSE_LINEAR, **_FEATURE},
        unstated=f"{_WMSE_UNSTATED}. {_OTHER_LISTS}",
        card="linear_wmse",
    ),
    "STL-10 linear": Task(
        STL10,
        {"top1": _LINEAR["top1"]},
        protocol=_WMSE,
        rules="linear layer on frozen features, one learning rate",
        requires="^linear layer on ",
        settings={**_WMSE_LINEAR, **_WMSE_STL10},
        unstated=_WMSE_UNSTATED,
    ),
    "ImageNet-100 kNN": Task(
        IMAGENET100,
        _FIVE_NN,
        protocol=_WMSE,
        rules="Euclidean distance, 5 neighbors, weights equal",
        requires="^Euclidean distance, 5 neighbors, weights equal$",
        settings=_FEATURE,
        unstated=_OTHER_LISTS,
        card="knn_wmse",
    ),
    "STL-10 kNN": Task(
        STL10,
        _FIVE_NN,
        protocol=_WMSE,
        rules="Euclidean distance, 5 neighbors, weights equal",
        requires="^Euclidean distance, 5 neighbors, weights equal$",
        settings=_WMSE_STL10,
    ),
    "ImageNet kNN": Task(
        IMAGENET,
        {
            f"{k}-NN top1": Measure(
                f"{k}-NN top-1", f"cosine similarity s, {k} neighbors, weights exp(s / 0.07)"
            )
            for k in (20, 200)
        },
        protocol="NPID's and DINO's protocol (arXiv 1805.01978, 2104.14294)",
        settings={"temperature": 0.07, "vote": "weighted", "metric": "cosine", **_FEATURE},
        unstated="The paper does not state the temperature of the weights; NPID and DINO have 0.07",
        card="imagenet_knn",
    ),
    "ImageNet semi-supervised 1%": Task(
        IMAGENET,
        _FINE_TUNED,
        protocol=_MSBREG,
        rules="linear layer on a frozen network, augmented images, trained on train-1pct",
        other_rules="fine-tuned network, trained on train-1pct",
        requires=r"trained on train-1pct$|, 1 % of the labels$",
        settings={
            **_MSBREG_LABELS,
            **{"train_split": "train-1pct", "freeze": "encoder", "learning_rates": [2.0]},
        },
        unstated=(
            "The paper does not state the epochs and the schedule. The baselines are fine-tuned as in their "
            "own papers"
        ),
        card="imagenet_1pct_msbreg",
    ),
    "ImageNet semi-supervised 10%": Task(
        IMAGENET,
        _FINE_TUNED,
        protocol=_MSBREG,
        rules="fine-tuned network, trained on train-10pct",
        requires=r"trained on train-10pct$|, 10 % of the labels$",
        settings={
            **_MSBREG_LABELS,
            **{"train_split": "train-10pct", "freeze": "nothing"},
            **{"learning_rates": [0.25], "encoder_rates": [2.5e-4]},
        },
        unstated=(
            "The paper does not state the epochs and the schedule. The baselines are fine-tuned as in their "
            "own papers"
        ),
        card="imagenet_10pct_msbreg",
    ),
    "VOC07 linear SVM": Task(
        VOC07,
        {"mAP": Measure("SVM mAP")},
        protocol="VISSL's costs on global average pools of center crops, as in SwAV (arXiv 2006.09882)",
        rules=(
            "mean over classes of the interpolated AP; images with difficult objects only are excluded"
        ),
        requires="^mean over classes of the interpolated AP",
        settings={
            **{"c_grid": "vissl", "costs": None, "folds": 3, "train_split": "trainval"},
            **{"difficult_train": "negative", "difficult_test": "exclude"},
            **{**_FEATURE, "transform.squash": False},
        },
        unstated=(
            "The paper does not state the crop, the feature and the costs. Papers differ by about 0.6 "
            "between squashed images and center crops"
        ),
        card="voc07_svm",
    ),
    "Places205 linear": Task(
        PLACES205,
        {"top1": _LINEAR["top1"]},
        protocol=_MSBREG,
        rules="linear layer on features of augmented images, one learning rate",
        requires="^linear layer on ",
        settings={**_MSBREG_LINEAR, "epochs": 28},
        unstated=_BARE_LAYER,
        card="places205_linear",
    ),
    "iNaturalist18 linear": Task(
        INATURALIST18,
        {"top1": _LINEAR["top1"]},
        protocol=_MSBREG,
        rules="linear layer on features of augmented images, one learning rate",
        requires="^linear layer on ",
        settings={**_MSBREG_LINEAR, "epochs": 84},
        unstated=_BARE_LAYER,
        card="inat18_linear",
    ),
    "VOC07+12 detection Faster R-CNN C4": Task(
        VOC07_SCENES,
        _BOX,
        protocol="MoCo's protocol, which is MSBReg's (arXiv 1911.05722; 2207.03552, section 8.4)",
        rules="VOC 11-point AP",
        requires="^VOC 11-point AP$",
        defining={
            "yaml.DATASETS.TRAIN": ["voc_2007_trainval", "voc_2012_trainval"],
            "yaml.MODEL.BACKBONE.NAME": "build_resnet_backbone",
        },
        settings=_C4,
        unstated="Means of 5 runs for MoCo v2, SimSiam and SwAV; the others do not say",
        card="voc_c4",
    ),
    "VOC07 detection Faster R-CNN C4": Task(
        VOC07_SCENES,
        {"AP50": _BOX["AP50"]},
        protocol="BYOL's protocol (arXiv 2006.07733, D.5)",
        rules="VOC 11-point AP",
        requires="^VOC 11-point AP$",
        defining={
            "yaml.DATASETS.TRAIN": ["voc_2007_trainval"],
            "yaml.MODEL.BACKBONE.NAME": "build_resnet_backbone",
        },
        settings={"yaml.SOLVER.MAX_ITER": 1_500_000},
        unstated="Trained in 1.5 million asynchronous steps, which no card here repeats",
    ),
    "COCO Mask R-CNN FPN 90k": Task(
        COCO_SCENES,
        {
            "AP_bb": Measure("box AP", "COCO bbox AP"),
            "AP_mk": Measure("mask AP", "COCO segm AP"),
        },
        protocol=_MSBREG,
        requires="^COCO (bbox|segm) AP$",
        defining={
            "yaml.DATASETS.TRAIN": ["coco_2017_train"],
            "yaml.MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
            "yaml.MODEL.MASK_ON": True,
            "yaml.SOLVER.MAX_ITER": 90_000,
        },
        settings=_FPN,
        unstated=(
            "The paper does not state the norm and the heads. The baselines mix several protocols, and "
            "repeated runs vary by about 0.3, so that small differences say nothing"
        ),
        card="coco_mask_fpn",
    ),
    "VOC2012 semantic segmentation FCN": Task(
        VOC12_MAPS,
        {"mIoU": Measure("mIoU")},
        protocol="BYOL's protocol (arXiv 2006.07733, D.4)",
        rules="central 513 x 513 crops, totals over the set",
        defining={"network.head": "fcn", "network.freeze": "nothing"},
        settings=_FCN,
        unstated="Means of 5 runs",
        card="voc12_fcn_byol",
    ),
    # transfer/depth.py trains a linear layer, so that none of its scores answers this task.
    "NYUv2 depth": Task(
        NYU_DEPTHS,
        {
            "pct<1.25": Measure("depth ratio < 1.25"),
            "pct<1.25^2": Measure("depth ratio < 1.25^2"),
            "pct<1.25^3": Measure("depth ratio < 1.25^3"),
            "rms": Measure("depth rms", unit="cm", higher_is_better=False, factor=100),
            "rel": Measure("depth rel", higher_is_better=False, factor=100),
        },
        protocol="BYOL's protocol (arXiv 2006.07733, D.6)",
        rules="fine-tuned network with up-projection blocks (Laina et al., arXiv 1606.00373)",
        requires="up-projection blocks",
    ),
}

NOT_SCORES: dict[str, str] = {
    "pre-training augmentation": "parameters of the augmentation",
    "ImageNet-100 embedding": "losses of embeddings, not a score of an evaluation",
    "CIFAR-10": "the slide does not state the protocol",
    "CIFAR-10 (metric not stated on the slide)": "the slide does not state the protocol",
    "CIFAR-100 (metric not stated on the slide)": "the slide does not state the protocol",
    "STL-10 (metric not stated on the slide)": "the slide does not state the protocol",
    "Tiny ImageNet (metric not stated on the slide)": "the slide does not state the protocol",
    "batch-size ablation (data set not stated on the slide)": "the slide does not state the data",
    "group-size ablation (data set not stated on the slide)": "the slide does not state the data",
}
"""Tasks of published.csv whose numbers are no scores of a known evaluation protocol, and why."""

ABLATIONS = frozenset(
    {
        *(("MSBReg paper", f"Table {number}") for number in (6, 7, 8, 11, 12, 13)),
        ("BMWReg poster", "Training Efficiency"),
        ("BMWReg poster", "Ablation Study"),
        ("BYOL slides", "BYOL variants (batch statistics)"),
        ("BYOL slides", "What factors prevent collapsing"),
        ("BYOL slides", "How crucial is the predictor"),
        ("SSL slides", "VICReg Table 4"),
        ("SSL slides", "VICReg Table 5"),
    }
)
"""(source, table) of the tables that vary a method instead of comparing methods."""
