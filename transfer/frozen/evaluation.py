"""What every frozen-feature protocol is told, and what follows from it before any mathematics."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from msbreg.backbones.resnet import BACKBONES, ResNet
from msbreg.checkpoints.load import Provenance, file_sha256, load_backbone, random_backbone
from msbreg.data.transforms import EvaluationTransform
from msbreg.run.config import Card, plain
from msbreg.run.errors import UserError
from msbreg.run.job import AlreadyFinished, Job, job, log


def default_cache() -> Path:
    """``$MSBREG_CACHE/features``, or ``~/.cache/msbreg/features``."""
    return Path(os.environ.get("MSBREG_CACHE") or "~/.cache/msbreg").expanduser() / "features"


@dataclass(frozen=True)
class FrozenConfig:
    """Settings that all frozen-feature protocols share."""

    not_protocol: ClassVar[frozenset[str]] = frozenset(
        {"arch", "image_size", "encoder", "family", "trust_pickle"}
    )  # which network, not how

    checkpoint: str = "runs/pretrain/checkpoint.pth"
    """A checkpoint, or ``random`` for the untrained twin."""
    data: str = "digits"
    """digits, or the root of the data set's folders."""
    output: Path = Path("runs/transfer")
    """Folder for record.json, log.txt and the protocol's own files."""
    seed: int = 0
    """Of everything random, the weights of ``--checkpoint random`` among it."""
    name: str = ""
    """What tables call this network; empty takes the method and architecture."""
    arch: str | None = None
    """Expected architecture (an error if the checkpoint has another); for ``random``, the one to
    build (null: resnet18-narrow, the demo's)."""
    encoder: str | None = None
    """Which network of a checkpoint that holds several (null: the one that its family evaluates)."""
    family: str | None = None
    """Layout of the checkpoint, where it fits more than one (tools/inspect_checkpoint.py --list)."""
    trust_pickle: bool = False
    """Read a checkpoint that holds more than tensors; none of its code is run in any case."""
    image_size: int | None = None
    """For ``random``: the training size of the network that it is the twin of (null: 48 for
    resnet18-narrow, 32 for small-image networks, 224 for others)."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    workers: int = 2
    """Threads that decode images, and processes that fit classifiers."""
    cache: Path = field(default_factory=default_cache)
    """Where extracted features are kept."""
    finished: Literal["error", "skip"] = "error"
    """What to do when the output folder holds this very run, finished."""
    transform: EvaluationTransform | None = None
    """null: 256 / 224 for networks trained above 64 pixels, else the training size, center square."""

    def __post_init__(self) -> None:
        if self.arch is not None and self.arch not in BACKBONES:
            raise UserError(f"arch is {self.arch!r}; expected one of {', '.join(BACKBONES)}")
        if not 0 <= self.seed < 2**31 or self.workers < 1:
            raise UserError(
                f"seed is {self.seed} and workers {self.workers}; expected 0 to 2^31 - 1, and at least 1"
            )


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
        log.info("%s holds this run, finished: left as it is.", finished)
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
    return chosen
