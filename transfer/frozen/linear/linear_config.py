"""Settings of transfer/linear.py. Imports no PyTorch: see msbreg/run/options.py."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from msbreg.data.transforms import AugmentationOptions
from msbreg.run.errors import UserError
from transfer.frozen.frozen_config import LabeledConfig, check_drops


@dataclass(frozen=True)
class Config(LabeledConfig):
    """Settings of a linear evaluation: fitted on DATA/train, scored on DATA/val."""

    script: ClassVar[str] = "transfer/linear.py"

    output: Path = Path("runs/linear")
    """Folder for record.json, log.txt, the heads, and probe.pth, the chosen head."""
    route: Literal["cached", "streamed"] = "cached"
    """cached: features are extracted once. streamed: augmented images pass through the network in every
    epoch."""
    head: Literal["linear", "attentive"] = "linear"
    """linear, or attentive (streamed): queries attend to the places of an image before the layer."""
    queries: int = 4
    """attentive: number of queries."""
    learning_rates: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.4)
    """Learning rates to choose from, per ``rate_per`` images; the default is BYOL's list."""
    rate_per: int = 256
    """A learning rate is multiplied by batch_size / rate_per; 0 uses it as it is."""
    weight_decays: tuple[float, ...] = (0.0,)
    """Weight decays to choose from, of the layer's weight and bias."""
    norms: tuple[Literal["none", "no_affine", "affine"], ...] = ("none",)
    """Normalizations to choose from: no BatchNorm before the layer, one without or one with scale and
    shift."""
    optimizer: Literal["sgd", "adam", "lars"] = "sgd"
    """sgd, adam (PyTorch's defaults) or lars (BYOL's form)."""
    momentum: float = 0.9
    nesterov: bool = True
    schedule: Literal["cosine", "steps", "exponential"] = "cosine"
    """cosine to 0, steps (x 0.1 at each of ``drops``), or exponential to a ten-thousandth."""
    drops: tuple[float, ...] = ()
    """Epochs after which ``steps`` lowers the learning rate."""
    epochs: int = 80
    """Passes over the training images."""
    batch_size: int = 256
    """Images per step of all processes (BYOL: 1024)."""
    held_out: float = 0.1
    """Fraction of the training images held out to choose a head (BYOL: 10,009 of 1.28 million)."""
    standardize: bool = False
    """cached: standardize the features with the training images' mean and standard deviation, for features
    of unknown scale."""
    augmentation: AugmentationOptions = field(default_factory=AugmentationOptions)
    """streamed: random crop and flip of the training images."""
    loading: int = 2
    """streamed: processes that decode and crop images."""

    harmless: ClassVar[frozenset[str]] = frozenset({"loading"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.learning_rates or min(self.learning_rates) <= 0:
            raise UserError(
                f"learning_rates is {list(self.learning_rates)}; expected numbers above 0"
            )
        if not self.weight_decays or min(self.weight_decays) < 0 or not self.norms:
            raise UserError(
                f"weight_decays is {list(self.weight_decays)} and norms {list(self.norms)}; expected at "
                "least one of each, and numbers of 0 or more"
            )
        if self.epochs < 1 or self.batch_size < 1 or not 0 < self.held_out < 1:
            raise UserError(
                f"epochs {self.epochs}, batch_size {self.batch_size}, held_out {self.held_out}; "
                "expected at least 1, at least 1, and a fraction between 0 and 1"
            )
        if self.rate_per < 0 or self.loading < 0:
            raise UserError(
                f"rate_per is {self.rate_per} and loading {self.loading}; expected 0 or more"
            )
        check_drops(self.schedule, self.drops, self.epochs)
        if self.head == "attentive" and (self.route != "streamed" or self.queries < 1):
            raise UserError(
                f"head is attentive, route {self.route} and queries {self.queries}; expected --route "
                "streamed, because the places of all images take too much space, and at least one query"
            )
        if self.head == "attentive" and (len(self.norms) > 1 or "affine" in self.norms):
            raise UserError(
                f"head is attentive and norms {list(self.norms)}; expected one of none and no_affine"
            )
        if self.features_out is not None and self.route == "streamed":
            raise UserError(
                f"features_out is {self.features_out}, but the route streamed has other features in every "
                "epoch; expected --route cached, or transfer/knn.py --features-out"
            )
        if self.standardize and self.route == "streamed":
            raise UserError(
                "standardize needs the features of all images, which the route streamed does not have; "
                "expected --norms '[no_affine]' instead"
            )
