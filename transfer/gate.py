"""Whether a network learned anything, within about a minute and before longer evaluations.

On a small sample of the training split, 20-NN classification with the network's features is compared with
that of untrained twins (same architecture, normalization, stride and transform). Statistics of norm layers
and features show networks that were never trained, partly loaded, or collapsed. The verdict is learned,
not learned, or unclear; test images are not used. If a first look at few images is
not conclusive, more are drawn.

Exit code 0: learned or unclear; 1: not learned.
"""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from msbreg.run.config import Card, plain
from msbreg.run.errors import EXIT_FAILED, UserError
from msbreg.run.options import main, read_options
from transfer.frozen.frozen_config import TransformConfig


class Look(NamedTuple):
    """How many images to draw, how many twins to compare with, and the confidence of the interval."""

    bank: int
    queries: int
    twins: int
    confidence: float


FIRST_LOOK = Look(200, 100, 1, 0.99)
"""A trained network is usually far better than its twins, and these images are then enough. The confidence is
higher than that of the last look, 0.95, because two looks are two chances to pass."""


@dataclass(frozen=True)
class Config(TransformConfig):
    """Settings of the gate: the network, the training data, and how many images to draw."""

    script: ClassVar[str] = "transfer/gate.py"

    output: Path = Path("runs/gate")
    """Folder for record.json and log.txt."""
    representation: str | None = None
    """Feature of the network to look at (null: its default, as in transfer/knn.py)."""
    train_split: str | None = None
    """Training split, from which all images are drawn (null: the first whose name starts with train)."""
    bank: int = 1000
    """Number of images to search, unless a first look at 200 is conclusive."""
    queries: int = 500
    """Number of images to classify, held out of the bank, unless a first look at 100 is conclusive."""
    k: int = 20
    """Number of neighbors."""
    twins: int = 2
    """Number of untrained twins, with the seeds after ``seed``. The network has to exceed the best one;
    a first look compares it with one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("bank", 2), ("queries", 1), ("k", 1), ("twins", 1)):
            if getattr(self, name) < least:
                raise UserError(
                    f"{name} is {getattr(self, name)}; expected at least {least}. Set it with --{name}"
                )

    def looks(self, images: int) -> tuple[Look, ...]:
        """The looks to take at that many images until one is conclusive."""
        first, last = FIRST_LOOK, Look(self.bank, self.queries, self.twins, 0.95)
        saves_much = (
            last.bank >= 2 * first.bank
            and last.queries >= 2 * first.queries
            and images >= 2 * (first.bank + first.queries)
        )
        return (first, last) if saves_much else (last,)


if __name__ == "__main__":  # options, cards and paths are checked before PyTorch is imported
    OPTIONS = read_options(Config)

import contextlib
from collections.abc import Sequence

import numpy as np
import torch

from msbreg.backbones.backbone_interface import Backbone
from msbreg.backbones.features import feature_batches
from msbreg.backbones.inference import FrozenBackbone
from msbreg.backbones.resnet import ResNet
from msbreg.backbones.spec import Provenance
from msbreg.backbones.trained import (
    feature_statistics,
    photographs,
    side_for,
    signs_in_features,
)
from msbreg.backbones.twin import random_backbone
from msbreg.data.images import LabeledImages
from msbreg.data.sources import data_name, open_source
from msbreg.data.transforms import EvaluationTransform
from msbreg.run import distributed
from msbreg.run.job import Job, log
from msbreg.run.progress import Progress
from msbreg.run.record import read_record
from transfer.frozen.evaluation import evaluate, image_facts, record_images
from transfer.frozen.frozen_network import chosen_representation, load_network, network_transform
from transfer.gating.gate_bank import Drawn, draw, training_split
from transfer.gating.gate_statistics import feature_health, neighbor_hits, norm_state
from transfer.gating.gate_verdict import Comparison, Evidence, cautions, decide, is_conclusive
from transfer.scoring.classification import standard_error
from transfer.scoring.paired_hits import paired_difference
from transfer.scoring.scores import DataId, Score

BATCH = 64


def run(config: Config, card: Card = Card()) -> dict[str, Any]:  # noqa: B008 - frozen
    """Run the gate and return its results: ``verdict``, ``reasons`` and numbers; accuracies in percent."""
    results = evaluate("gate", config, card, _in_main_process)
    if results:
        return results
    record = read_record(config.output.expanduser())  # a completed run, which was skipped
    assert record is not None
    return record["results"]


def _in_main_process(config: Config, job: Job) -> dict[str, Any]:
    return distributed.from_main(lambda: _run(config, job))  # too short to be divided


def _run(config: Config, job: Job) -> dict[str, Any]:
    # ---- Open the training images.
    assert config.data is not None
    layout, split = training_split(config.data, config.train_split)
    images = open_source(config.data, split, layout=layout)
    for note in images.notes:
        job.warn(f"{config.data}: {note}")
    record_images({split: image_facts(images, config.data, split, layout)}, job)
    job.record.content["selection"] = "nothing is selected; all images are from the training split"

    # ---- Compare the network with its twins, first on few images.
    backbone, provenance = load_network(config, job)
    transform = network_transform(config, job, backbone, provenance)
    representation = chosen_representation(config.representation, backbone, job)
    # Other seeds than that of --checkpoint random, which would be its own twin.
    seeds = range(config.seed + 1, config.seed + 1 + config.twins)
    twins = [random_backbone(provenance.spec, seed=seed)[0] for seed in seeds]
    networks = [
        FrozenBackbone(each, provenance, job.device, representation=representation)
        for each in (backbone, *twins)
    ]
    norms, signs = norm_state(backbone.state_dict()), _signs(backbone, twins[0], provenance)
    for look in config.looks(len(images)):
        drawn = draw(
            images.labels,
            len(images),
            bank=look.bank,
            queries=look.queries,
            generator=np.random.default_rng(config.seed),
        )
        chosen = images.subset(np.concatenate([drawn.bank, drawn.queries]))
        features = _features(networks[: 1 + look.twins], chosen, transform, config.workers)
        evidence = Evidence(
            norms,
            own=feature_health(features[0]),
            twin=feature_health(features[1]),
            signs=signs,
            comparison=_compare(config, job, chosen, drawn, features, look.confidence),
        )
        if is_conclusive(evidence):
            break
        if look is FIRST_LOOK:
            log.info("not conclusive at %d images; drawing more", len(chosen))

    # ---- Decide.
    for caution in cautions(evidence):
        job.warn(caution)
    verdict, reasons = decide(evidence)
    log.info("verdict: %s", verdict)
    for reason in reasons:
        log.info("  %s", reason)
    if isinstance(evidence.comparison, Comparison):
        data = DataId(
            data_name(config.data),
            f"{split} (held out)",
            images.subset(drawn.queries).fingerprint,
        )
        scores = _scores(evidence.comparison, data, len(drawn.bank))
        job.record.content["scores"] = [score.as_dict() for score in scores]
    return _results(evidence, drawn) | {"verdict": verdict, "reasons": list(reasons)}


class _SideBySide:
    """The features of several networks for the same pixels, so that images are decoded once."""

    compiled = False

    def __init__(self, networks: Sequence[FrozenBackbone]) -> None:
        self.networks = networks

    def __call__(
        self,
        pixels: torch.Tensor,  # (B, 3, H, W) uint8 RGB, on the CPU
    ) -> torch.Tensor:  # (B, M D) float32, on the CPU
        return torch.cat([network(pixels) for network in self.networks], dim=1)


def _features(
    networks: Sequence[FrozenBackbone],  # M networks
    images: LabeledImages,
    transform: EvaluationTransform,
    threads: int,
) -> list[np.ndarray]:  # M times (N, D) float32
    """The features of all images, of each network."""
    x = np.empty((len(images), sum(network.width for network in networks)), np.float32)
    batches = feature_batches(
        _SideBySide(networks),
        images,
        range(len(images)),
        transform=transform,
        batch_size=BATCH,
        threads=threads,
    )
    with (
        Progress("features", len(images), unit="images") as progress,
        contextlib.closing(batches) as stream,
    ):
        for first, rows in stream:
            x[first : first + len(rows)] = rows
            progress.update(first + len(rows))
    return [np.ascontiguousarray(part) for part in np.split(x, len(networks), axis=1)]


def _signs(backbone: Backbone, twin: Backbone, provenance: Provenance) -> tuple[str, ...]:
    """Signs that a ResNet is random; empty for other networks, for which there are no bounds."""
    if not isinstance(backbone, ResNet) or not isinstance(twin, ResNet):
        return ()
    shown = photographs(side_for(backbone))
    own, random = (
        feature_statistics(network, shown, provenance.normalization) for network in (backbone, twin)
    )
    return signs_in_features(own, random)


def _compare(
    config: Config,
    job: Job,
    images: LabeledImages,
    drawn: Drawn,
    features: Sequence[np.ndarray],  # (N, D) each: the network's, then the twins'
    confidence: float,
) -> Comparison | str:
    """kNN accuracies of all, or the reason why there are none."""
    if drawn.reason:
        return drawn.reason
    if not all(np.isfinite(x).all() for x in features):
        return "some features are not finite"
    labels, bank, k = np.asarray(images.labels), len(drawn.bank), min(config.k, len(drawn.bank))
    own, *twins = (
        neighbor_hits(
            x[bank:],
            labels[bank:],
            x[:bank],
            labels[:bank],
            classes=len(images.classes),
            k=k,
            device=job.device,
        )
        for x in features
    )
    return Comparison(
        f"{k}-NN top-1" if labels.ndim == 1 else f"{k}-NN label in image",
        100 * float(own.mean()),
        tuple(100 * float(hits.mean()) for hits in twins),
        paired_difference(own, max(twins, key=np.mean), confidence=confidence),
    )


def _scores(found: Comparison, data: DataId, bank: int) -> list[Score]:
    """The accuracy of the network, that of its best twin, and their difference."""
    rules = f"{bank} training images, cosine similarity s, weights exp(s / 0.07)" + (
        ""
        if found.name.endswith("top-1")
        else "; share of images that have the class with most votes"
    )
    difference, n = found.difference, found.difference.images
    values = {
        f"gate {found.name}": found.own,
        f"gate {found.name}, best untrained twin": max(found.twins),
    }
    scores = [
        Score(name, value, data, rules, n, stderr=standard_error(value, n))
        for name, value in values.items()
    ]
    name = f"gate {found.name}, difference to the best twin"
    more = Score(name, difference.value, data, rules, n, unit="points", stderr=difference.stderr)
    return [*scores, more]


def _results(evidence: Evidence, drawn: Drawn) -> dict[str, Any]:
    """The numbers behind the verdict; NaN, which JSON lacks, as None."""

    def known(fields: dict[str, Any]) -> dict[str, Any]:
        return {name: None if value != value else value for name, value in fields.items()}

    found = evidence.comparison
    return {
        "bank": len(drawn.bank),
        "queries": len(drawn.queries),
        "norm_layers": asdict(evidence.norms),
        "features": known(asdict(evidence.own)),
        "twin_features": known(asdict(evidence.twin)),
        "comparison": found if isinstance(found, str) else plain(found),
    }


def run_as_script(config: Config, card: Card) -> None:
    """Run the gate and print its verdict; exits with code 1 if the network has not learned."""
    results = run(config, card)
    distributed.say_once(f"{results['verdict']}: {results['reasons'][0]}", print)
    if results["verdict"] == "not learned":
        sys.exit(EXIT_FAILED)


if __name__ == "__main__":
    main(run_as_script, *OPTIONS)
