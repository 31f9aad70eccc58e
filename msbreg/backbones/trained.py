"""Is a backbone trained? What its BatchNorm layers tell.

A wrong prefix, a momentum encoder that was never updated or statistics lost in a conversion all load
without an error, and then give a number that looks like a weak method's. PyTorch initializes BatchNorm to
exact values that no training leaves unchanged, so most of these cases show in the weights; for the others
see ``msbreg/backbones/trained.py``.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from msbreg.backbones.resnet import ResNet, embed, normalize
from msbreg.backbones.spec import Normalization
from msbreg.data.transforms import resize
from msbreg.run.errors import UserError


@dataclass(frozen=True)
class NormLayer:
    """Which parts of a BatchNorm layer are still exactly as PyTorch initializes them.

    Attributes:
        name: of the layer, such as ``layer1.0.bn3``.
        affine: weight is 1 throughout (or 0 throughout: zero-initialized residuals), and bias is 0.
        mean: running_mean is 0 throughout.
        variance: running_var is 1 throughout.
        batches: num_batches_tracked; None if the state has none.
    """

    name: str
    affine: bool
    mean: bool
    variance: bool
    batches: int | None

    @property
    def statistics(self) -> bool:
        """No layer that saw a batch has a mean of exactly 0 or a variance of exactly 1 throughout."""
        return self.mean or self.variance


def norm_layers(
    state: Mapping[str, Tensor],  # torchvision names, complete
) -> list[NormLayer]:
    """Every BatchNorm layer of a state.

    Raises:
        UserError: a running variance is negative, or a statistic is not finite.
    """
    names = [key.removesuffix(".running_var") for key in state if key.endswith(".running_var")]
    broken = [line for name in names for line in _impossible(state, name)]
    if broken:
        raise UserError(
            f"BatchNorm statistics of {len(broken)} of {2 * len(names)} tensors are impossible:\n"
            + "\n".join(broken[:6])
            + (f"\n  ... and {len(broken) - 6} more" if len(broken) > 6 else "")
            + "\nexpected finite means and variances of 0 or more.\n"
            "The training diverged or the file was converted wrongly; give another checkpoint."
        )
    layers = []
    for name in names:
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        scaled = bool((weight == 1).all() or (weight == 0).all())
        count = state.get(f"{name}.num_batches_tracked")
        layers.append(
            NormLayer(
                name,
                affine=scaled and bool((bias == 0).all()),
                mean=bool((state[f"{name}.running_mean"] == 0).all()),
                variance=bool((state[f"{name}.running_var"] == 1).all()),
                batches=None if count is None else int(count),
            )
        )
    return layers


def signs_of_no_training(
    state: Mapping[str, Tensor],  # torchvision names, complete
) -> tuple[str, ...]:
    """Signs that a network is not trained, one sentence each; empty for a trained one.

    num_batches_tracked alone is not a sign: most converters drop it, and it is 0 again on loading.

    Raises:
        UserError: a running variance is negative, or a statistic is not finite.
    """
    layers = norm_layers(state)
    untouched = [x for x in layers if x.affine and x.statistics]
    refilled = [x for x in layers if x.statistics and not x.affine]
    forwarded = [x for x in layers if x.affine and not x.statistics]
    signs = []
    if untouched and len(untouched) == len(layers):
        signs.append(
            f"untouched initialization: all {len(layers)} BatchNorm layers have weight 1 or 0, bias 0, "
            "running_mean 0 and running_var 1, so the network is random."
        )
    elif untouched:
        signs.append(
            f"part of the network is untouched initialization: {_where(untouched, layers)} weight 1 or "
            "0, bias 0, running_mean 0 and running_var 1, so these layers were never loaded or trained."
        )
    if refilled:
        signs.append(
            "BatchNorm statistics were never updated or were stripped and refilled: "
            f"{_where(refilled, layers)} running_mean 0 or running_var 1 throughout, though weight and "
            "bias are not initial; right only if statistics are folded into weight and bias."
        )
    if forwarded:
        signs.append(
            f"forward passes without training: {_where(forwarded, layers)} running statistics that moved "
            "but weight 1 or 0 and bias 0 as initialized, so no gradient reached them."
        )
    return tuple(signs)


def _impossible(state: Mapping[str, Tensor], name: str) -> list[str]:
    lines = []
    for kind in ("running_mean", "running_var"):
        values = state[f"{name}.{kind}"]
        infinite = int((~torch.isfinite(values)).sum())
        negative = int((values < 0).sum()) if kind == "running_var" else 0
        if infinite:
            lines.append(f"  {name}.{kind}: {infinite} of {values.numel()} values are not finite")
        elif negative:
            lines.append(f"  {name}.{kind}: {negative} of {values.numel()} values are negative")
    return lines


def _where(some: Sequence[NormLayer], layers: Sequence[NormLayer]) -> str:
    """``17 of 53 BatchNorm layers (10 in layer4, 7 in layer1) have``, or ``all 53 ... have``."""
    if len(some) == len(layers):
        return f"all {len(layers)} BatchNorm layers have"
    counts = Counter(x.name.partition(".")[0] for x in some)
    places = ", ".join(f"{count} in {part}" for part, count in counts.items())
    return f"{len(some)} of {len(layers)} BatchNorm layers ({places}) have"


# ---- Is a backbone trained? Its features of a few photographs, compared with those of its u


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
