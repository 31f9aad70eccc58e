"""Settings of transfer/semisupervised.py. Imports no PyTorch: see msbreg/run/options.py."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from msbreg.data.transforms import AugmentationOptions
from msbreg.run.errors import UserError
from transfer.frozen.frozen_config import SplitConfig, TransformConfig, check_drops


@dataclass(frozen=True)
class Config(SplitConfig, TransformConfig):
    """Settings of a fine-tuned classifier: trained on DATA/train, scored on DATA/val."""

    script: ClassVar[str] = "transfer/semisupervised.py"
    harmless: ClassVar[frozenset[str]] = frozenset({"loading"})

    output: Path = Path("runs/semisupervised")
    """Folder for record.json, log.txt, curve.jsonl and the checkpoint."""
    labels: float = 1.0
    """Fraction of the training images to use, balanced over the classes and drawn with ``seed``. For
    ImageNet, use the published lists instead: ``--train-split train-1pct``."""
    representation: str | None = None
    """Feature of the network below the layer (null: its default; for ResNets ``gap``)."""
    freeze: Literal["nothing", "statistics", "encoder"] = "nothing"
    """statistics: BatchNorm keeps the statistics of the checkpoint. encoder: so does everything but the
    layer."""
    sync_bn: bool = False
    """Several processes: compute BatchNorm statistics over all of them."""
    norm_epochs: float = 0.0
    """The weight of a batch in BatchNorm's running statistics is 0.1, but at most this number divided by the
    steps per epoch (SimCLR: 10); 0 is no such limit."""
    learning_rates: tuple[float, ...] = (0.25,)
    """Learning rates of the layer to choose from."""
    encoder_rates: tuple[float, ...] = ()
    """Learning rates of the encoder, one for each of the layer's (empty: the same)."""
    weight_decays: tuple[float, ...] = (0.0,)
    """Weight decays to choose from."""
    decay_over_rate: bool = False
    """Divide each weight decay by the layer's learning rate (SimCLR)."""
    epoch_counts: tuple[int, ...] = (30,)
    """Numbers of passes over the training images to choose from."""
    steps: int = 0
    """Train for about this number of steps, rounded to epochs, instead of ``epoch_counts`` (0: do not)."""
    batch_size: int = 256
    """Images per step of all processes."""
    optimizer: Literal["sgd", "lars"] = "sgd"
    """sgd, or lars (BYOL's form)."""
    momentum: float = 0.9
    nesterov: bool = True
    """sgd: Nesterov momentum."""
    schedule: Literal["cosine", "steps", "constant"] = "cosine"
    """cosine to 0, steps (x ``drop_factor`` at each of ``drops``), or constant."""
    drops: tuple[float, ...] = ()
    """Epochs after which ``steps`` lowers the learning rate."""
    drop_factor: float = 0.1
    every_step: bool = True
    """Whether the learning rate changes at every step, or once per epoch."""
    held_out: float = 0.1
    """Fraction of the training images held out to choose between several candidates."""
    metric: Literal["top1", "mean_per_class"] = "top1"
    """The accuracy to choose by: of images, or the mean over classes (Aircraft, Caltech-101, Flowers,
    Pets)."""
    precision: Literal["float32", "bf16"] = "float32"
    """bf16: compute in bfloat16 where PyTorch's autocast does."""
    augmentation: AugmentationOptions = field(default_factory=AugmentationOptions)
    """Random crop and flip of the training images."""
    loading: int = 2
    """Processes that decode and crop training images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.learning_rates or min(self.learning_rates + self.encoder_rates) <= 0:
            raise UserError(
                f"learning_rates is {list(self.learning_rates)} and encoder_rates "
                f"{list(self.encoder_rates)}; expected numbers above 0"
            )
        if self.encoder_rates and len(self.encoder_rates) != len(self.learning_rates):
            raise UserError(
                f"there are {len(self.encoder_rates)} encoder_rates and {len(self.learning_rates)} "
                "learning_rates; expected as many, because they are used in pairs"
            )
        if self.encoder_rates and self.freeze == "encoder":
            raise UserError(
                f"encoder_rates is {list(self.encoder_rates)}, but the encoder is frozen; expected none"
            )
        if not self.weight_decays or min(self.weight_decays) < 0:
            raise UserError(
                f"weight_decays is {list(self.weight_decays)}; expected numbers of 0 or more"
            )
        if not self.epoch_counts or min(self.epoch_counts) < 1 or self.steps < 0:
            raise UserError(
                f"epoch_counts is {list(self.epoch_counts)} and steps {self.steps}; expected at least 1 for "
                "each, and 0 or more"
            )
        if not (0 < self.labels <= 1 and 0 < self.held_out < 1):
            raise UserError(
                f"labels is {self.labels} and held_out {self.held_out}; expected fractions above 0, up to 1 "
                "and below 1"
            )
        if self.batch_size < 2 or self.loading < 0 or self.norm_epochs < 0:
            raise UserError(
                f"batch_size is {self.batch_size}, loading {self.loading} and norm_epochs "
                f"{self.norm_epochs}; expected at least 2, 0 and 0"
            )
        check_drops(self.schedule, self.drops, min(self.epoch_counts))
