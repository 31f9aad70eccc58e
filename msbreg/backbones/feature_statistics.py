"""Is a backbone trained? Its features of a few photographs, compared with those of its untrained twin.

Features of random layers share one direction and have little else: every image gives nearly the same
vector. Networks whose statistics were lost in a conversion, or that mix layers of two networks, look the
same. Random networks whose BatchNorm statistics fit them do not show here;
``msbreg/backbones/trained.py`` finds those from the weights.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from msbreg.backbones.resnet import ResNet, embed, normalize
from msbreg.backbones.spec import Normalization
from msbreg.data.transforms import resize

# Features are like a random network's if they are beyond both. Of 32 photographs(), random networks (six
# of ARCHITECTURES, ten seeds, residuals zero-initialized or not) have cosines from 0.88 and ranks up
# to 6.7. Trained ones have ranks from 8.5, and from 9.9 where the cosine is beyond its bound (this suite's
# small networks after 140 steps or more, ResNet-18 and -50 after 100 steps on CIFAR-10); the same ones
# with their statistics refilled, their convolutions random or pixels in 0..255 have ranks up to 6.3.
LEAST_COSINE = 0.85
MOST_RANK = 7.5
PHOTOGRAPHS = 32


@dataclass(frozen=True)
class FeatureStatistics:
    """Pooled features (N, C) of N images in a few numbers; all but the first two are nan if not finite.

    Attributes:
        images: N.
        finite: images whose features are finite.
        mean: of all values; at least 0, as they come out of a ReLU.
        std: of all values.
        cosine: mean over the pairs of different images; in [0, 1].
        effective_rank: of the N unit vectors, which are not centered; in [1, N].
    """

    images: int
    finite: int
    mean: float
    std: float
    cosine: float
    effective_rank: float


def photographs(
    side: int,
    count: int = PHOTOGRAPHS,
) -> Tensor:  # (count, 3, side, side) uint8 RGB
    """Crops of 128 to 400 pixels from scikit-learn's two sample photographs, the same each time."""
    from sklearn.datasets import load_sample_images

    sources = load_sample_images().images  # (427, 640, 3) each
    rng = np.random.default_rng(0)
    crops = []
    for index in range(count):
        source = sources[index % len(sources)]
        extent = int(rng.integers(128, 400))
        top, left = (int(rng.integers(size - extent + 1)) for size in source.shape[:2])
        crop = resize(source[top : top + extent, left : left + extent], side, side, "bilinear")
        crops.append(crop.transpose(2, 0, 1))
    return torch.from_numpy(np.stack(crops))


def side_for(backbone: ResNet) -> int:
    """Of the images for ``feature_statistics``: half as large for the stems that shrink them less."""
    return 128 if backbone.conv1.kernel_size == (7, 7) else 64


@torch.no_grad()
def feature_statistics(
    backbone: ResNet,
    images: Tensor,  # (N, 3, H, W) uint8 RGB, N >= 2
    normalization: Normalization,
) -> FeatureStatistics:
    """Statistics of the pooled features, in eval mode, on the CPU; the backbone's mode is left as it was."""
    was_training = backbone.training
    backbone.eval()
    try:
        features = embed(backbone, normalize(images, torch.device("cpu"), normalization)).double()
    finally:
        backbone.train(was_training)
    count, finite = len(features), int(torch.isfinite(features).all(1).sum())
    if finite < count:
        return FeatureStatistics(count, finite, math.nan, math.nan, math.nan, math.nan)
    unit = F.normalize(features, dim=1)
    # The sum over all pairs is the squared length of the sum; each image's with itself is left out.
    pairs = unit.sum(0).square().sum() - unit.square().sum()
    return FeatureStatistics(
        images=count,
        finite=finite,
        mean=float(features.mean()),
        std=float(features.std()),
        cosine=float(pairs / (count * (count - 1))),
        effective_rank=effective_rank(unit),
    )


def effective_rank(
    vectors: Tensor,  # (N, C)
) -> float:
    """Exponential of the entropy of the singular values as shares of their sum; in [1, min(N, C)].

    Roy and Vetterli, "The effective rank" (EUSIPCO 2007). Nothing is subtracted: the one direction that
    a random network's features share counts. 1 where all vectors are 0.
    """
    singular = torch.linalg.svdvals(vectors)
    shares = singular / singular.sum().clamp(min=torch.finfo(vectors.dtype).tiny)
    return float(torch.special.entr(shares).sum().exp())


def signs_in_features(own: FeatureStatistics, twin: FeatureStatistics) -> tuple[str, ...]:
    """Signs in the features that a network is not trained, one sentence each; empty for a trained one.

    Args:
        own: of PHOTOGRAPHS images.
        twin: of the same images and a random network of the same architecture, to compare with.
    """
    if own.finite < own.images:
        return (
            f"features of {own.images - own.finite} of {own.images} photographs are not finite: the "
            "weights or the statistics do not belong together.",
        )
    if own.mean == 0:
        return (
            f"features of all {own.images} photographs are 0: every channel of the last stage is dead.",
        )
    if own.cosine < LEAST_COSINE or own.effective_rank > MOST_RANK:
        return ()
    return (
        f"features look like a random network's: those of {own.images} photographs have a mean cosine of "
        f"{own.cosine:.3f} (random twin {twin.cosine:.3f}; bound {LEAST_COSINE:g}) and an effective rank "
        f"of {own.effective_rank:.1f} (twin {twin.effective_rank:.1f}; bound {MOST_RANK:g}); so are those of "
        "layers that do not belong together, and of trained ones that get another input than they expect.",
    )
