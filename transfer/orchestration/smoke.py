"""Tiny settings with which every protocol runs on the embedded digits in seconds. The scores mean nothing."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msbreg.backbones.resnet import build_backbone
from msbreg.checkpoints.load import save_checkpoint
from transfer.orchestration.suite_config import Config

UNTRAINED = "untrained"
"""Folder in the suite's output for the checkpoint that a smoke test without one makes."""
ARCH, SIDE, SEED = "resnet18-narrow", 16, 97

_TINY = {"transform.resize": SIDE, "transform.crop": SIDE}
_MAPS = {"network.output_stride": 32, "augmentation.crop": (32, 32)}
_DETECTOR = {
    "INPUT.MIN_SIZE_TRAIN": "(24,)",
    "INPUT.MIN_SIZE_TEST": 24,
    "INPUT.MAX_SIZE_TEST": 40,
    "SOLVER.MAX_ITER": 3,
    "SOLVER.STEPS": "(2,)",
    "SOLVER.WARMUP_ITERS": 1,
    "TEST.PRECISE_BN.ENABLED": False,
    "TEST.DETECTIONS_PER_IMAGE": 2,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 4,
}

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "gate": _TINY | {"bank": 200, "queries": 60, "twins": 1},
    "knn": _TINY,
    "linear": _TINY | {"epochs": 2, "learning_rates": (0.1,)},
    "svm": _TINY | {"costs": (0.1,), "folds": 2},
    "logistic": _TINY | {"regularizations": (1000.0,)},
    "semisupervised": _TINY
    | {
        "labels": 0.02,
        "epoch_counts": (1,),
        "learning_rates": (0.01,),
        "encoder_rates": (),
        "augmentation.crop": SIDE,
        "loading": 0,
    },
    "segmentation": _MAPS | {"solver.iterations": 2, "solver.batch_size": 2},
    "robustness": {"severities": (3,)},
    "depth": {"output_stride": 32, "depth.iterations": 2, "depth.batch_size": 2},
    "dense_knn": {"side": 32, "output_stride": 32, "memory.patches": 1200, "k": 3},
    "voc_c4": _DETECTOR,
    "coco_mask_fpn": _DETECTOR,
}
"""Name of a protocol -> settings on top of those of its card for the digits."""


def smoke_config(config: Config) -> Config:
    """The config of a suite with one untrained twin at most."""
    return dataclasses.replace(
        config,
        random_seeds=min(config.random_seeds, 1),
        random_fine_tuned=min(config.random_fine_tuned, 1),
        anyway=True,
    )


def untrained_checkpoint(folder: Path) -> Path:
    """Write the checkpoint of an untrained network to ``folder`` and return its path."""
    file = folder / "checkpoint.pth"
    if file.exists():
        return file
    folder.mkdir(parents=True, exist_ok=True)
    weights = build_backbone(ARCH, seed=SEED).state_dict()
    content = {"arch": ARCH, "image_size": 3 * SIDE, "step": 0, "steps": 1}
    config = {"method": "msbreg", "views": 2, "epochs": 1, "batch_size": 4, "seed": SEED}
    online = {f"backbone.{name}": value for name, value in weights.items()}
    save_checkpoint(file, content | {"config": config, "online": online})
    return file
