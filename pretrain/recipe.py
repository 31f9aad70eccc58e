"""The settings of a pre-training run; the defaults are the recipe for the embedded digits.

A1 ... A33 number the places where the paper leaves a choice open; each has a field here, whose default
is the reading that the evidence favors. docs/ambiguities.md has the list with the evidence.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from msbreg.backbones.architectures import ARCHITECTURES
from msbreg.run.errors import UserError
from msbreg.run.inputs import check_data, check_output


@dataclass(frozen=True)
class LossSettings:
    """What the three terms are computed on."""

    include_self: bool = True
    """Pair a view with its own target in the centroid, as Eq. 3 says; BYOL never does (A7)."""
    byol_reduce: Literal["mean", "sum"] = "mean"
    """Of the ordered pairs of views, for method byol: mean is on the scale of Eq. 3, BYOL sums (A8)."""
    singular_input: Literal["raw", "l2", "l2_sqrt_d"] = "l2_sqrt_d"
    """What the covariance is of: predictions as they are, normalized, or normalized x sqrt(D) (A1).
    raw is the paper's Eq. 5 and every card's but the digits'; see configs/digits_msbreg.yaml."""
    singular_sync: bool = True
    """Covariance over the images of all processes, or of each process alone (A2)."""
    noise_share: Literal["image", "batch"] = "image"
    """One random direction for each image and step, or one for the whole batch (A20)."""
    normalize_noise: bool = True
    """Unit-length noise as in Eq. 4, or as drawn, about sqrt(D) long (A21)."""


@dataclass(frozen=True)
class HeadSettings:
    """Projector and predictor: Linear, norm, ReLU, Linear."""

    hidden: int = 256
    """Hidden width (A16: 2048 for ResNet-50 as the paper states; BYOL's own is 4096)."""
    out: int = 32
    """Dimensions D of projections and predictions (256 for ResNet-50)."""


@dataclass(frozen=True)
class OptimizerSettings:
    """LARS, linear warm-up, cosine; learning rate = base x batch / 256 x views."""

    base_lr: float = 3.0
    """Per 256 images (MSBReg §7.1: 0.15 ImageNet, 0.4 ImageNet-100, 0.5 STL-10)."""
    scale_by_views: bool = True
    """Multiply the learning rate by the number of views, for BYOL too (A26)."""
    momentum: float = 0.9
    trust: float = 1e-3
    """LARS coefficient eta."""
    weight_decay: float = 1e-5
    """Not on biases and norms (A15: the paper's value; BYOL uses 1e-6 to 1.5e-6)."""
    warmup_epochs: float = 1.0
    """Epochs of linear warm-up (10 in the paper)."""
    warmup_start: float = 0.0
    """Learning rate of the first step (A28)."""
    final_lr: float = 0.0
    """Learning rate that the cosine ends at (A28)."""


@dataclass(frozen=True)
class TargetSettings:
    """The moving average that the target network is."""

    base_decay: float = 0.95
    """Decay at the start; rises to 1 by half a cosine (A13)."""
    scale_with_batch: bool = False
    """Read base_decay as for batch 4096 and keep (1 - decay) / batch, as BYOL's appendix G (A13)."""
    bias_correction: Literal["none", "adam"] = "none"
    """Start from a copy of the online network, or from zero with Adam's correction (A12)."""
    views: Literal["shared", "independent"] = "shared"
    """Both networks see the same K views, or K each (A9)."""


@dataclass(frozen=True)
class AugmentSettings:
    """The views of an image. ``null`` takes the value of the policy."""

    policy: Literal["table9", "byol_alternate", "byol_sym"] = "table9"
    """Table 9 of the paper on all views (A10), or BYOL's pair, or its symmetric variant (A11)."""
    size: int = 48
    """Side of a view in pixels (A27)."""
    crop_area: tuple[float, float] | None = (0.5, 1.0)
    """Smallest and largest area of a crop, as a fraction of the image's (0.08, 1)."""
    brightness: float | None = 0.8
    """Largest relative change of brightness (0.4)."""
    contrast: float | None = 0.8
    """Largest relative change of contrast (0.4)."""
    saturation: float | None = 0.8
    """Largest relative change of saturation (0.2)."""
    hue: float | None = 0.4
    """Largest turn of the hue, as a fraction of the circle (0.1)."""
    gray: float | None = 0.3
    """Probability of dropping the color (0.2)."""
    flip: float | None = 0.0
    """Probability of a horizontal flip (0.5)."""
    blur: float | None = None
    """Probability of a blur (1.0 in table9)."""
    solarize: float | None = 0.0
    """Probability of solarization (0.2 in table9)."""


@dataclass(frozen=True)
class DiagnosticsSettings:
    """What is watched while training, and when a collapse is called one."""

    every: int = 1
    """Epochs between diagnostics."""
    images: int = 512
    """Images whose embeddings are looked at."""
    bank: int = 2000
    """Largest number of training images in the kNN monitor's bank."""
    queries: int = 500
    """About how many other training images it classifies; the test split is not looked at."""
    uniformity_t: float = 2.0
    """Temperature of the uniformity (A30)."""
    least_std: float = 0.1
    """Collapse is reported below this standard deviation per dimension, times sqrt(D)."""
    least_rank: float = 2.0
    """Collapse is reported below this effective rank."""


@dataclass(frozen=True)
class Config:
    """One pre-training run."""

    script: ClassVar[str] = "pretrain/run.py"
    harmless: ClassVar[frozenset[str]] = frozenset({"diagnostics"})
    """What is watched does not change the weights."""

    method: Literal["msbreg", "byol"] = "msbreg"
    """msbreg: Eq. 2; byol: cross-view pairs only, no other term."""
    data: str = "digits"
    """digits, or a folder: DATA/train/CLASS/* (labels only watch), DATA/CLASS/*, or images alone."""
    output: Path = Path("runs/pretrain")
    """Folder for checkpoint.pth, record.json, curve.jsonl, log.txt and TensorBoard's files."""
    arch: str = "resnet18-narrow"
    """Name of the backbone."""
    epochs: int = 2
    """Passes over the images (A14: 320 on ImageNet-100 in §7.1, 300 in §10 and on the poster)."""
    batch_size: int = 64
    """Images per step, over all processes."""
    views: int = 4
    """Views K of each image."""
    lambda_s: float = 0.1
    """Weight of the singular value loss (A6; the paper: 4e-3 of raw predictions)."""
    lambda_b: float = 0.5
    """Weight of the Brownian loss (A6, A21)."""
    head_norm: Literal["bn", "ln", "none"] = "bn"
    """Norm in projector and predictor, hidden layer only (A19)."""
    seed: int = 0
    """Random seed of weights, order, views and noise."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    workers: int = 0
    """Processes that make views, for each training process; 0 makes them in the loop."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 is autocast; losses, weights and the optimizer stay float32 (A32)."""
    sync_bn: bool = True
    """BatchNorm over the images of all processes, per view (A19); CUDA only."""
    max_images: int | None = None
    """Train on a class-balanced part of this many images, drawn by the seed."""
    classes_file: Path | None = None
    """Take only the class folders that this file names, one a line (A31: ImageNet-100)."""
    skip_unreadable: bool = False
    """Look at every file first and leave out the ones that are no image; they are counted."""
    save_seconds: float = 60.0
    """Time between checkpoints."""
    finished: Literal["error", "skip"] = "error"
    """What to do when the output folder holds this very run, finished."""
    loss: LossSettings = field(default_factory=LossSettings)
    head: HeadSettings = field(default_factory=HeadSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    target: TargetSettings = field(default_factory=TargetSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    diagnostics: DiagnosticsSettings = field(default_factory=DiagnosticsSettings)

    def __post_init__(self) -> None:
        expect = {
            "arch": (self.arch in ARCHITECTURES, f"one of {', '.join(ARCHITECTURES)}"),
            "epochs": (self.epochs >= 1, "at least 1"),
            "batch_size": (self.batch_size >= 2, "at least 2: a covariance needs two images"),
            "views": (self.views >= 2, "at least 2: views are compared with each other"),
            "lambda_s": (self.lambda_s >= 0, "0 or more"),
            "lambda_b": (self.lambda_b >= 0, "0 or more"),
            "seed": (0 <= self.seed < 2**31, "from 0 to 2^31 - 1"),
            "workers": (self.workers >= 0, "0 or more"),
            "save_seconds": (self.save_seconds > 0, "more than 0"),
            "head.hidden": (self.head.hidden >= 1, "at least 1"),
            "head.out": (self.head.out >= 2, "at least 2"),
            "optimizer.base_lr": (self.optimizer.base_lr > 0, "more than 0"),
            "optimizer.momentum": (0 <= self.optimizer.momentum < 1, "in [0, 1)"),
            "optimizer.weight_decay": (self.optimizer.weight_decay >= 0, "0 or more"),
            "optimizer.warmup_epochs": (
                0 <= self.optimizer.warmup_epochs <= self.epochs,
                f"from 0 to the {self.epochs} epochs of the run",
            ),
            "target.base_decay": (0 <= self.target.base_decay < 1, "in [0, 1)"),
            "diagnostics.images": (self.diagnostics.images >= 2, "at least 2"),
            "diagnostics.bank": (self.diagnostics.bank >= 1, "at least 1"),
            "diagnostics.queries": (self.diagnostics.queries >= 1, "at least 1"),
            "augment.size": (self.augment.size >= 8, "at least 8 pixels"),
            "diagnostics.every": (self.diagnostics.every >= 1, "at least 1"),
        }
        for name, (good, expected) in expect.items():
            if not good:
                group, _, last = name.rpartition(".")
                value = getattr(getattr(self, group) if group else self, last)
                raise UserError(f"{name} is {value!r}; expected {expected}. Set it with --{name}")

    def check_inputs(self) -> None:
        """That the paths can be used.

        Raises:
            UserError: the data or the file of classes do not exist, or the output cannot be a folder.
        """
        from msbreg.data.sources import (  # OpenCV, which only this check needs
            EMBEDDED,
            split_layout,
        )

        check_data(split_layout(self.data)[1], EMBEDDED)
        check_output(self.output)
        if self.classes_file is not None and not self.classes_file.is_file():
            raise UserError(
                f"classes_file {self.classes_file} does not exist; expected one folder name a line"
            )
