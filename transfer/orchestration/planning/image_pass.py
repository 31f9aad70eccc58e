"""The rate at which images pass through a frozen network, measured on a few of them."""

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from msbreg.backbones.features import ReadsImages, feature_batches
from msbreg.backbones.inference import FrozenBackbone
from msbreg.backbones.spec import Provenance
from msbreg.data.images import LabeledImages
from msbreg.data.transforms import EvaluationTransform
from transfer.frozen.feature_cache import BATCH, Pass, store_of
from transfer.frozen.feature_store import MANIFEST
from transfer.frozen.frozen_config import FrozenConfig
from transfer.frozen.frozen_network import usual_transform
from transfer.orchestration.planning import measurement
from transfer.orchestration.planning.cost import Probe
from transfer.orchestration.planning.measurement import PeakMemory, seconds_per_call

BATCHES = 6


@dataclass(frozen=True)
class PassRate:
    """Measured on real images.

    Attributes:
        seconds: per image of the whole pass: threads decode the next batch while the network computes.
        decoding: seconds per image on one thread, with the transform.
        network: seconds per image of the forward pass alone.
        memory: peak in bytes.
    """

    seconds: float
    decoding: float
    network: float
    memory: int


@dataclass(frozen=True)
class FeatureCost:
    """What the features of some splits take; those in the cache take nothing.

    Attributes:
        seconds: of their extraction.
        disk: bytes in the cache.
        width: dimension of a feature.
        rate: how it was measured.
    """

    seconds: float
    disk: int
    width: int
    rate: PassRate


@dataclass(frozen=True)
class _Spread:
    """Images that are spread over a whole source."""

    source: ReadsImages
    positions: np.ndarray

    def image(self, i: int) -> np.ndarray:
        return self.source.image(int(self.positions[i]))


def measure_pass(
    network: FrozenBackbone,
    source: ReadsImages,
    images: int,
    *,
    transform: EvaluationTransform,
    threads: int,
    batch: int = BATCH,
) -> PassRate:
    """Pass a few batches of a source of so many images through the network, in some seconds.

    The first batch is a warm-up and is not counted if there are others.

    Raises:
        UserError: the network does not take images of the size of the transform.
    """
    network.network.adaptation(transform.crop)
    batch = min(batch, images)
    chosen = np.linspace(0, images - 1, min(images, BATCHES * batch)).astype(np.int64)
    sample = _Spread(source, chosen)
    with PeakMemory(network.device) as peak:
        start = time.perf_counter()
        pixels = [transform(sample.image(i)) for i in range(min(batch, 16, len(chosen)))]
        decoding = (time.perf_counter() - start) / len(pixels)
        one = torch.from_numpy(np.stack(pixels))
        forward = seconds_per_call(lambda: network(one), network.device) / len(pixels)
        marks, counted = [time.perf_counter()], [0]
        whole = range(len(chosen) // batch * batch)
        with contextlib.closing(
            feature_batches(
                network, sample, whole, transform=transform, batch_size=batch, threads=threads
            )
        ) as batches:
            for first, rows in batches:
                marks.append(time.perf_counter())
                counted.append(first + len(rows))
                if len(marks) > 2 and marks[-1] - marks[1] > measurement.SECONDS:
                    break
    since = 1 if len(marks) > 2 else 0
    seconds = (marks[-1] - marks[since]) / (counted[-1] - counted[since])
    return PassRate(seconds, decoding, forward, peak.bytes)


def feature_cost(
    config: FrozenConfig, probe: Probe, splits: Mapping[str, LabeledImages]
) -> FeatureCost:
    """What a task adds to the features that are in the cache, or that an earlier task extracts.

    Extrapolated from ``measure_pass`` to the number of images. A network that is compiled (50,000 images or
    more) is measured without compilation.
    """
    backbone, provenance = probe.network(config)
    settings = Pass(config.cache, config.representation, config.precision, threads=config.workers)
    transform = config.transform.over(usual_transform(provenance))
    network = FrozenBackbone(
        backbone,
        provenance,
        probe.device,
        representation=config.representation,
        precision=config.precision,
    )
    some = max(splits.values(), key=len)
    rate = probe.once(
        _same_pass(config, provenance, transform),
        lambda: measure_pass(network, some, len(some), transform=transform, threads=config.workers),
    )
    seconds, disk = 0.0, 0
    for images in splits.values():
        store = store_of(
            backbone,
            provenance,
            images,
            settings,
            transform=transform,
            device=probe.device.type,
        )
        if store.folder in probe.counted or (store.folder / MANIFEST).exists():
            continue
        probe.counted.add(store.folder)
        seconds += len(images) * rate.seconds
        disk += len(images) * (network.width * (2 if config.precision == "bf16" else 4) + 8)
    return FeatureCost(seconds, disk, network.width, rate)


def _same_pass(
    config: FrozenConfig, provenance: Provenance, transform: EvaluationTransform
) -> tuple[object, ...]:
    size, data = provenance.image_size, config.data
    return (
        *("pass", provenance.arch, size, transform, data),
        *(config.representation, config.precision, config.workers),
    )
