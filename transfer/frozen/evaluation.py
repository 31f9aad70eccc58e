"""What every frozen-feature protocol does before any mathematics: the job, the network, the transform."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from msbreg.backbones.resnet import ResNet
from msbreg.checkpoints.load import Provenance, file_sha256, load_backbone, random_backbone
from msbreg.data.transforms import EvaluationTransform
from msbreg.run.config import Card, plain
from msbreg.run.job import AlreadyFinished, Job, job, log
from transfer.frozen.frozen_config import FrozenConfig

C = TypeVar("C", bound=FrozenConfig)


def evaluate(
    kind: str, config: C, card: Card, protocol: Callable[[C, Job], dict[str, Any]]
) -> dict[str, Any]:
    """Run a protocol as a job; nothing is done where its finished run is to be skipped."""
    try:
        with job(config, card, kind=kind, inputs=inputs(config)) as running:
            running.results = protocol(config, running)
            return running.results
    except AlreadyFinished as finished:
        log.info("%s already contains this completed run; skipping", finished)
        return {}


def inputs(config: FrozenConfig) -> dict[str, str]:
    """Digest of the checkpoint's contents, by which a finished run is known again."""
    file = Path(config.checkpoint).expanduser()
    known = config.checkpoint != "random" and file.is_file()
    return {"checkpoint": file_sha256(file) if known else config.checkpoint}


def load_network(config: FrozenConfig, running: Job) -> tuple[ResNet, Provenance]:
    """The frozen backbone, its provenance written into the record."""
    if config.checkpoint == "random":
        arch = config.arch or "resnet18-narrow"
        size = config.image_size or {"resnet18-narrow": 48}.get(arch, 32 if "-" in arch else 224)
        backbone, provenance = random_backbone(arch, seed=config.seed, image_size=size)
    else:
        backbone, provenance = load_backbone(
            Path(config.checkpoint).expanduser(),
            arch=config.arch,
            encoder=config.encoder,
            family=config.family,
            trust_pickle=config.trust_pickle,
        )
    running.record.content["network"] = provenance.as_dict() | {
        "name": network_name(config, provenance)
    }
    log.info(
        "%s: %s of %s (%s)",
        config.checkpoint,
        provenance.encoder,
        provenance.arch,
        provenance.family,
    )
    return backbone, provenance


def network_name(config: FrozenConfig, provenance: Provenance) -> str:
    """What tables call the network."""
    if config.name:
        return config.name
    name = f"{provenance.details.get('method', provenance.family)} {provenance.arch}"
    return f"{name}, {provenance.encoder}" if config.encoder else name


def resolve_transform(
    config: FrozenConfig, provenance: Provenance, running: Job
) -> EvaluationTransform:
    """The transform of the settings, or the default for the network; the record states which."""
    size = provenance.image_size
    if config.transform is not None:
        chosen = config.transform
    elif size == 0 or size > 64:  # 0: not stated; all published families train on 224 pixels
        chosen = EvaluationTransform()
    else:
        chosen = EvaluationTransform(resize=size, crop=size)
    running.record.content["transform"] = plain(chosen)
    running.record.resolve(transform=chosen)
    return chosen
