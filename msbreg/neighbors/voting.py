"""Voting rules that turn neighbors into class scores."""

import numpy as np

from msbreg.run.errors import UserError


def weighted_vote(
    similarities: np.ndarray,  # (Q, k)
    labels_of_neighbors: np.ndarray,  # (Q, k), in 0..C-1
    classes: int,
    temperature: float = 0.07,
) -> np.ndarray:  # (Q, C) float64
    """Sum exp(similarity / temperature) over the neighbors of each class.

    Each row is scaled by exp(-largest similarity / temperature), which keeps the exponential in (0, 1] at
    every temperature and does not change the ranking. Classes with equal scores are ranked by index (see
    `transfer.scoring.classification`).

    Source: Wu et al. 2018 (NPID), equation 9; 0.07 is the temperature of NPID and of DINO's kNN.

    Raises:
        UserError: a label is outside 0..C-1, the shapes differ, or the temperature is not positive.

    >>> similarities, labels = np.array([[0.9, 0.8, 0.8]]), np.array([[0, 1, 1]])
    >>> weighted_vote(similarities, labels, classes=2).round(2)  # 2 * exp(-0.1 / 0.07) = 0.48
    array([[1.  , 0.48]])
    """
    if similarities.shape != labels_of_neighbors.shape:
        raise UserError(
            f"similarities have shape {similarities.shape}, but labels have shape "
            f"{labels_of_neighbors.shape}; expected equal shapes. "
            "Index the labels of the bank with the second result of nearest()."
        )
    if not temperature > 0:
        raise UserError(f"temperature is {temperature}; expected a number above 0, such as 0.07.")
    largest = similarities.max(axis=1, keepdims=True).astype(np.float64)
    weights = np.exp((similarities - largest) / temperature)
    return _sum_by_class(weights, labels_of_neighbors, classes)


def majority_vote(
    labels_of_neighbors: np.ndarray,  # (Q, k), in 0..C-1
    classes: int,
) -> np.ndarray:  # (Q, C) float64
    """Count the neighbors of each class.

    With `argmax`, equal counts are decided for the smallest class index, as in W-MSE's 5-NN
    (Ermolov et al. 2021, htdt/self-supervised).

    Raises:
        UserError: a label is outside 0..C-1.

    >>> majority_vote(np.array([[0, 1, 1]]), classes=3)
    array([[1., 2., 0.]])
    """
    return _sum_by_class(np.ones(labels_of_neighbors.shape), labels_of_neighbors, classes)


def _sum_by_class(
    weights: np.ndarray,  # (Q, k)
    labels: np.ndarray,  # (Q, k)
    classes: int,
) -> np.ndarray:  # (Q, C)
    """Sum the weights in each row by label."""
    if labels.size and (labels.min() < 0 or labels.max() >= classes):
        raise UserError(
            f"neighbors have labels {labels.min()}..{labels.max()}; expected 0..{classes - 1}. "
            "Take the number of classes from the labels of the bank, not of the queries."
        )
    cells = np.arange(len(labels))[:, None] * classes + labels
    sums = np.bincount(cells.ravel(), weights=weights.ravel(), minlength=len(labels) * classes)
    return sums.reshape(len(labels), classes)
