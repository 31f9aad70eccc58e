"""Time segmentation: scoring against torchmetrics, iterations against torchvision's reference loop.

    OMP_NUM_THREADS=1 python benchmarks/segmentation.py [--crop 129] [--batch 2] [--rounds 3]

Prints the CPU time of one process and ratios to ours, both measured in turns. Scores must be equal. The
network is torchvision's fcn_resnet50 (stride 8, one convolution of 512 channels) on all sides; the loop is
that of references/segmentation/train.py and, where MMSegmentation is installed, its train_step. With bf16,
the network is also in channels-last format.
"""

import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import statistics
import time
from collections.abc import Callable, Mapping

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torchvision.models.segmentation import fcn_resnet50

from msbreg.backbones.spec import IMAGENET, BackboneSpec
from transfer.scoring.iou import SegmentationScores, confusion
from transfer.segmenters.crops import Batch
from transfer.segmenters.fcn import build_fcn
from transfer.segmenters.mmseg_config import network_config
from transfer.segmenters.segmentation_config import Config, NetworkOptions, SolverOptions
from transfer.segmenters.segmenter_engine import mmseg_is_installed
from transfer.segmenters.segmenter_training import SegmenterTraining

CITYSCAPES = (1024, 2048)
CLASSES = 19


def compare(title: str, routes: Mapping[str, Callable[[], object]], rounds: int) -> None:
    """Print the median CPU time of each route and its ratio to the first, measured in turns."""
    times: dict[str, list[float]] = {name: [] for name in routes}
    for number in range(rounds + 1):
        for name, route in routes.items():
            start = time.process_time()
            route()
            if number:  # the first round warms up
                times[name].append(time.process_time() - start)
    ours = statistics.median(next(iter(times.values())))
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{title:11}{name:26}{1e3 * median:10.1f} ms{median / ours:8.2f} x ours", flush=True)


def scoring(rounds: int) -> None:
    """One pair of label maps of Cityscapes' size, with void pixels and an absent class."""
    from torchmetrics.classification import MulticlassJaccardIndex

    random = np.random.default_rng(0)
    blocks = random.integers(0, CLASSES - 1, (32, 64)).astype(np.uint8)
    truth = cv2.resize(blocks, CITYSCAPES[::-1], interpolation=cv2.INTER_NEAREST)
    predicted = np.where(random.random(CITYSCAPES) < 0.1, 3, truth).astype(np.uint8)
    truth[:40] = 255
    metric = MulticlassJaccardIndex(CLASSES, average="none", ignore_index=255)
    theirs = torch.from_numpy(predicted).long(), torch.from_numpy(truth).long()
    metric.update(*theirs)
    scores = SegmentationScores(("",) * CLASSES, confusion(truth, predicted, CLASSES))
    # torchmetrics scores absent classes with 0
    np.testing.assert_allclose(np.nan_to_num(scores.iou), 100 * metric.compute(), rtol=1e-5)
    routes = {
        "ours": lambda: confusion(truth, predicted, CLASSES),
        "torchmetrics": lambda: metric.update(*theirs),
    }
    compare("scoring", routes, 3 * rounds)


LAYERS = NetworkOptions(
    output_stride=8,
    contract_dilation=True,
    channels=512,
    convolutions=1,
    dilation=1,
    dropout=0.1,
)


def our_step(crop: int, batch: int, *, fast: bool = False) -> Callable[[], None]:
    config = Config(
        network=LAYERS,
        solver=SolverOptions(schedule="poly"),
        amp="bf16" if fast else "no",
        channels_last=fast,
    )
    network = build_fcn(BackboneSpec("resnet50"), CLASSES, LAYERS)
    if fast:
        network.to(memory_format=torch.channels_last)
    training = SegmenterTraining(network, config, 0.01, IMAGENET, torch.device("cpu"))
    training.train_mode()
    pixels = torch.randint(0, 256, (batch, 3, crop, crop), dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (batch, crop, crop), dtype=torch.uint8)
    samples = Batch(pixels, labels, torch.full((batch, 2), crop))

    def step() -> None:
        training.optimizer.zero_grad()
        (loss,) = training.losses(network, samples, 0)
        loss.total.backward()
        training.optimizer.step()

    return step


def reference_step(crop: int, batch: int) -> Callable[[], None]:
    network = fcn_resnet50(weights=None, weights_backbone=None, num_classes=CLASSES).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    images = torch.rand(batch, 3, crop, crop)
    labels = torch.randint(0, CLASSES, (batch, crop, crop))

    def step() -> None:
        loss = F.cross_entropy(network(images)["out"], labels, ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def mmseg_step(crop: int, batch: int) -> Callable[[], None]:
    from mmengine.optim import OptimWrapper
    from mmengine.structures import PixelData
    from mmseg.models import SegDataPreProcessor
    from mmseg.structures import SegDataSample

    from transfer.segmenters.mmseg_engine import build_model

    model = build_model(network_config(BackboneSpec("resnet50"), CLASSES, LAYERS)).train()
    pixels = {"mean": IMAGENET.pixel_mean, "std": IMAGENET.pixel_std, "bgr_to_rgb": True}
    model.data_preprocessor = SegDataPreProcessor(**pixels, size=(crop, crop))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    wrapper = OptimWrapper(optimizer)
    labels = torch.randint(0, CLASSES, (batch, 1, crop, crop))
    data = {
        "inputs": list(torch.randint(0, 256, (batch, 3, crop, crop), dtype=torch.uint8)),
        "data_samples": [
            SegDataSample(gt_sem_seg=PixelData(data=map_), metainfo={}) for map_ in labels
        ],
    }
    return lambda: model.train_step(data, wrapper)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--crop", type=int, default=129)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    scoring(options.rounds)
    routes = {
        "ours": our_step(options.crop, options.batch),
        "torchvision": reference_step(options.crop, options.batch),
        "ours, bf16 channels-last": our_step(options.crop, options.batch, fast=True),
    }
    if mmseg_is_installed():
        routes["MMSegmentation"] = mmseg_step(options.crop, options.batch)
    compare("iteration", routes, options.rounds)


if __name__ == "__main__":
    main()
