"""Settings of small segmentation runs."""

import dataclasses
from pathlib import Path
from typing import Any

from transfer.dense_knn import Config as DenseConfig
from transfer.segmenters.segmentation_config import (
    AugmentationOptions,
    Config,
    MemoryOptions,
    NetworkOptions,
    SolverOptions,
)


def tiny(data: Path, output: Path, **changes: Any) -> Config:
    """Six iterations of four small crops."""
    config = Config(
        checkpoint="random",
        arch="resnet18-tiny",
        engine="torchvision",
        data=f"folders:{data}",
        output=output,
        network=NetworkOptions(channels=8, convolutions=1, dilation=1, dropout=0.2),
        augmentation=AugmentationOptions(crop=(24, 24)),
        solver=SolverOptions(learning_rates=(0.05,), iterations=6, batch_size=4),
        save_every=2,
        workers=0,
        device="cpu",
    )
    return dataclasses.replace(config, **changes)


def frozen(data: Path, output: Path) -> Config:
    """Without random numbers and batch statistics, so that processes compute what one does."""
    network = NetworkOptions(channels=8, convolutions=1, dilation=1, freeze="statistics")
    return tiny(data, output, network=network)


def dense(data: Path, output: Path, **changes: Any) -> DenseConfig:
    """A memory of 400 patches of whole images and crops."""
    config = DenseConfig(
        checkpoint="random",
        arch="resnet18-tiny",
        data=f"folders:{data}",
        output=output,
        side=32,
        output_stride=4,
        k=5,
        memory=MemoryOptions(patches=400, passes=2),
        workers=1,
        device="cpu",
    )
    return dataclasses.replace(config, **changes)
