"""The settings of single methods: one group for each method that has settings of its own.

A group has the name of its method. Runs of other methods do not read it and refuse it. The defaults are
those of the papers for ImageNet, with queues and prototypes of a size that suits it; cards for small data
set their own.
"""

from dataclasses import dataclass
from typing import Literal

Expectation = tuple[bool, str]
"""Whether a setting has a valid value, and what is valid in words."""


def positive(value: float) -> Expectation:
    return value > 0, "more than 0"


def at_least(least: float, value: float) -> Expectation:
    return value >= least, f"{least} or more"


def fraction(value: float) -> Expectation:
    return 0 <= value <= 1, "from 0 to 1"


class MethodSettings:
    """Base of the groups."""

    def expectations(self) -> dict[str, Expectation]:
        """The check of each setting that has one, by the name of the setting."""
        return {}


@dataclass(frozen=True)
class SimCLRSettings(MethodSettings):
    """SimCLR (Chen et al., arXiv 2002.05709)."""

    temperature: float = 0.1
    """Temperature of the softmax (0.1 for ImageNet; 0.5 for CIFAR-10, appendix B.9)."""

    def expectations(self) -> dict[str, Expectation]:
        return {"temperature": positive(self.temperature)}


@dataclass(frozen=True)
class MoCoV2Settings(MethodSettings):
    """MoCo v2 (Chen et al., arXiv 2003.04297)."""

    temperature: float = 0.2
    """Temperature of the softmax."""
    queue: int = 65536
    """Keys of earlier batches that serve as negatives; at least the batch size."""
    symmetric: bool = False
    """Use every view as a query, as in MoCo v3; otherwise only the first, against the keys of the others."""

    def expectations(self) -> dict[str, Expectation]:
        return {"temperature": positive(self.temperature), "queue": at_least(1, self.queue)}


@dataclass(frozen=True)
class MoCoV3Settings(MethodSettings):
    """MoCo v3 (Chen et al., arXiv 2104.02057)."""

    temperature: float = 1.0
    """Temperature of the softmax (1.0 for ResNet-50, 0.2 for ViTs)."""

    def expectations(self) -> dict[str, Expectation]:
        return {"temperature": positive(self.temperature)}


@dataclass(frozen=True)
class SwAVSettings(MethodSettings):
    """SwAV (Caron et al., arXiv 2006.09882)."""

    prototypes: int = 3000
    """Number of prototypes."""
    temperature: float = 0.1
    """Temperature of the softmax over prototypes."""
    epsilon: float = 0.05
    """Regularization of the Sinkhorn assignments; smaller values give sharper codes."""
    iterations: int = 3
    """Iterations of the Sinkhorn algorithm."""
    queue: int = 0
    """Embeddings of earlier batches that join the assignment, per view that has codes; 0: none (3840 with
    small batches)."""
    queue_from_epoch: float = 15.0
    """First epoch in which the queue is used."""
    freeze_epochs: float = 1.0
    """Epochs before the prototypes are trained."""

    def expectations(self) -> dict[str, Expectation]:
        return {
            "prototypes": at_least(2, self.prototypes),
            "temperature": positive(self.temperature),
            "epsilon": positive(self.epsilon),
            "iterations": at_least(1, self.iterations),
            "queue": at_least(0, self.queue),
            "queue_from_epoch": at_least(0, self.queue_from_epoch),
            "freeze_epochs": at_least(0, self.freeze_epochs),
        }


@dataclass(frozen=True)
class DeepClusterV2Settings(MethodSettings):
    """DeepCluster-v2 (Caron et al., arXiv 2006.09882, appendix)."""

    clusters: tuple[int, ...] = (3000, 3000, 3000)
    """Number of clusters of each of the clusterings."""
    temperature: float = 0.1
    """Temperature of the softmax over clusters."""
    iterations: int = 10
    """Iterations of spherical k-means before each epoch."""

    def expectations(self) -> dict[str, Expectation]:
        return {
            "clusters": (min(self.clusters, default=0) >= 2, "one or more numbers, each 2 or more"),
            "temperature": positive(self.temperature),
            "iterations": at_least(1, self.iterations),
        }


@dataclass(frozen=True)
class SimSiamSettings(MethodSettings):
    """SimSiam (Chen and He, arXiv 2011.10566)."""

    fixed_predictor_rate: bool = True
    """Keep the learning rate of the predictor at its peak instead of decaying it (appendix B)."""


@dataclass(frozen=True)
class BarlowTwinsSettings(MethodSettings):
    """Barlow Twins (Zbontar et al., arXiv 2103.03230)."""

    off_diagonal: float = 0.0051
    """Weight of the redundancy term (lambda in Eq. 1)."""
    scale: float = 1.0
    """Factor on the whole loss (0.024 in the authors' code)."""

    def expectations(self) -> dict[str, Expectation]:
        return {"off_diagonal": at_least(0, self.off_diagonal), "scale": positive(self.scale)}


@dataclass(frozen=True)
class VICRegSettings(MethodSettings):
    """VICReg (Bardes et al., arXiv 2105.04906)."""

    invariance: float = 25.0
    """Weight of the invariance term."""
    variance: float = 25.0
    """Weight of the variance term."""
    covariance: float = 1.0
    """Weight of the covariance term."""

    def expectations(self) -> dict[str, Expectation]:
        return {
            "invariance": at_least(0, self.invariance),
            "variance": at_least(0, self.variance),
            "covariance": at_least(0, self.covariance),
        }


@dataclass(frozen=True)
class WMSESettings(MethodSettings):
    """W-MSE (Ermolov et al., arXiv 2007.06346)."""

    size: int = 128
    """Images of a sub-batch that is whitened together; more than the dimensions of the head."""
    iterations: int = 1
    """Random partitions into sub-batches per step (1 in large data sets, 4 in small ones)."""
    epsilon: float = 0.0
    """Added to the covariance: (1 - epsilon) S + epsilon I."""

    def expectations(self) -> dict[str, Expectation]:
        return {
            "size": at_least(2, self.size),
            "iterations": at_least(1, self.iterations),
            "epsilon": fraction(self.epsilon),
        }


@dataclass(frozen=True)
class DBNSettings(MethodSettings):
    """Decorrelated batch normalization (Hua et al., arXiv 2105.00470)."""

    group: int = 32
    """Dimensions that are whitened together; a divisor of the dimensions of the head."""
    shuffle: bool = True
    """Shuffle the dimensions before they are grouped (Shuffled-DBN); otherwise DBN."""
    epsilon: float = 1e-3
    """Added to the diagonal of the covariance."""

    def expectations(self) -> dict[str, Expectation]:
        return {"group": at_least(1, self.group), "epsilon": at_least(0, self.epsilon)}


@dataclass(frozen=True)
class DINOSettings(MethodSettings):
    """DINO (Caron et al., arXiv 2104.14294)."""

    prototypes: int = 65536
    """Outputs of the head."""
    bottleneck: int = 256
    """Dimensions before the last layer of the head."""
    student_temperature: float = 0.1
    """Temperature of the student's softmax."""
    teacher_temperature: tuple[float, float] = (0.04, 0.07)
    """Temperature of the teacher's softmax in the first epoch and after the warm-up."""
    warmup_epochs: float = 30.0
    """Epochs in which the teacher's temperature rises linearly."""
    center_momentum: float = 0.9
    """Momentum of the center that is subtracted from the teacher's outputs."""
    freeze_epochs: float = 1.0
    """Epochs before the last layer of the head is trained."""
    clip: float = 3.0
    """Largest norm of the gradient of a tensor; 0: unlimited."""

    def expectations(self) -> dict[str, Expectation]:
        return {
            "prototypes": at_least(2, self.prototypes),
            "bottleneck": at_least(1, self.bottleneck),
            "student_temperature": positive(self.student_temperature),
            "teacher_temperature": (
                min(self.teacher_temperature) > 0,
                "two numbers of more than 0",
            ),
            "warmup_epochs": at_least(0, self.warmup_epochs),
            "center_momentum": fraction(self.center_momentum),
            "freeze_epochs": at_least(0, self.freeze_epochs),
            "clip": at_least(0, self.clip),
        }


AddedTerm = Literal["singular_value", "brownian", "uniformity"]
"""Terms that ``--add`` puts on top of a method's loss."""
