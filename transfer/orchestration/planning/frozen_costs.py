"""What the protocols on frozen features cost: their features, and what is computed from them."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from msbreg.backbones.inference import FrozenBackbone
from msbreg.data.classification.imagenet_variants import VARIANTS
from msbreg.data.images import LabeledImages
from msbreg.data.sources import SOURCES
from msbreg.neighbors import nearest
from transfer.frozen.frozen_network import usual_transform
from transfer.frozen.head_training import CachedFeatures, HeadTraining, cached_batches
from transfer.frozen.heads import Head, Heads
from transfer.frozen.linear.head_choice import head_plan, head_settings
from transfer.frozen.logistic_regression import fit_path, published_regularizations
from transfer.frozen.svm_solver import C_GRIDS, fit_svm
from transfer.gating.gate_bank import training_split
from transfer.orchestration.planning.cost import Cost, Probe, same_work, with_data
from transfer.orchestration.planning.image_pass import FeatureCost, feature_cost, measure_pass
from transfer.orchestration.planning.measurement import seconds_per_call, seconds_per_step
from transfer.orchestration.task import script_module

SAMPLE = 512
"""Rows of made-up features that a fit is measured on; its time is then taken as proportional to the rows."""
CLASSES, EVERY = 10, 5
"""A logistic regression is measured on at most so many classes, and on every fifth penalty."""


def knn_cost(config: Any, probe: Probe) -> Cost:
    """Features, and an exact search in proportion to queries times bank."""
    config = with_data(config)
    splits = _splits(config, probe, config.train_split, config.val_split)
    features = feature_cost(config, probe, splits)
    bank, queries = map(len, splits.values())
    k = min(max(config.k), bank)
    rows = min(queries, 512), max(k, min(bank, 2**14))
    key = same_work(config, "search", features.width, *rows)

    def measure() -> float:
        x, y = (made_up(n, features.width) for n in rows)
        return seconds_per_call(
            lambda: nearest(x, y, k, backend=config.backend, device=probe.device), probe.device
        )

    search = probe.once(key, measure) * queries * bank / (rows[0] * rows[1])
    return _cost(features, {"search": search}, in_memory=bank + queries)


def linear_cost(config: Any, probe: Probe) -> Cost:
    """cached: features and the steps of all heads. streamed: every image in every epoch."""
    config = with_data(config)
    splits = _splits(config, probe, config.train_split, config.val_split)
    train, test = splits.values()
    heads = head_settings(config)
    several = len(heads) > 1
    kept = round(len(train) * (1 - config.held_out * several))
    if config.route == "streamed":
        features = feature_cost(config, probe, {"test": test})
        step = _head_step(config, probe, features.width, train, heads)
        steps = config.epochs * -(-kept // config.batch_size)
        passes = (config.epochs * kept + (len(train) - kept)) * features.rate.seconds
        return _cost(features, {"passes": passes, "heads": steps * step})
    features = feature_cost(config, probe, splits)
    seconds = 0.0
    for images, of in [(kept, heads)] * several + [(len(train), heads[:1])]:
        step = _head_step(config, probe, features.width, train, of)
        seconds += config.epochs * -(-images // config.batch_size) * step
    return _cost(features, {"heads": seconds})


def svm_cost(config: Any, probe: Probe) -> Cost:
    """Features, the fits of one class times the number of classes, and the start of the workers."""
    config = with_data(config)
    splits = _splits(config, probe, config.train_split, config.test_split, layout="voc")
    features = feature_cost(config, probe, splits)
    train = next(iter(splits.values()))
    classes = len(config.classes or train.classes)
    rows = min(len(train), SAMPLE)

    jobs = config.workers if config.solver == "liblinear" else 1
    x = made_up(rows, features.width)
    labels = np.where(_classes_of(x, 10) == 0, 1, -1)[:, None]

    def seconds(columns: int, jobs: int) -> float:
        return seconds_per_call(
            lambda: fit_svm(
                x,
                np.repeat(labels, columns, axis=1),
                costs=list(config.costs or C_GRIDS[config.c_grid]),
                folds=config.folds,
                solver=config.solver,
                jobs=jobs,
                device=str(probe.device),
            ),
            probe.device,
            most=1,
        )

    key = same_work(config, "fit", features.width, rows)
    one = probe.once((key, 1), lambda: seconds(1, 1))
    start = probe.once((key, jobs), lambda: seconds(jobs, jobs)) - one if jobs > 1 else 0.0
    repeats = len(config.low_shot) * config.draws or 1
    fits = one * repeats * classes * len(train) / rows / jobs
    parts = {"fits": fits, "processes": max(0.0, start)}
    return _cost(features, parts, in_memory=sum(map(len, splits.values())))


def logistic_cost(config: Any, probe: Probe) -> Cost:
    """Features, and the path of fits in proportion to images and classes."""
    config = with_data(config)
    names = [config.train_split, *filter(None, [config.selection_split]), config.val_split]
    splits = _splits(config, probe, *names)
    features = feature_cost(config, probe, splits)
    train = splits[config.train_split]
    classes, several = len(train.classes), train.labels is not None and train.labels.ndim == 2
    path = sorted(config.regularizations or published_regularizations())
    rows, fitted, some = min(len(train), SAMPLE), min(classes, CLASSES), path[::EVERY]

    def measure() -> float:
        x = made_up(rows, features.width)
        labels = _classes_of(x, fitted)
        if several:
            labels = np.where(np.eye(fitted)[labels] > 0, 1, -1)
        return seconds_per_call(
            lambda: list(fit_path(x, labels, some, classes=fitted, device=probe.device)),
            probe.device,
            most=1,
        )

    key = same_work(config, "path", features.width, rows, fitted)
    one = probe.once(key, measure) * len(path) / len(some) * classes / fitted
    images = len(train)
    if config.few_shot:
        images = sum(config.few_shot) * classes * config.draws
    in_memory = 2 * sum(map(len, splits.values()))
    return _cost(features, {"fits": one * images / rows}, in_memory=in_memory)


def robustness_cost(config: Any, probe: Probe) -> Cost:
    """The features of the test sets; the probe takes no time."""
    script = script_module("robustness")
    config = with_data(config)
    layout, root = script.variant_layout(config.data)
    if layout in script.CORRUPTED and config.split is None:
        kinds = script.CORRUPTED[layout]
        names = [f"{name}/{severity}" for name in kinds for severity in config.severities]
    else:
        splits = SOURCES[layout].splits(root)
        names = [config.split or next(iter(splits), next(iter(VARIANTS[layout])))]
    images = {name: probe.images(f"{layout}:{root}", name) for name in names}
    return _cost(feature_cost(config, probe, images), {})


def gate_cost(config: Any, probe: Probe) -> Cost:
    """The training images of the first look, usually the only one, through the network and a twin."""
    config = with_data(config)
    layout, split = training_split(config.data, config.train_split)
    images = probe.images(config.data, split, layout)
    backbone, provenance = probe.network(config)
    network = FrozenBackbone(
        backbone, provenance, probe.device, representation=config.representation
    )
    transform = config.transform.over(usual_transform(provenance))
    rate = probe.once(
        same_work(config, "pass", provenance.arch, provenance.image_size),
        lambda: measure_pass(
            network, images, len(images), transform=transform, threads=config.workers
        ),
    )
    first = config.looks(len(images))[0]
    sample = min(len(images), first.bank + first.queries)
    seconds = sample * (rate.seconds + first.twins * rate.network)
    return Cost(
        {"features": seconds},
        memory=rate.memory,
        decoding=1 / rate.decoding,
        network=1 / rate.network,
    )


FROZEN: dict[str, Callable[[Any, Probe], Cost]] = {
    "gate": gate_cost,
    "knn": knn_cost,
    "linear": linear_cost,
    "svm": svm_cost,
    "logistic": logistic_cost,
    "robustness": robustness_cost,
}


def made_up(rows: int, width: int) -> np.ndarray:  # (rows, width) float32
    """Features like those after a ReLU: not negative, with standard deviations that fall like 1 / i.

    Fits take about as many iterations on them as on those of a network.
    """
    generator = np.random.default_rng(0)
    x = generator.standard_normal((rows, width), np.float32)
    x /= np.arange(1, width + 1, dtype=np.float32)
    return np.maximum(x + x.std(axis=0), 0)


def _classes_of(x: np.ndarray, classes: int) -> np.ndarray:  # (N,)
    """Equally frequent classes that a linear classifier separates in part."""
    generator = np.random.default_rng(1)
    along = x @ generator.standard_normal(x.shape[1])
    along += generator.standard_normal(len(x)) * along.std()
    ranks = along.argsort().argsort()
    found: np.ndarray = ranks * classes // len(x)
    return found


def _splits(
    config: Any, probe: Probe, *names: str, layout: str = "folder"
) -> dict[str, LabeledImages]:
    return {name: probe.images(config.data, name, layout) for name in names}


def _head_step(
    config: Any, probe: Probe, width: int, train: LabeledImages, heads: list[Head]
) -> float:
    """Seconds of a step of so many heads."""
    images, classes = min(len(train), 8 * config.batch_size), len(train.classes)
    key = same_work(config, "step", len(heads), width, images, classes)

    def measure() -> float:
        generator = torch.Generator().manual_seed(0)
        training = HeadTraining(
            images,
            Heads(width, classes, heads, generator),
            head_plan(config),
            features_of=CachedFeatures(made_up(images, width), probe.device),
            batches_of=cached_batches(torch.arange(images) % classes),
            device=probe.device,
        )
        return seconds_per_step(training, training.batches(0), probe.device)

    return probe.once(key, measure)


def _cost(features: FeatureCost, parts: Mapping[str, float], *, in_memory: int = 0) -> Cost:
    """``in_memory`` is the number of features that are in memory at once."""
    rate = features.rate
    return Cost(
        {"features": features.seconds, **parts},
        memory=rate.memory + in_memory * features.width * 4,
        disk=features.disk,
        decoding=1 / rate.decoding,
        network=1 / rate.network,
    )
