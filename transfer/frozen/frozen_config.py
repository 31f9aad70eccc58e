"""The settings that every frozen-feature protocol shares. Imports no PyTorch: see msbreg/run/options.py."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from msbreg.backbones.architectures import ARCHITECTURES
from msbreg.data.transforms import EvaluationTransform
from msbreg.run.errors import UserError
from msbreg.run.inputs import check_checkpoint, check_data, check_output


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
    """Random seed; with ``--checkpoint random`` also that of the weights."""
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
        if self.arch is not None and self.arch not in ARCHITECTURES:
            raise UserError(f"arch is {self.arch!r}; expected one of {', '.join(ARCHITECTURES)}")
        if not 0 <= self.seed < 2**31 or self.workers < 1:
            raise UserError(
                f"seed is {self.seed} and workers {self.workers}; expected 0 to 2^31 - 1, and at least 1"
            )

    def check_inputs(self) -> None:
        """That the paths can be used.

        Raises:
            UserError: the checkpoint or the data do not exist, or the output cannot be a folder.
        """
        from msbreg.data.sources import EMBEDDED  # OpenCV, which only this check needs

        check_checkpoint(self.checkpoint)
        check_data(self.data, EMBEDDED)
        check_output(self.output)
