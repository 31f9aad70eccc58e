"""What the protocols cost that train on images or compare patches: a few real steps, extrapolated."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from msbreg.backbones.backbone_interface import TOKENS
from msbreg.backbones.inference import FrozenBackbone
from msbreg.data.images import LabeledImages, balanced_subset
from msbreg.data.scenes import Scenes
from msbreg.data.segmentation.digit_depths import open_depths
from msbreg.data.segmentation.label_maps import LabelMaps
from msbreg.data.segmentation.map_sources import open_label_maps
from msbreg.data.transforms import TrainingTransform
from msbreg.neighbors import nearest
from transfer.detectors import engine as detector_engines
from transfer.detectors.config.yaml_file import read_config
from transfer.detectors.detector_training import DetectorTraining
from transfer.detectors.mapper import mapper_settings
from transfer.detectors.samples import training_batches as detection_batches
from transfer.detectors.splits import data_of
from transfer.finetuning.classifier_training import (
    Classifier,
    ClassifierTraining,
    candidates_of,
)
from transfer.frozen.frozen_network import usual_transform
from transfer.frozen.head_training import augmented_batches
from transfer.orchestration.planning.cost import Cost, Probe, same_work, with_data
from transfer.orchestration.planning.frozen_costs import made_up
from transfer.orchestration.planning.image_pass import PassRate, measure_pass
from transfer.orchestration.planning.measurement import (
    PeakMemory,
    seconds_per_call,
    seconds_per_step,
)
from transfer.segmenters import segmenter_engine
from transfer.segmenters.crops import training_batches as segmentation_batches
from transfer.segmenters.linear_depth import DepthProbe, DepthTraining
from transfer.segmenters.linear_depth import training_batches as depth_batches
from transfer.segmenters.patch_memory import BATCH, dilated, patches_per_side, to_square
from transfer.segmenters.segmentation_results import Evaluation, evaluate
from transfer.segmenters.segmenter_training import SegmenterTraining

SCORED = 8
"""Test images of a probe of the evaluation; its time is then taken as proportional to the images."""
SEARCHED = 512
"""Patches of a probe of the search, against at most ``REMEMBERED`` others."""
REMEMBERED = 2**15


@dataclasses.dataclass(frozen=True)
class Training:
    """Measured on a few real batches.

    Attributes:
        step: seconds per training step, with the loading of its images.
        scoring: seconds per test image.
        memory: peak in bytes.
        checkpoint: bytes of the weights and the state of the optimizer.
    """

    step: float
    scoring: float
    memory: int
    checkpoint: int


def detection_cost(config: Any, probe: Probe) -> Cost:
    """The detector of the yaml from random weights, on its own data."""
    settings = read_config(config.config, config.overrides)
    data = probe.once(
        ("scenes", settings.DATASETS.TRAIN, settings.DATASETS.TEST, str(config.data)),
        lambda: data_of(settings, config.data, train=True, strict=config.strict_data),
    )

    def measure() -> Training:
        engine = detector_engines.choose(config.engine)
        detector = engine.build(settings).to(probe.device)
        solver, mapper = engine.solver(settings, detector), mapper_settings(settings)
        training = DetectorTraining(
            detector, solver, probe.device, accumulate=config.accumulate, bf16=config.amp == "bf16"
        )
        batches = detection_batches(
            data.train,
            mapper,
            batch=settings.SOLVER.IMS_PER_BATCH,
            seed=0,
            first=0,
            rank=0,
            world=1,
            workers=settings.DATALOADER.NUM_WORKERS if config.workers < 0 else config.workers,
            group=settings.DATALOADER.ASPECT_RATIO_GROUPING,
        )
        few = _few_scenes(data.test)

        def score() -> None:
            engine.predict(detector, few, mapper, workers=0)

        return _measured(training, batches, score, len(few.scenes), probe.device)

    rules = same_work(config, "training", str(config.config), config.overrides)
    found = probe.once(rules, measure)
    iterations = settings.SOLVER.MAX_ITER
    evaluations = _evaluations(iterations, settings.TEST.EVAL_PERIOD)
    precise = settings.TEST.PRECISE_BN
    extra = precise.NUM_ITER * evaluations / 2 if precise.ENABLED else 0  # forward passes only
    return _cost(
        found,
        steps=(iterations + extra) * config.trials,
        images=len(data.test.scenes) * evaluations * config.trials,
        batch=settings.SOLVER.IMS_PER_BATCH,
    )


def segmentation_cost(config: Any, probe: Probe) -> Cost:
    """The segmentation network on the backbone, for each learning rate."""
    config = with_data(config)
    fitted, tested = (
        _maps(config.data, name, probe) for name in (config.train_split, config.val_split)
    )
    backbone, provenance = probe.network(config)

    def measure() -> Training:
        engine = segmenter_engine.choose(config.engine, config.network)
        network = engine.build(provenance.spec, len(fitted.classes), config.network)
        network.backbone.load_state_dict(backbone.state_dict())
        network.to(probe.device)
        training = SegmenterTraining(network, config, 0.0, provenance.normalization, probe.device)
        batches = segmentation_batches(
            fitted,
            config.augmentation,
            batch=config.solver.batch_size,
            seed=0,
            first=0,
            rank=0,
            world=1,
            workers=config.workers,
            pin_memory=probe.device.type == "cuda",
        )
        few = tested.subset(_spread(len(tested), SCORED))
        to_score = Evaluation(
            few, config.inference, provenance.normalization, probe.device, folder=None
        )
        return _measured(
            training, batches, lambda: evaluate(network, to_score), len(few), probe.device
        )

    found = probe.once(same_work(config, "training", provenance.arch), measure)
    rates, iterations = len(config.solver.learning_rates), config.solver.iterations
    trainings = 1 + (rates if rates > 1 else 0)
    held = config.solver.held_out * rates if rates > 1 else 0
    evaluations = _evaluations(iterations, config.evaluate_every)
    return _cost(
        found,
        steps=trainings * iterations * config.trials,
        images=(held + len(tested) * evaluations) * config.trials,
        batch=config.solver.batch_size,
    )


def semisupervised_cost(config: Any, probe: Probe) -> Cost:
    """The fine-tuned classifier, for each combination of settings."""
    config = with_data(config)
    images = probe.images(config.data, config.train_split)
    tested = probe.images(config.data, config.val_split)
    used = round(config.labels * len(images))
    some = images if config.labels == 1 else balanced_subset(images, used, seed=config.seed)
    backbone, provenance = probe.network(config)
    transform = config.transform.over(usual_transform(provenance))
    augmentation = config.augmentation.over(
        TrainingTransform(crop=transform.crop, interpolation=transform.interpolation)
    )
    backbone.adaptation(augmentation.crop)  # refuses sizes that the network does not take
    candidates = candidates_of(config, used)

    def measure() -> Training:
        classifier = Classifier(
            copy.deepcopy(backbone),
            config.representation or backbone.representations[0],
            len(images.classes),
            torch.Generator().manual_seed(0),
            frozen=config.freeze == "encoder",
        )
        training = ClassifierTraining(
            used,
            classifier,
            next(iter(candidates.values())),
            config,
            provenance.normalization,
            batches_of=augmented_batches(
                some, augmentation, seed=0, workers=config.loading, device=probe.device
            ),
            device=probe.device,
        )
        return _measured(training, training.batches(0), None, 1, probe.device)

    found = probe.once(same_work(config, "training", provenance.arch, used), measure)
    rate = _pass_rate(config, probe, tested, provenance.arch)
    kept = used * (1 - config.held_out)
    steps, scored = 0.0, float(len(tested))
    for candidate in candidates.values() if len(candidates) > 1 else ():
        steps += candidate.epochs * -(-kept // config.batch_size)
        scored += used - kept
    # Which candidate is chosen is not known: the mean number of epochs.
    epochs = float(np.mean([candidate.epochs for candidate in candidates.values()]))
    steps += epochs * -(-used // config.batch_size)
    cost = _cost(found, steps=steps, images=0, batch=config.batch_size)
    return dataclasses.replace(
        cost,
        seconds={**cost.seconds, "scoring": scored * rate.seconds},
        decoding=1 / rate.decoding,
    )


def depth_cost(config: Any, probe: Probe) -> Cost:
    """The linear layer on the frozen, dilated backbone."""
    config = with_data(config)
    fitted, tested = (
        open_depths(config.data, name) for name in (config.train_split, config.val_split)
    )
    backbone, provenance = probe.network(config)

    def measure() -> Training:
        own = dilated(copy.deepcopy(backbone), config.output_stride)
        network = DepthProbe(own, provenance.normalization).to(probe.device)
        batches = depth_batches(fitted, config.depth, seed=0, first=0, workers=config.loading)
        training = DepthTraining(network, config.depth)
        return _measured(training, batches, None, 1, probe.device)

    found = probe.once(same_work(config, "training", provenance.arch), measure)
    # A test image takes about as long as one of a training step, whose backward pass is that of a layer.
    scoring = len(tested) * found.step / config.depth.batch_size
    cost = _cost(found, steps=config.depth.iterations, images=0, batch=config.depth.batch_size)
    return dataclasses.replace(cost, seconds={**cost.seconds, "scoring": scoring})


def dense_knn_cost(config: Any, probe: Probe) -> Cost:
    """Every patch through the network, and the search of each test patch in the memory."""
    config = with_data(config)
    fitted, tested = (
        _maps(config.data, name, probe) for name in (config.train_split, config.val_split)
    )
    backbone, provenance = probe.network(config)
    if config.output_stride is not None:
        backbone = dilated(copy.deepcopy(backbone), config.output_stride)
    network = FrozenBackbone(backbone, provenance, probe.device, representation=TOKENS)
    patches = patches_per_side(network, config.side) ** 2
    memory = len(fitted) * config.memory.passes * patches
    memory = min(memory, config.memory.patches or memory)
    rate = probe.once(
        same_work(config, "pass", provenance.arch),
        lambda: measure_pass(
            network,
            tested,
            len(tested),
            transform=to_square(config.side),
            threads=config.workers,
            batch=BATCH,
        ),
    )
    rows = SEARCHED, min(memory, REMEMBERED)

    def search() -> float:
        queries, bank = (made_up(n, network.width) for n in rows)
        return seconds_per_call(
            lambda: nearest(queries, bank, min(config.k, rows[1]), device=probe.device),
            probe.device,
        )

    one = probe.once(same_work(config, "search", network.width, *rows), search)
    searched = one * len(tested) * patches * memory / (rows[0] * rows[1])
    images = len(fitted) * config.memory.passes + len(tested)
    return Cost(
        {"features": images * rate.seconds, "search": searched},
        memory=rate.memory + memory * network.width * 4,
        decoding=1 / rate.decoding,
        network=1 / rate.network,
    )


TRAINED: dict[str, Callable[[Any, Probe], Cost]] = {
    "detection": detection_cost,
    "segmentation": segmentation_cost,
    "semisupervised": semisupervised_cost,
    "depth": depth_cost,
    "dense_knn": dense_knn_cost,
}


def _measured(
    training: Any,
    batches: Any,
    score: Callable[[], object] | None,
    scored: int,
    device: torch.device,
) -> Training:
    """Steps of a training, then the evaluation of a few images."""
    with PeakMemory(device) as peak:
        step = seconds_per_step(training, batches, device)
        training.model.eval()
        scoring = 0.0 if score is None else seconds_per_call(score, device, most=3) / scored
    return Training(step, scoring, peak.bytes, _checkpoint_bytes(training.model))


def _checkpoint_bytes(model: nn.Module) -> int:
    """The weights in float32, and the momentum of those that are trained."""
    state = sum(value.numel() for value in model.state_dict().values())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return 4 * (state + trained)


def _cost(found: Training, *, steps: float, images: float, batch: int) -> Cost:
    return Cost(
        {"training": steps * found.step, "scoring": images * found.scoring},
        memory=found.memory,
        disk=found.checkpoint,
        network=batch / found.step,
    )


def _evaluations(iterations: int, every: int) -> int:
    """How often a training is evaluated: always at its end."""
    return len({*(range(every, iterations, every) if every else ()), iterations})


def _pass_rate(config: Any, probe: Probe, images: LabeledImages, arch: str) -> PassRate:
    backbone, provenance = probe.network(config)
    network = FrozenBackbone(backbone, provenance, probe.device)
    transform = config.transform.over(usual_transform(provenance))
    return probe.once(
        same_work(config, "pass", arch),
        lambda: measure_pass(
            network, images, len(images), transform=transform, threads=config.workers
        ),
    )


def _maps(data: str, split: str, probe: Probe) -> LabelMaps:
    return probe.once(("maps", data, split), lambda: open_label_maps(data, split))


def _few_scenes(scenes: Scenes) -> Scenes:
    chosen = [scenes.scenes[i] for i in _spread(len(scenes.scenes), SCORED)]
    return dataclasses.replace(scenes, scenes=tuple(chosen))


def _spread(images: int, count: int) -> list[int]:
    """Indices that are spread over all images, at most ``count``."""
    return sorted({round(i) for i in np.linspace(0, images - 1, min(images, count)).tolist()})
