"""Statistics of a network and of its features that show whether it learned anything."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from msbreg.backbones.spread import dimension_std, effective_rank, rankme, singular_spectrum
from msbreg.backbones.trained import layer_norms, norm_layers
from msbreg.neighbors import nearest, weighted_vote

CONSTANT = 1e-6
"""A dimension is constant if its range is at most this share of its largest value (float32 rounding)."""


@dataclass(frozen=True)
class NormState:
    """How many BatchNorm and LayerNorm layers are as PyTorch initializes them.

    Attributes:
        layers: number of layers.
        untouched: layers with initial weights, biases and, for BatchNorm, running statistics.
        refilled: BatchNorm layers with trained weights but an initial running mean or variance.
        forwarded: BatchNorm layers with updated statistics but initial weights and biases.
    """

    layers: int
    untouched: int
    refilled: int
    forwarded: int


def norm_state(state: Mapping[str, Tensor]) -> NormState:
    """The state of the norm layers of a network."""
    batch, layer = norm_layers(state), layer_norms(state)
    return NormState(
        layers=len(batch) + len(layer),
        untouched=sum(x.affine and x.statistics for x in batch) + sum(layer.values()),
        refilled=sum(x.statistics and not x.affine for x in batch),
        forwarded=sum(x.affine and not x.statistics for x in batch),
    )


@dataclass(frozen=True)
class FeatureHealth:
    """Statistics of the features (N, D) of N images; those after ``finite`` are of the finite features.

    Attributes:
        images: N.
        finite: number of images whose features are finite.
        constant: share of the D dimensions that are equal for all images: dead channels; in [0, 1].
        std: spread of the normalized features; 1 if even, 0 if all are equal. See ``dimension_std``.
        effective_rank: of the centered, normalized features; in [1, min(N, D)].
        rankme: RankMe; in [1, min(N, D)].
    """

    images: int
    finite: int
    constant: float
    std: float
    effective_rank: float
    rankme: float


def feature_health(
    features: np.ndarray,  # (N, D) float32
) -> FeatureHealth:
    """The statistics; NaN if fewer than two images have finite features.

    >>> health = feature_health(np.array([[1, 0, 3], [1, 2, 1], [1, 4, 5]], np.float32))
    >>> health.finite, round(health.constant, 2)
    (3, 0.33)
    """
    finite = features[np.isfinite(features).all(1)]
    if len(finite) < 2:
        return FeatureHealth(len(features), len(finite), *[float("nan")] * 4)
    x = torch.from_numpy(finite)
    ranges = finite.max(0) - finite.min(0)
    return FeatureHealth(
        images=len(features),
        finite=len(finite),
        constant=float(np.mean(ranges <= CONSTANT * np.abs(finite).max(0))),
        std=dimension_std(x),
        effective_rank=effective_rank(singular_spectrum(x)),
        rankme=rankme(x),
    )


def neighbor_hits(
    queries: np.ndarray,  # (Q, D) float32, finite
    query_labels: np.ndarray,  # (Q,) class indices, or (Q, C) with 1 for each class in the image
    bank: np.ndarray,  # (N, D) float32, finite
    bank_labels: np.ndarray,  # (N,) or (N, C)
    *,
    classes: int,
    k: int,
    device: torch.device | str = "cpu",
) -> np.ndarray:  # (Q,) bool
    """Whether the class with the most votes of the k nearest neighbors is (one of) the query's.

    Cosine similarity s, weights exp(s / 0.07), as in ``transfer/knn.py``. A neighbor with several labels
    votes for each of them. A feature of zeros has no direction: as a query it is a miss, in the bank it is
    no neighbor.
    """
    hits = np.zeros(len(queries), bool)
    directed, some = np.abs(bank).max(1) > 0, np.abs(queries).max(1) > 0
    bank, bank_labels = bank[directed], bank_labels[directed]
    if not len(bank) or not some.any():
        return hits
    similarities, indices = nearest(queries[some], bank, min(k, len(bank)), device=device)
    neighbors = bank_labels[indices]  # (Q, k) or (Q, k, C)
    if bank_labels.ndim == 1:
        votes = weighted_vote(similarities, neighbors, classes)
        hits[some] = votes.argmax(1) == query_labels[some]
        return hits
    votes = _votes_of_several_labels(similarities, neighbors)
    hits[some] = np.take_along_axis(query_labels[some], votes.argmax(1)[:, None], 1)[:, 0] == 1
    return hits


def _votes_of_several_labels(
    similarities: np.ndarray,  # (Q, k)
    neighbors: np.ndarray,  # (Q, k, C), 1 for each class in the image
) -> np.ndarray:  # (Q, C)
    """The sum of the weights of ``weighted_vote`` over the neighbors that have the class."""
    largest = similarities.max(axis=1, keepdims=True).astype(np.float64)
    weights = np.exp((similarities - largest) / 0.07)
    return np.einsum("qk,qkc->qc", weights, (neighbors == 1).astype(np.float64))
