"""The settings of single methods: one group for each method that has settings of its own.

A group has the name of its method and counts only in that method's runs. The defaults are those of the
papers for ImageNet, with queues and prototypes of a size that suits it; cards for small data set their own.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class SimCLRSettings:
    """SimCLR (Chen et al., arXiv 2002.05709)."""

    temperature: float = 0.1
    """Temperature of the softmax (0.1 for ImageNet; 0.5 for CIFAR-10, appendix B.9)."""


@dataclass(frozen=True)
class MoCoV2Settings:
    """MoCo v2 (Chen et al., arXiv 2003.04297)."""

    temperature: float = 0.2
    """Temperature of the softmax."""
    queue: int = 65536
    """Keys of earlier batches that serve as negatives; at least the batch size."""
    symmetric: bool = False
    """Use every view as a query, as in MoCo v3; otherwise only the first, against the keys of the others."""


@dataclass(frozen=True)
class MoCoV3Settings:
    """MoCo v3 (Chen et al., arXiv 2104.02057)."""

    temperature: float = 1.0
    """Temperature of the softmax (1.0 for ResNet-50, 0.2 for ViTs)."""


@dataclass(frozen=True)
class SwAVSettings:
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


@dataclass(frozen=True)
class DeepClusterV2Settings:
    """DeepCluster-v2 (Caron et al., arXiv 2006.09882, appendix)."""

    clusters: tuple[int, ...] = (3000, 3000, 3000)
    """Number of clusters of each of the clusterings."""
    temperature: float = 0.1
    """Temperature of the softmax over clusters."""
    iterations: int = 10
    """Iterations of spherical k-means before each epoch."""


@dataclass(frozen=True)
class SimSiamSettings:
    """SimSiam (Chen and He, arXiv 2011.10566)."""

    fixed_predictor_rate: bool = True
    """Keep the learning rate of the predictor at its peak instead of decaying it (appendix B)."""


@dataclass(frozen=True)
class BarlowTwinsSettings:
    """Barlow Twins (Zbontar et al., arXiv 2103.03230)."""

    off_diagonal: float = 0.0051
    """Weight of the redundancy term (lambda in Eq. 1)."""
    scale: float = 1.0
    """Factor on the whole loss (0.024 in the authors' code)."""


@dataclass(frozen=True)
class VICRegSettings:
    """VICReg (Bardes et al., arXiv 2105.04906)."""

    invariance: float = 25.0
    """Weight of the invariance term."""
    variance: float = 25.0
    """Weight of the variance term."""
    covariance: float = 1.0
    """Weight of the covariance term."""


@dataclass(frozen=True)
class WMSESettings:
    """W-MSE (Ermolov et al., arXiv 2007.06346)."""

    size: int = 128
    """Images of a sub-batch that is whitened together; more than the dimensions of the head."""
    iterations: int = 1
    """Random partitions into sub-batches per step (1 in large data sets, 4 in small ones)."""
    epsilon: float = 0.0
    """Added to the covariance: (1 - epsilon) S + epsilon I."""


@dataclass(frozen=True)
class DBNSettings:
    """Decorrelated batch normalization (Hua et al., arXiv 2105.00470)."""

    group: int = 32
    """Dimensions that are whitened together; a divisor of the dimensions of the head."""
    shuffle: bool = True
    """Shuffle the dimensions before they are grouped (Shuffled-DBN); otherwise DBN."""
    epsilon: float = 1e-3
    """Added to the diagonal of the covariance."""


@dataclass(frozen=True)
class DINOSettings:
    """DINO (Caron et al., arXiv 2104.14294)."""

    prototypes: int = 65536
    """Outputs K of the head."""
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


AddedTerm = Literal["singular_value", "brownian", "uniformity"]
"""Terms that ``--add`` puts on top of a method's loss."""
