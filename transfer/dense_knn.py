"""Semantic segmentation without training: every patch takes the labels of its nearest training patches.

Hummingbird's retrieval (see segmenters/patch_memory.py): the cosine similarity s of patch features, weights
softmax(s / 0.02) over 30 neighbors, soft label maps resized bilinearly to the label maps, and the mean IoU of
transfer/segmentation.py. Nothing is trained and no hyperparameter is selected. The search is exact. A run
that was interrupted starts over.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from msbreg.run.config import Card
from msbreg.run.errors import UserError
from msbreg.run.options import main, read_options
from transfer.frozen.frozen_config import SplitConfig
from transfer.segmenters.segmentation_config import MemoryOptions


@dataclass(frozen=True)
class Config(SplitConfig):
    """Settings of dense kNN: one split of DATA fills the memory, another is scored."""

    script: ClassVar[str] = "transfer/dense_knn.py"

    data: str | None = None
    """digits, a folder with label maps, or LAYOUT:FOLDER (voc, cityscapes, ade20k, folders, coco; null: the
    embedded digits)."""
    output: Path = Path("runs/dense_knn")
    """Folder for record.json, log.txt, predictions, tables and drawings."""
    side: int = 512
    """Images are resized to SIDE x SIDE pixels, a multiple of the network's patch size."""
    output_stride: Literal[4, 8, 16, 32] | None = None
    """ResNets: stride of c5; stages are dilated instead (null: the network's own, usually 32)."""
    k: int = 30
    """Number of neighbors."""
    temperature: float = 0.02
    """Temperature tau of the weights softmax(similarity / tau)."""
    memory: MemoryOptions = field(default_factory=MemoryOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        m = self.memory
        for name, valid, value, expected in (
            ("side", self.side >= 1, self.side, "at least 1 pixel"),
            ("k", self.k >= 1, self.k, "at least 1 neighbor"),
            ("temperature", self.temperature > 0, self.temperature, "a number above 0"),
            (
                "memory.patches",
                m.patches is None or m.patches >= 1,
                m.patches,
                "at least 1, or null",
            ),
            ("memory.passes", m.passes >= 1, m.passes, "at least 1"),
            (
                "memory.area",
                0 < m.area[0] <= m.area[1] <= 1,
                list(m.area),
                "0 < smallest <= largest <= 1",
            ),
            (
                "memory.ratio",
                0 < m.ratio[0] <= m.ratio[1],
                list(m.ratio),
                "0 < narrowest <= widest",
            ),
            ("memory.flip", 0 <= m.flip <= 1, m.flip, "a probability"),
        ):
            if not valid:
                raise UserError(f"{name} is {value}; expected {expected}")

    def check_data(self, data: str) -> None:
        from msbreg.data.segmentation.map_sources import MAP_SOURCES  # imports OpenCV
        from msbreg.data.sources import check_source

        check_source(data, MAP_SOURCES)


if __name__ == "__main__":  # options, cards and paths are checked before PyTorch is imported
    OPTIONS = read_options(Config)

import contextlib

import numpy as np

from msbreg.backbones.backbone_interface import TOKENS
from msbreg.backbones.features import feature_batches
from msbreg.backbones.inference import FrozenBackbone
from msbreg.data.segmentation.label_maps import LabelMaps
from msbreg.data.segmentation.map_sources import MAP_SOURCES
from msbreg.data.sources import data_name
from msbreg.neighbors import nearest
from msbreg.run import distributed
from msbreg.run.failures import Agreement
from msbreg.run.job import Job, log
from msbreg.run.progress import Progress
from transfer.frozen.evaluation import evaluate
from transfer.frozen.frozen_network import load_network
from transfer.scoring.iou import SegmentationScores, confusion, overlaps
from transfer.scoring.scores import DataId
from transfer.segmenters import segmentation_results as results
from transfer.segmenters.map_splits import checked_splits
from transfer.segmenters.patch_memory import (
    BATCH,
    MemoryViews,
    PatchMemory,
    build_memory,
    dilated,
    patches_per_side,
    share_in_batches,
    soft_labels,
    to_square,
    upsampled_labels,
)

SEARCHED = 2**14
"""Patches in one search, at least those of a batch: every search reads the whole memory, which takes little
of its time from here on."""


def run(config: Config, card: Card = Card()) -> dict[str, Any]:  # noqa: B008 - frozen
    """Run the evaluation and return its results; scores are in percent."""
    return evaluate("dense_knn", config, card, _run)


def _run(config: Config, job: Job) -> dict[str, Any]:
    assert config.data is not None
    fitted, tested = checked_splits(config.data, (config.train_split, config.val_split), job)
    network = _network(config, job)
    grid = patches_per_side(network, config.side)

    # ---- Fill the memory with patches of the training images.
    views = MemoryViews(fitted, config.memory, config.seed)
    memory = build_memory(network, views, config.side, threads=config.workers)
    log.info(
        "memory: %d patches of %d features, %d x %d in an image", *memory.features.shape, grid, grid
    )
    job.record.content["memory"] = {"patches": len(memory), "grid": grid}
    job.record.content["selection"] = "nothing is selected"
    if config.k > len(memory):
        raise UserError(
            f"k is {config.k}, but the memory has {len(memory)} labeled patches. Give a smaller --k, a "
            "larger --memory.patches or more training images"
        )

    # ---- Label the test images, and score them.
    scores = _evaluate(network, memory, tested, config, job)
    if distributed.is_main():
        data = DataId(data_name(config.data, MAP_SOURCES), config.val_split, tested.fingerprint)
        results.write(job, tested, scores, data, rules=rules(config), prefix=f"{config.k}-NN ")
    return results.numbers(scores) | {"memory": len(memory), "grid": grid}


def rules(config: Config) -> str:
    """How the images are labeled, for tables.

    >>> rules(Config(memory=MemoryOptions(patches=1024, passes=2)))
    '30 nearest of up to 1,024 patches of 2 passes, 512 x 512 images, temperature 0.02, totals over the set'
    """
    patches = "all patches"
    if config.memory.patches is not None:
        patches = f"up to {config.memory.patches:,} patches"
    if config.memory.passes > 1:
        patches += f" of {config.memory.passes} passes"
    stride = f" at stride {config.output_stride}" if config.output_stride else ""
    return (
        f"{config.k} nearest of {patches}, {config.side} x {config.side} images{stride}, temperature "
        f"{config.temperature:g}, totals over the set"
    )


def _network(config: Config, job: Job) -> FrozenBackbone:
    """The frozen network, which gives the features of patches."""
    backbone, provenance = load_network(config, job)
    if config.output_stride is not None:
        backbone = dilated(backbone, config.output_stride)
    try:
        note = backbone.adaptation(config.side)
    except UserError as error:
        raise UserError(f"{error}.\nHere, --side sets the size of the images") from error
    if note:
        job.record.content["network"]["adaptation"] = note
        log.info("%s", note)
    return FrozenBackbone(backbone, provenance, job.device, representation=TOKENS)


def _evaluate(
    network: FrozenBackbone, memory: PatchMemory, tested: LabelMaps, config: Config, job: Job
) -> SegmentationScores:
    """Label the images of this process, write the predictions, and add up the totals of all processes."""
    classes = tested.classes
    matrix = np.zeros((len(classes), len(classes)), np.int64)
    by_image = np.zeros((len(tested), 2, len(classes)), np.int32)
    mine = share_in_batches(len(tested))
    patches = patches_per_side(network, config.side) ** 2
    at_once = max(1, SEARCHED // (BATCH * patches)) * BATCH
    with Agreement(), Progress("predicting", len(mine), unit="images") as progress:
        for start in range(0, len(mine), at_once):
            part = mine[start : start + at_once]
            tokens = _tokens(network, tested, part, config)
            similarities, indices = nearest(tokens, memory.features, config.k, device=job.device)
            for place, i in enumerate(part):
                rows = slice(place * patches, (place + 1) * patches)
                neighbors = memory.labels[indices[rows]]
                soft = soft_labels(similarities[rows], neighbors, config.temperature)
                truth = tested.label(i)
                found = upsampled_labels(soft, truth.shape[:2])
                results.save_labels(
                    job.output / results.PREDICTIONS / results.prediction_name(tested, i), found
                )
                own = confusion(truth, found, len(classes))
                matrix += own
                by_image[i] = overlaps(own)
            progress.update(start + len(part))
    shares = distributed.gather_objects((matrix, by_image))
    total: np.ndarray = sum(share for share, _ in shares)
    return SegmentationScores(classes, total, sum(share for _, share in shares))


def _tokens(
    network: FrozenBackbone, images: LabelMaps, part: range, config: Config
) -> np.ndarray:  # (patches of all images, D)
    with contextlib.closing(
        feature_batches(
            network,
            images,
            part,
            transform=to_square(config.side),
            batch_size=BATCH,
            threads=config.workers,
        )
    ) as batches:
        return np.concatenate([rows.reshape(-1, network.width) for _, rows in batches])


if __name__ == "__main__":
    main(run, *OPTIONS)
