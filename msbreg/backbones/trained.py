"""Detect untrained or partly loaded backbones, from norm layers and from features.

A wrong key prefix, a momentum encoder that was never updated, or statistics lost in a conversion do not cause
an error on loading, and the resulting score looks like that of a weak method. PyTorch initializes BatchNorm
to exact values that training always changes, so most of these cases show in the weights. The others show in
the features of a few photographs, compared with those of the untrained twin.
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
    """Which parts of a BatchNorm layer are exactly as initialized by PyTorch.

    Attributes:
        name: name of the layer, such as ``layer1.0.bn3``.
        affine: all weights are 1 (or all are 0, as in zero-initialized residuals), and all biases are 0.
        mean: all of running_mean is 0.
        variance: all of running_var is 1.
        batches: num_batches_tracked; None if the state does not contain it.
    """

    name: str
    affine: bool
    mean: bool
    variance: bool
    batches: int | None

    @property
    def statistics(self) -> bool:
        """Whether the mean or the variance is initial; after a single batch, neither is."""
        return self.mean or self.variance


def norm_layers(
    state: Mapping[str, Tensor],  # torchvision names, complete
) -> list[NormLayer]:
    """Every BatchNorm layer of a state.

    Raises:
        UserError: a running variance is negative, or a statistic is not finite.
    """
    names = [key.removesuffix(".running_var") for key in state if key.endswith(".running_var")]
    names = [name for name in names if f"{name}.bias" in state]  # timm's may have no parameters
    broken = [line for name in names for line in _impossible(state, name)]
    if broken:
        raise UserError(
            f"{len(broken)} of {2 * len(names)} tensors of BatchNorm statistics are invalid:\n"
            + "\n".join(broken[:6])
            + (f"\n  ... and {len(broken) - 6} more" if len(broken) > 6 else "")
            + "\nexpected finite means, and finite variances of 0 or more.\n"
            "The training diverged or the file was not converted correctly; give another checkpoint."
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
    """Signs in the weights that a network is not trained, one sentence each; empty if it is trained.

    num_batches_tracked is not used: most converters drop it, and it is 0 after loading.

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
            f"{_where(refilled, layers)} running_mean 0 or running_var 1, although weight and bias are not "
            "initial; this is only correct if the statistics are folded into weight and bias."
        )
    if forwarded:
        signs.append(
            f"forward passes without training: {_where(forwarded, layers)} updated running statistics, but "
            "initial values of weight (1 or 0) and bias (0), so they received no gradient."
        )
    return (*signs, *_signs_in_layer_norms(state))


def layer_norms(state: Mapping[str, Tensor]) -> dict[str, bool]:
    """Name of every LayerNorm layer -> whether its weight is 1 and its bias 0, as initialized by PyTorch."""
    weights = {
        key.removesuffix(".weight"): value
        for key, value in state.items()
        if key.endswith(".weight") and value.ndim == 1
    }
    return {
        name: bool((weight == 1).all()) and bool((state[f"{name}.bias"] == 0).all())
        for name, weight in weights.items()
        if f"{name}.running_var" not in state and f"{name}.bias" in state
    }


def _signs_in_layer_norms(state: Mapping[str, Tensor]) -> list[str]:
    """The same for LayerNorm layers, which have no statistics (vision transformers)."""
    layers = layer_norms(state)
    initial = [name for name, untouched in layers.items() if untouched]
    if not initial:
        return []
    return [
        f"untouched initialization: {len(initial)} of {len(layers)} LayerNorm layers, such as {initial[0]}, "
        "have weight 1 and bias 0, so they were never loaded or trained."
    ]


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


def _where(subset: Sequence[NormLayer], layers: Sequence[NormLayer]) -> str:
    """``17 of 53 BatchNorm layers (10 in layer4, 7 in layer1) have``, or ``all 53 ... have``."""
    if len(subset) == len(layers):
        return f"all {len(layers)} BatchNorm layers have"
    counts = Counter(x.name.partition(".")[0] for x in subset)
    places = ", ".join(f"{count} in {part}" for part, count in counts.items())
    return f"{len(subset)} of {len(layers)} BatchNorm layers ({places}) have"


# ---- Signs in the features of a few photographs, compared with the untrained twin


# Features look random if the cosine is above and the rank below these bounds. For 32 photographs(), random
# networks (six of ARCHITECTURES, ten seeds, with or without zero-initialized residuals) have cosines of at
# least 0.88 and ranks of at most 6.7. Trained networks (this suite's small networks after 140 steps or more,
# ResNet-18 and -50 after 100 steps on CIFAR-10) have ranks of at least 8.5, or 9.9 if the cosine is above its
# bound. The same networks with refilled statistics, random convolutions or pixels in 0..255 have ranks of at
# most 6.3.
LEAST_COSINE = 0.85
MOST_RANK = 7.5
PHOTOGRAPHS = 32


@dataclass(frozen=True)
class FeatureStatistics:
    """Statistics of the pooled features (N, C) of N images.

    If some features are not finite, all attributes except ``images`` and ``finite`` are NaN.

    Attributes:
        images: number N of images.
        finite: number of images with finite features.
        mean: mean of all values; at least 0, because they are outputs of a ReLU.
        std: standard deviation of all values.
        cosine: mean cosine similarity over all pairs of different images; in [0, 1].
        effective_rank: effective rank of the N normalized vectors, without centering; in [1, N].
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
    """Crops of 128 to 400 pixels from scikit-learn's two sample photographs; always the same."""
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
    """Image size for ``feature_statistics``: 128 pixels, or 64 for the small stems with less stride."""
    return 128 if backbone.conv1.kernel_size == (7, 7) else 64


@torch.no_grad()
def feature_statistics(
    backbone: ResNet,
    images: Tensor,  # (N, 3, H, W) uint8 RGB, N >= 2
    normalization: Normalization,
) -> FeatureStatistics:
    """Statistics of the pooled features, computed in eval mode on the CPU; the mode is restored."""
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
    # The sum over all pairs is the squared norm of the sum; subtract the pairs of an image with itself.
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
    """Exponential of the entropy of the singular values, normalized to sum to 1; in [1, min(N, C)].

    Roy and Vetterli, "The effective rank" (EUSIPCO 2007). The vectors are not centered, because the direction
    that all features of a random network share must count. Returns 1 if all vectors are 0.
    """
    singular = torch.linalg.svdvals(vectors)
    shares = singular / singular.sum().clamp(min=torch.finfo(vectors.dtype).tiny)
    return float(torch.special.entr(shares).sum().exp())


def signs_in_features(own: FeatureStatistics, twin: FeatureStatistics) -> tuple[str, ...]:
    """Signs in the features that a network is not trained, one sentence each; empty if it is trained.

    Args:
        own: statistics for PHOTOGRAPHS images.
        twin: statistics for the same images with a random network of the same architecture.
    """
    if own.finite < own.images:
        return (
            f"features of {own.images - own.finite} of {own.images} photographs are not finite: the "
            "weights and the BatchNorm statistics do not belong together.",
        )
    if own.mean == 0:
        return (
            f"features of all {own.images} photographs are 0: every channel of the last stage is dead.",
        )
    if own.cosine < LEAST_COSINE or own.effective_rank > MOST_RANK:
        return ()
    return (
        f"features look like those of a random network: for {own.images} photographs, they have a mean "
        f"cosine of {own.cosine:.3f} (random twin {twin.cosine:.3f}; bound {LEAST_COSINE:g}) and an "
        f"effective rank of {own.effective_rank:.1f} (twin {twin.effective_rank:.1f}; bound "
        f"{MOST_RANK:g}). Other causes are layers that do not belong together, and an input that the "
        "network was not trained on.",
    )
