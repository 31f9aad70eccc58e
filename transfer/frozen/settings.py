"""What every frozen-feature protocol is told, and what follows from it before any mathematics."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from msbreg.backbones import BACKBONES, ResNet
from msbreg.checkpoint import Provenance, load_backbone, random_backbone
from msbreg.errors import UserError
from msbreg.job import Job, log
from msbreg.transforms import EvaluationTransform


def default_cache() -> Path:
    """``$MSBREG_CACHE/features``, or ``~/.cache/msbreg/features``."""
    return Path(os.environ.get("MSBREG_CACHE", "~/.cache/msbreg")).expanduser() / "features"


@dataclass(frozen=True)
class FrozenConfig:
    """Settings that all frozen-feature protocols share."""

    not_protocol: ClassVar[frozenset[str]] = frozenset({"arch"})  # says which network, not how

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
    build (null: resnet18-tiny, the embedded data's)."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    workers: int = 2
    """Threads that decode images, and processes that fit classifiers."""
    cache: Path = field(default_factory=default_cache)
    """Where extracted features are kept."""
    finished: Literal["error", "skip"] = "error"
    """What to do when the output folder holds this very run, finished."""
    transform: EvaluationTransform | None = None
    """null: 256 / 224 for networks trained above 64 pixels, else the training size, uncropped."""

    def __post_init__(self) -> None:
        if self.arch is not None and self.arch not in BACKBONES:
            raise UserError(f"arch is {self.arch!r}; expected one of {', '.join(BACKBONES)}")
        if self.seed < 0 or self.workers < 1:
            raise UserError(
                f"seed is {self.seed} and workers {self.workers}; expected 0 or more, and at least 1"
            )


def load_network(config: FrozenConfig, job: Job) -> tuple[ResNet, Provenance]:
    """The frozen backbone, its provenance written into the record."""
    if config.checkpoint == "random":
        arch = config.arch or "resnet18-tiny"
        backbone, provenance = random_backbone(arch, seed=config.seed)
    else:
        backbone, provenance = load_backbone(Path(config.checkpoint), arch=config.arch)
    job.record.content["network"] = provenance.as_dict() | {
        "name": network_name(config, provenance)
    }
    log.info("%s: %s of %s", config.checkpoint, provenance.encoder, provenance.arch)
    return backbone, provenance


def network_name(config: FrozenConfig, provenance: Provenance) -> str:
    """What tables call the network."""
    if config.name:
        return config.name
    method = "random" if provenance.family == "random" else provenance.details["method"]
    return f"{method} {provenance.arch}"


def resolve_transform(
    config: FrozenConfig, provenance: Provenance, job: Job, *, small: int = 32
) -> EvaluationTransform:
    """The transform of the settings, or the default for the network; the record states which.

    Args:
        small: side in pixels for a random small-image network, which has no training size.
    """
    if config.transform is not None:
        chosen = config.transform
    else:
        size = provenance.image_size
        if not size:
            size = 224 if provenance.arch in ("resnet18", "resnet34", "resnet50") else small
        chosen = EvaluationTransform() if size > 64 else EvaluationTransform(resize=size, crop=size)
    job.record.content["transform"] = {
        "resize": chosen.resize,
        "crop": chosen.crop,
        "interpolation": chosen.interpolation,
        "squash": chosen.squash,
    }
    return chosen
