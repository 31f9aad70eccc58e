"""Settings that the protocols on classified images share. Imports no PyTorch: see msbreg/run/options.py."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from msbreg.backbones.vit_architectures import check_backbone_name
from msbreg.data.transforms import TransformOptions
from msbreg.run.errors import UserError
from msbreg.run.inputs import check_checkpoint, check_output


def default_cache() -> Path:
    """``$MSBREG_CACHE/features``, or ``~/.cache/msbreg/features``."""
    return Path(os.environ.get("MSBREG_CACHE") or "~/.cache/msbreg").expanduser() / "features"


@dataclass(frozen=True)
class NetworkConfig:
    """Settings of every protocol on a network of any architecture: the network, the data, the machine."""

    not_protocol: ClassVar[frozenset[str]] = frozenset(
        {"arch", "image_size", "encoder", "family", "trust_pickle", "twin_of"}
    )  # which network, not how it is evaluated
    fewest_workers: ClassVar[int] = 1

    checkpoint: str = "runs/pretrain/checkpoint.pth"
    """Checkpoint to evaluate, or ``random`` for an untrained network."""
    data: str | None = None
    """digits, the root folder of a data set, or LAYOUT:FOLDER (null: the embedded digits)."""
    output: Path = Path("runs/transfer")
    """Folder for record.json, log.txt and the protocol's own files."""
    seed: int = 0
    """Random seed; also initializes the weights of ``--checkpoint random``."""
    name: str = ""
    """Name of the network in tables (empty: its method and architecture)."""
    arch: str | None = None
    """Expected architecture (an error if the checkpoint has another); for ``random``, the one to
    build (null: resnet18-narrow, the demo's). timm/NAME is any model of timm."""
    encoder: str | None = None
    """Which network of a checkpoint that has several (null: the one that its family evaluates)."""
    family: str | None = None
    """Layout of the checkpoint, if it matches several (tools/inspect_checkpoint.py --list)."""
    trust_pickle: bool = False
    """Read a checkpoint that contains more than tensors; its code is never run."""
    twin_of: Path | None = None
    """For ``random``: the checkpoint to compare with. The untrained twin has the same architecture,
    normalization, channel order, stride and image size."""
    image_size: int | None = None
    """For ``random`` without ``twin_of``: the training size to assume (null: 48 for resnet18-narrow, 32
    for small-image networks, 518 for DINOv2's, 224 for others)."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    workers: int = 2
    """Threads that decode images, and processes that fit classifiers."""
    finished: Literal["error", "skip"] = "error"
    """What to do if the output folder already contains this completed run."""

    def __post_init__(self) -> None:
        if self.arch is not None:
            try:
                check_backbone_name(self.arch)
            except UserError as error:
                raise UserError(f"arch: {error}") from error
        if not 0 <= self.seed < 2**31 or self.workers < self.fewest_workers:
            raise UserError(
                f"seed is {self.seed} and workers {self.workers}; expected 0 to 2^31 - 1, and at least "
                f"{self.fewest_workers}"
            )
        if self.twin_of is not None and self.checkpoint != "random":
            raise UserError(
                f"twin_of is {self.twin_of}, but the checkpoint is {self.checkpoint}; "
                "expected --checkpoint random with --twin-of"
            )

    def check_inputs(self) -> None:
        """Check that the paths can be used.

        Raises:
            UserError: the checkpoint or the data do not exist, or the output cannot be a folder.
        """
        check_checkpoint(self.checkpoint)
        if self.twin_of is not None:
            check_checkpoint(str(self.twin_of))
        if self.data is not None:
            self.check_data(self.data)
        check_output(self.output)

    def check_data(self, data: str) -> None:
        """Check that the data set is a known name or a folder.

        Raises:
            UserError: it is neither, or its layout is unknown.
        """
        from msbreg.data.sources import check_source  # imports OpenCV

        check_source(data)


@dataclass(frozen=True)
class TransformConfig(NetworkConfig):
    """Settings of the protocols that compute one feature of an image."""

    transform: TransformOptions = field(default_factory=TransformOptions)
    """Evaluation transform (where null: resize to 256 and center-crop 224 for networks trained above 64
    pixels, otherwise a center square at the training size; bilinear for ResNets, usually bicubic for
    others)."""


@dataclass(frozen=True)
class FrozenConfig(TransformConfig):
    """Settings of the protocols on frozen features."""

    not_protocol: ClassVar[frozenset[str]] = NetworkConfig.not_protocol | {
        "features_out",
        "compile",
    }

    added: ClassVar[dict[str, Any]] = {"representation": "gap", "precision": "float32"}
    """Settings of later versions, with the values that keep the digests of earlier runs."""

    cache: Path = field(default_factory=default_cache)
    """Folder of the feature cache."""
    representation: str | None = None
    """Feature of the network to evaluate (null: its default; for ResNets ``gap``, the global average
    pool; for vision transformers ``cls``, the class token; also cls+mean, mean, cls-4, ...)."""
    precision: Literal["float32", "bf16"] = "float32"
    """bf16: compute and store the features in bfloat16: faster on GPUs, half the space, other numbers."""
    compile: Literal["auto", "no", "yes"] = "auto"
    """Compile the network, which takes a minute or two (auto: for 50,000 images or more)."""
    features_out: Path | None = None
    """Also write the features to this file: FILE.npz with the labels, paths and classes of both splits,
    or FILE.npy, one file per split."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.features_out is not None and self.features_out.suffix not in (".npz", ".npy"):
            raise UserError(f"features_out is {self.features_out}; expected FILE.npz or FILE.npy")


@dataclass(frozen=True)
class SplitConfig(NetworkConfig):
    """Settings of the protocols that fit on one split and score another."""

    train_split: str = "train"
    """Folder of the training images."""
    val_split: str = "val"
    """Folder of the images to score."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train_split == self.val_split:
            raise UserError(
                f"train_split and val_split are both {self.train_split!r}; expected two splits"
            )


@dataclass(frozen=True)
class LabeledConfig(SplitConfig, FrozenConfig):
    """Settings of the protocols on the frozen features of two splits."""


def check_drops(schedule: str, drops: tuple[float, ...], epochs: int) -> None:
    """Check the epochs at which the schedule ``steps`` lowers the learning rate.

    Raises:
        UserError: there are none, one is outside of the training, or the schedule is another.
    """
    if schedule == "steps" and (not drops or any(not 0 < drop < epochs for drop in drops)):
        raise UserError(
            f"schedule is steps and drops {list(drops)}; expected epochs between 0 and {epochs}, the epochs "
            f"of the run. Set them, such as with --drops {epochs / 3:.4g} {epochs * 2 / 3:.4g}, or use "
            "--schedule cosine --drops '[]'"
        )
    if schedule != "steps" and drops:
        raise UserError(
            f"drops is {list(drops)}, but the schedule is {schedule}; expected --schedule steps, or no "
            "drops: --drops '[]'"
        )
