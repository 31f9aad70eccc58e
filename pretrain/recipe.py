"""The settings of a pre-training run. The defaults are the recipe of MSBReg for the embedded digits.

A1 to A33 number the details that the paper does not specify. Each has a field here whose default is the
best-supported reading. docs/ambiguities.md lists them with the evidence.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from msbreg.backbones.architectures import architecture
from msbreg.backbones.vit_architectures import no_resnet
from msbreg.run.config import differences, plain
from msbreg.run.errors import UserError
from msbreg.run.inputs import check_output
from pretrain.method_settings import (
    AddedTerm,
    BarlowTwinsSettings,
    DBNSettings,
    DeepClusterV2Settings,
    DINOSettings,
    MethodSettings,
    MoCoV2Settings,
    MoCoV3Settings,
    SimCLRSettings,
    SimSiamSettings,
    SwAVSettings,
    VICRegSettings,
    WMSESettings,
)
from pretrain.methods import METHODS

if TYPE_CHECKING:
    MethodName = str
else:
    MethodName = Literal[tuple(METHODS)]


@dataclass(frozen=True)
class LossSettings:
    """Inputs of the three loss terms."""

    include_self: bool = True
    """Include the view's own target in the centroid, as in Eq. 3; BYOL excludes it (A7)."""
    byol_reduce: Literal["mean", "sum"] = "mean"
    """Reduction over ordered pairs of views in method byol; mean has the scale of Eq. 3, sum is BYOL (A8)."""
    singular_input: Literal["raw", "l2", "l2_sqrt_d"] = "l2_sqrt_d"
    """Input of the covariance: raw predictions, normalized, or normalized and scaled by sqrt(D) (A1).
    raw is Eq. 5 of the paper and used by all cards except the digits; see configs/digits_msbreg.yaml."""
    singular_sync: bool = True
    """Compute the covariance over the images of all processes instead of each process alone (A2)."""
    noise_share: Literal["image", "batch"] = "image"
    """Draw one random direction per image and step, or one for the whole batch (A20)."""
    normalize_noise: bool = True
    """Normalize the noise to unit length, as in Eq. 4; its raw length is about sqrt(D) (A21)."""
    local_targets: bool = True
    """With local views, use their projections as targets as well, as in MSBReg §4.4; SwAV and DINO do not
    (A29)."""


@dataclass(frozen=True)
class HeadSettings:
    """Projector and predictor: Linear, norm, ReLU, Linear. DINO has a head of its own."""

    hidden: int = 256
    """Hidden width (A16: 2048 for ResNet-50 as the paper states; BYOL's own is 4096)."""
    out: int = 32
    """Dimensions D of projections and predictions (256 for ResNet-50)."""
    layers: int = 2
    """Linear layers of the projector; all but the last are followed by norm and ReLU."""
    output_norm: bool = False
    """Also normalize the output of the projector (and of MoCo v3's predictor) by BatchNorm without affine
    parameters (SimCLR, SimSiam, MoCo v3)."""
    predictor_hidden: int | None = None
    """Hidden width of the predictor; null means that of the projector (SimSiam: a quarter of D)."""


@dataclass(frozen=True)
class OptimizerSettings:
    """Linear warm-up and cosine decay; learning rate = base_lr * batch_size / 256 * views."""

    name: Literal["lars", "sgd", "adam", "adamw"] = "lars"
    """lars in BYOL's form; sgd with momentum and adam add the weight decay to the gradient."""
    base_lr: float = 6.0
    """Learning rate per 256 images (MSBReg §7.1: 0.15 ImageNet, 0.4 ImageNet-100, 0.5 STL-10)."""
    scale_by_views: bool = True
    """Multiply the learning rate by the number of views, also for BYOL (A26)."""
    momentum: float = 0.9
    trust: float = 1e-3
    """LARS trust coefficient eta."""
    weight_decay: float = 1e-5
    """Weight decay, except for biases and norms (A15: the paper's value; BYOL uses 1e-6 to 1.5e-6)."""
    decay_norms: bool = False
    """Also apply weight decay to biases and norm parameters (MoCo, SimSiam)."""
    bias_rate: float = 1.0
    """Factor on the learning rate of biases and norm parameters (0.024 in Barlow Twins)."""
    warmup_epochs: float = 0.5
    """Epochs of linear warm-up (10 in the paper)."""
    warmup_start: float = 0.0
    """Learning rate at the first step (A28)."""
    final_lr: float = 0.0
    """Learning rate at the end of the cosine decay (A28)."""


@dataclass(frozen=True)
class TargetSettings:
    """Settings of the EMA target network."""

    base_decay: float = 0.95
    """Initial decay; rises to 1 along a half cosine (A13)."""
    scale_with_batch: bool = False
    """Treat base_decay as the value for batch 4096 and keep (1 - decay) / batch constant, as in BYOL's
    appendix G (A13)."""
    bias_correction: Literal["none", "adam"] = "none"
    """Start from a copy of the online network, or from zero with Adam's bias correction (A12)."""
    views: Literal["shared", "independent"] = "shared"
    """Use the same K views for both networks, or K views for each (A9)."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Raise the decay to 1 along a half cosine, or keep it (MoCo v2)."""


@dataclass(frozen=True)
class AugmentSettings:
    """Augmentations. ``null`` keeps the value of the policy, given in parentheses."""

    policy: Literal["table9", "byol_alternate", "byol_sym"] = "table9"
    """Table 9 of the paper for all views (A10), BYOL's pair, or BYOL's symmetric variant (A11)."""
    size: int = 48
    """Side of a view, in pixels (A27)."""
    crop_area: tuple[float, float] | None = (0.5, 1.0)
    """Minimum and maximum area of a crop as a fraction of the image area (0.08, 1)."""
    brightness: float | None = 0.8
    """Maximum relative change of brightness (0.4)."""
    contrast: float | None = 0.8
    """Maximum relative change of contrast (0.4)."""
    saturation: float | None = 0.8
    """Maximum relative change of saturation (0.2)."""
    hue: float | None = 0.4
    """Maximum rotation of the hue, as a fraction of a turn (0.1)."""
    gray: float | None = 0.3
    """Probability of conversion to gray (0.2)."""
    flip: float | None = 0.0
    """Probability of a horizontal flip (0.5)."""
    blur: float | None = 0.0
    """Probability of Gaussian blur (1.0 in table9)."""
    solarize: float | None = 0.0
    """Probability of solarization (0.2 in table9)."""
    finish: Literal["worker", "device"] = "worker"
    """Where views are made from crops: in the data-loading workers, or in batches on the device, which
    relieves the CPU. Views differ by at most a few of 255 levels (0.03 on average)."""
    local_views: int = 0
    """Number of additional small views of small crops: multi-crop (SwAV: 6)."""
    local_size: int = 96
    """Side of a local view, in pixels."""
    local_area: tuple[float, float] = (0.05, 0.14)
    """Minimum and maximum area of the crop of a local view; crop_area is that of the others."""


@dataclass(frozen=True)
class DiagnosticsSettings:
    """Metrics to monitor during training, and thresholds for reporting a collapse."""

    every: int = 1
    """Epochs between diagnostics."""
    images: int = 512
    """Number of images whose embeddings are analyzed."""
    bank: int = 2000
    """Maximum number of training images in the bank of the kNN monitor."""
    queries: int = 500
    """Approximate number of held-out training images to classify; the test split is not used."""
    uniformity_t: float = 2.0
    """Temperature of the uniformity metric (A30)."""
    least_std: float = 0.1
    """Report a collapse if the standard deviation per dimension, times sqrt(D), is below this value."""
    least_rank: float = 2.0
    """Report a collapse if the effective rank is below this value."""
    on_collapse: Literal["warn", "stop"] = "warn"
    """At a collapse, record a warning, or also stop the run."""


MULTI_CROP = ("msbreg", "byol", "swav", "deepcluster_v2", "dino")
"""Methods that take additional local views."""


@dataclass(frozen=True)
class Config:
    """One pre-training run."""

    script: ClassVar[str] = "pretrain/run.py"
    added: ClassVar[dict[str, Any]] = {
        "train_split": "train",
        "add": (),
        "lambda_u": 0.5,
        "loss.local_targets": True,
        "head.layers": 2,
        "head.output_norm": False,
        "head.predictor_hidden": None,
        "optimizer.name": "lars",
        "optimizer.decay_norms": False,
        "optimizer.bias_rate": 1.0,
        "target.schedule": "cosine",
        "augment.finish": "worker",
        "augment.local_views": 0,
        "augment.local_size": 96,
        "augment.local_area": (0.05, 0.14),
    }
    """Settings of later versions, with the values that keep the digests of earlier runs."""

    method: MethodName = "msbreg"
    """msbreg: Eq. 2; byol: only the loss over pairs of different views; the others: see
    docs/pretraining.md."""
    add: tuple[AddedTerm, ...] = ()
    """Terms to add to the loss of another method, weighted by lambda_s, lambda_b and lambda_u."""
    data: str = "digits"
    """digits, a folder (DATA/train/CLASS/*, DATA/CLASS/*, or images only), or LAYOUT:FOLDER. Labels are
    only used for monitoring."""
    train_split: str = "train"
    """Split of the data to train on, such as train+unlabeled of stl10:FOLDER."""
    output: Path = Path("runs/pretrain")
    """Folder for checkpoint.pth, record.json, curve.jsonl, log.txt and the TensorBoard files."""
    arch: str = "resnet18-narrow"
    """Name of the backbone."""
    epochs: int = 3
    """Passes over the images (A14: 320 on ImageNet-100 in §7.1, 300 in §10 and on the poster)."""
    batch_size: int = 32
    """Images per step, over all processes."""
    views: int = 4
    """Number K of views per image."""
    lambda_s: float = 0.1
    """Weight of the singular value loss (A6; in the paper, 4e-3 with raw predictions)."""
    lambda_b: float = 0.5
    """Weight of the Brownian loss (A6, A21)."""
    lambda_u: float = 0.5
    """Weight of the uniformity loss, for --add uniformity (Table 12; the paper states no value)."""
    head_norm: Literal["bn", "ln", "none"] = "bn"
    """Norm after the hidden layer of projector and predictor (A19)."""
    seed: int = 0
    """Random seed for weights, image order, views and noise."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    workers: int = 0
    """Data-loading workers per training process; 0 loads images in the training process."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 uses autocast; losses, weights and the optimizer remain in float32 (A32)."""
    sync_bn: bool = True
    """Synchronize BatchNorm: statistics per view, over the images of all processes (A19)."""
    max_images: int | None = None
    """Train on a random, class-balanced subset of this size."""
    classes_file: Path | None = None
    """Use only the class folders listed in this file, one per line (A31: ImageNet-100)."""
    skip_unreadable: bool = False
    """Check all files first, then skip and count those that are not readable images."""
    save_seconds: float = 60.0
    """Seconds between checkpoints."""
    keep_every: int = 0
    """Epochs between copies of the backbone alone in OUTPUT/epochs/, which are kept and which
    transfer/suite.py --watch evaluates; also after the last epoch (0: none)."""
    finished: Literal["error", "skip"] = "error"
    """What to do if the output folder already contains this completed run."""
    loss: LossSettings = field(default_factory=LossSettings)
    head: HeadSettings = field(default_factory=HeadSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    target: TargetSettings = field(default_factory=TargetSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    diagnostics: DiagnosticsSettings = field(default_factory=DiagnosticsSettings)
    simclr: SimCLRSettings = field(default_factory=SimCLRSettings)
    moco_v2: MoCoV2Settings = field(default_factory=MoCoV2Settings)
    moco_v3: MoCoV3Settings = field(default_factory=MoCoV3Settings)
    swav: SwAVSettings = field(default_factory=SwAVSettings)
    deepcluster_v2: DeepClusterV2Settings = field(default_factory=DeepClusterV2Settings)
    simsiam: SimSiamSettings = field(default_factory=SimSiamSettings)
    barlow_twins: BarlowTwinsSettings = field(default_factory=BarlowTwinsSettings)
    vicreg: VICRegSettings = field(default_factory=VICRegSettings)
    wmse: WMSESettings = field(default_factory=WMSESettings)
    dbn: DBNSettings = field(default_factory=DBNSettings)
    dino: DINOSettings = field(default_factory=DINOSettings)

    @property
    def harmless(self) -> frozenset[str]:
        """Settings that do not affect the weights: the diagnostics, the copies that are kept, and the groups
        of other methods."""
        return frozenset({"diagnostics", "keep_every", *METHODS} - {self.method})

    def __post_init__(self) -> None:
        if reason := no_resnet(self.arch):
            raise UserError(f"arch: {reason}")
        try:
            architecture(self.arch)
        except UserError as error:
            raise UserError(f"arch: {error}") from error
        expect = {
            "epochs": (self.epochs >= 1, "at least 1"),
            "batch_size": (
                self.batch_size >= 2,
                "at least 2, because the covariance needs two images",
            ),
            "views": (self.views >= 2, "at least 2, because views are compared with each other"),
            "lambda_s": (self.lambda_s >= 0, "0 or more"),
            "lambda_b": (self.lambda_b >= 0, "0 or more"),
            "lambda_u": (self.lambda_u >= 0, "0 or more"),
            "add": (
                self.method != "msbreg" or not {"singular_value", "brownian"} & set(self.add),
                "only uniformity for msbreg, whose loss contains the others",
            ),
            "seed": (0 <= self.seed < 2**31, "from 0 to 2^31 - 1"),
            "workers": (self.workers >= 0, "0 or more"),
            "save_seconds": (self.save_seconds > 0, "more than 0"),
            "keep_every": (self.keep_every >= 0, "0 or more"),
            "head.hidden": (self.head.hidden >= 1, "at least 1"),
            "head.out": (self.head.out >= 2, "at least 2"),
            "head.layers": (self.head.layers >= 1, "at least 1"),
            "head.predictor_hidden": (
                self.head.predictor_hidden is None or self.head.predictor_hidden >= 1,
                "null or at least 1",
            ),
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
            "augment.local_size": (self.augment.local_size >= 8, "at least 8 pixels"),
            "augment.local_views": (
                self.augment.local_views >= 0
                and (not self.augment.local_views or self.method in MULTI_CROP),
                f"0, or a method that takes local views: {', '.join(MULTI_CROP)}",
            ),
            "optimizer.bias_rate": (self.optimizer.bias_rate >= 0, "0 or more"),
            "diagnostics.every": (self.diagnostics.every >= 1, "at least 1"),
            "target.views": (
                self.target.views == "shared" or not self.augment.local_views,
                "shared with --augment.local_views, because local views have no independent targets",
            ),
        }
        for method, settings in self._method_settings().items():
            expect |= {f"{method}.{key}": check for key, check in settings.expectations().items()}
        for name, (good, expected) in expect.items():
            if not good:
                group, _, last = name.rpartition(".")
                value = getattr(getattr(self, group) if group else self, last)
                raise UserError(f"{name} is {value!r}; expected {expected}. Set it with --{name}")
        self._refuse_settings_of_other_methods()

    def _method_settings(self) -> dict[str, MethodSettings]:
        """The groups of single methods, by the name of the method."""
        return {name: getattr(self, name) for name in METHODS if hasattr(self, name)}

    def _refuse_settings_of_other_methods(self) -> None:
        for name, group in self._method_settings().items():
            set_here = differences(plain(group), plain(type(group)()))
            if name != self.method and set_here:
                key, value = next(iter(set_here.items()))
                raise UserError(
                    f"{name}.{key} is {value!r}, but --method is {self.method}, which does not read it. "
                    f"Use --method {name}, or omit --{name}.{key}"
                )

    def check_inputs(self) -> None:
        """Check the paths.

        Raises:
            UserError: the data or the classes file does not exist, or the output path is a file.
        """
        # Here, because this imports OpenCV, which only this check needs.
        from msbreg.data.sources import check_source

        check_source(self.data)
        check_output(self.output)
        if self.classes_file is not None and not self.classes_file.is_file():
            raise UserError(
                f"classes_file {self.classes_file} does not exist; expected a file with one folder name "
                "per line"
            )
