"""Scores of classification: accuracy, precision averaged over recall, and their uncertainty.

Every score here is in percent, in [0, 100]. Equal scores of two classes rank by class index, the
smaller first, as `argmax` does; equal scores of two images enter a precision-recall curve
together. So no score depends on the order of the input.
"""

import numpy as np

from msbreg.run.errors import UserError


def top_k_accuracy(
    scores: np.ndarray,  # (N, C)
    labels: np.ndarray,  # (N,), in 0..C-1
    k: int,
) -> float:
    """The share of images whose class is among the k highest scores, in percent.

    >>> outputs = np.array([[0.9, 0.1, 0.0], [0.2, 0.3, 0.5], [0.4, 0.4, 0.2]])
    >>> labels = np.array([0, 1, 1])  # in the last row, the tie goes to class 0
    >>> round(top_k_accuracy(outputs, labels, 1), 1), round(top_k_accuracy(outputs, labels, 2), 1)
    (33.3, 100.0)

    Raises:
        UserError: there is no image, k is not in 1..C, a label is not in 0..C-1, or a score is NaN
            (comparisons with NaN are false, so it would count as a hit).
    """
    if not 1 <= k <= scores.shape[1]:
        raise UserError(
            f"top-{k} accuracy of {scores.shape[1]} classes: expected k in 1..{scores.shape[1]}. "
            "Leave it out for a data set with so few classes."
        )
    return 100 * float(np.mean(_places(scores, labels) < k))


def class_accuracies(
    scores: np.ndarray,  # (N, C)
    labels: np.ndarray,  # (N,), in 0..C-1
) -> np.ndarray:  # (C,)
    """Top-1 accuracy of each class, in percent; NaN for a class without images.

    >>> outputs = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> class_accuracies(outputs, np.array([0, 0, 1, 1]))
    array([100.,  50.])

    Raises:
        UserError: as ``top_k_accuracy``.
    """
    hits = _places(scores, labels) == 0
    images = np.bincount(labels, minlength=scores.shape[1])
    correct = np.bincount(labels, weights=hits, minlength=scores.shape[1])
    return 100 * np.divide(correct, images, where=images > 0, out=np.full(len(images), np.nan))


def average_precision(
    scores: np.ndarray,  # (N,)
    labels: np.ndarray,  # (N,), 1 = positive, -1 or 0 = negative
) -> float:
    """The area under the interpolated precision-recall curve, in percent.

    Precision at a recall is replaced by the highest precision at that recall or above, and summed
    over the steps of recall: VOC since 2010, and the test score of the VOC07 SVM of Goyal et al.
    2019 and VISSL (images there, not boxes). scikit-learn's score of the same name does not
    interpolate and is never higher.

    >>> ranked, relevant = np.array([0.9, 0.8, 0.7, 0.6]), np.array([1, -1, 1, -1])
    >>> round(average_precision(ranked, relevant), 2)  # 1/2 * 1 + 1/2 * 2/3
    83.33

    Raises:
        UserError: no label is 1, a label is none of 1, 0, -1, or a score is NaN.
    """
    true_positives, images = _curve(scores, labels)
    envelope = _envelope(true_positives / images)
    steps = np.diff(true_positives, prepend=0) / true_positives[-1]
    return 100 * float(steps @ envelope)


def eleven_point_average_precision(
    scores: np.ndarray,  # (N,)
    labels: np.ndarray,  # (N,), 1 = positive, -1 or 0 = negative
) -> float:
    """The mean of the interpolated precision at the recalls 0, 0.1, ..., 1, in percent.

    The definition of VOC2007 itself (Everingham et al. 2010, section 4.2), used for BYOL's VOC07
    number.

    >>> ranked, relevant = np.array([0.9, 0.8, 0.7, 0.6]), np.array([1, -1, 1, -1])
    >>> round(eleven_point_average_precision(ranked, relevant), 2)  # (6 * 1 + 5 * 2/3) / 11
    84.85

    Raises:
        UserError: as ``average_precision``.
    """
    true_positives, images = _curve(scores, labels)
    envelope = _envelope(true_positives / images)
    # recall >= tenth / 10 in whole numbers: 0.1 + 0.2 is not 0.3 in floating point.
    first = np.searchsorted(10 * true_positives, np.arange(11) * true_positives[-1])
    return 100 * float(np.mean(envelope[first]))


def standard_error(percent: float, n: int) -> float:
    """The binomial standard error of an accuracy over n independent images, in percentage points.

    sqrt(p (1 - p) / n); zero at 0 and 100 percent, where it says nothing. Not for averages of
    precision or of classes.

    >>> round(standard_error(64.9, 720), 2)
    1.78

    Raises:
        UserError: n < 1, or the accuracy is outside [0, 100].
    """
    if n < 1 or not 0 <= percent <= 100:
        raise UserError(
            f"standard error of {percent} % over {n} images: expected 0..100 % and at least one "
            "image. Give accuracies in percent, as all scores of this suite are."
        )
    return float(np.sqrt(percent * (100 - percent) / n))


def _places(
    scores: np.ndarray,  # (N, C)
    labels: np.ndarray,  # (N,)
) -> np.ndarray:  # (N,)
    """Count the classes that rank before the true one."""
    _check_numbers(scores)
    if not len(labels) or len(labels) != len(scores):
        raise UserError(
            f"{len(scores)} rows of scores and {len(labels)} labels: expected one label for each "
            "row and at least one. Check that the split has images."
        )
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise UserError(
            f"labels lie in {labels.min()}..{labels.max()}, expected 0..{scores.shape[1] - 1}. "
            "Check that both splits use the same list of classes."
        )
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    before = np.arange(scores.shape[1]) < labels[:, None]
    return np.count_nonzero((scores > own) | ((scores == own) & before), axis=1)


def _curve(
    scores: np.ndarray,  # (N,)
    labels: np.ndarray,  # (N,)
) -> tuple[np.ndarray, np.ndarray]:  # (T,), (T,)
    """Count the positives, and the images, at or above each of the T distinct scores, falling."""
    _check_numbers(scores)
    if len(labels) != len(scores) or not np.isin(labels, (-1, 0, 1)).all():
        raise UserError(
            f"{len(scores)} scores and {len(labels)} labels from {np.unique(labels)[:5]}: "
            "expected one label for each score, 1 for positive and -1 or 0 for negative."
        )
    if not (labels == 1).any():
        raise UserError(
            f"none of the {len(labels)} labels is positive (1), so precision has no meaning. "
            "Leave the class out or give the split that has it."
        )
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    ends = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))
    return np.cumsum(labels[order] == 1)[ends], ends + 1


def _envelope(
    precisions: np.ndarray,  # (T,)
) -> np.ndarray:  # (T,)
    """Give the highest precision at each threshold or below it."""
    return np.maximum.accumulate(precisions[::-1])[::-1]


def _check_numbers(scores: np.ndarray) -> None:
    wrong = np.count_nonzero(np.isnan(scores))
    if wrong:
        raise UserError(
            f"{wrong} of {scores.size} scores are not numbers. "
            "The classifier diverged: lower its learning rate, or look for such features."
        )
