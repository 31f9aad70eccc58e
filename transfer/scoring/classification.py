"""Classification metrics: accuracy, average precision, and the standard error of an accuracy.

All metrics are in percent, in [0, 100]. Classes with equal scores are ranked by class index, as by
`argmax`; images with equal scores enter a precision-recall curve together. Metrics therefore do not depend
on the order of the input.
"""

import numpy as np

from msbreg.run.errors import UserError


def top_k_accuracy(
    scores: np.ndarray,  # (N, C)
    labels: np.ndarray,  # (N,), in 0..C-1
    k: int,
) -> float:
    """The percentage of images whose class is among the k highest scores.

    >>> outputs = np.array([[0.9, 0.1, 0.0], [0.2, 0.3, 0.5], [0.4, 0.4, 0.2]])
    >>> labels = np.array([0, 1, 1])  # in the last row, the tie goes to class 0
    >>> round(top_k_accuracy(outputs, labels, 1), 1), round(top_k_accuracy(outputs, labels, 2), 1)
    (33.3, 100.0)

    Raises:
        UserError: there are no images, k is not in 1..C, a label is not in 0..C-1, or a score is NaN
            (comparisons with NaN are false, so it would count as a hit).
    """
    return 100 * float(np.mean(top_k_hits(scores, labels, k)))


def top_k_hits(
    scores: np.ndarray,  # (N, C)
    labels: np.ndarray,  # (N,), in 0..C-1
    k: int,
) -> np.ndarray:  # (N,) bool
    """Whether the class of each image is among the k highest scores.

    Raises:
        UserError: like ``top_k_accuracy``.
    """
    if not 1 <= k <= scores.shape[1]:
        raise UserError(
            f"top-{k} accuracy of {scores.shape[1]} classes: expected k in 1..{scores.shape[1]}. "
            "Omit it for a data set with so few classes."
        )
    return _places(scores, labels) < k


def class_accuracies(
    scores: np.ndarray,  # (N, C)
    labels: np.ndarray,  # (N,), in 0..C-1
) -> np.ndarray:  # (C,)
    """Top-1 accuracy of each class, in percent; NaN for a class without images.

    >>> outputs = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> class_accuracies(outputs, np.array([0, 0, 1, 1]))
    array([100.,  50.])

    Raises:
        UserError: like ``top_k_accuracy``.
    """
    hits = _places(scores, labels) == 0
    images = np.bincount(labels, minlength=scores.shape[1])
    correct = np.bincount(labels, weights=hits, minlength=scores.shape[1])
    return 100 * np.divide(correct, images, where=images > 0, out=np.full(len(images), np.nan))


def mean_class_accuracy(
    scores: np.ndarray,  # (N, C)
    labels: np.ndarray,  # (N,), in 0..C-1
) -> tuple[float, float]:
    """The mean of the classes' top-1 accuracies and its standard error, in percent.

    Classes without images do not count. The error is that of independent images within each class:
    sqrt(sum of p (1 - p) / n over the C classes) / C.

    >>> outputs = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> mean, stderr = mean_class_accuracy(outputs, np.array([0, 0, 0, 1, 1]))
    >>> mean, round(stderr, 2)  # classes: 100 %, 50 % of two images
    (75.0, 17.68)

    Raises:
        UserError: like ``top_k_accuracy``.
    """
    accuracies = class_accuracies(scores, labels)
    images = np.bincount(labels, minlength=scores.shape[1])
    p, n = accuracies[images > 0], images[images > 0]
    return float(p.mean()), float(np.sqrt((p * (100 - p) / n).sum()) / len(p))


def average_precision(
    scores: np.ndarray,  # (N,)
    labels: np.ndarray,  # (N,), 1 = positive, -1 or 0 = negative
) -> float:
    """The area under the interpolated precision-recall curve, in percent.

    Precision at a recall is replaced by the highest precision at this recall or above, and summed over
    the steps of recall. This is the metric of VOC since 2010, and the test score of the VOC07 SVM in Goyal et
    al. 2019 and VISSL (there of images, not of boxes). scikit-learn's metric of the same name does not
    interpolate and is never higher.

    >>> ranked, relevant = np.array([0.9, 0.8, 0.7, 0.6]), np.array([1, -1, 1, -1])
    >>> round(average_precision(ranked, relevant), 2)  # 1/2 * 1 + 1/2 * 2/3
    83.33

    Raises:
        UserError: no label is 1, a label is not 1, 0 or -1, or a score is NaN.
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

    The original metric of VOC2007 (Everingham et al. 2010, section 4.2); BYOL reports it on VOC07.

    >>> ranked, relevant = np.array([0.9, 0.8, 0.7, 0.6]), np.array([1, -1, 1, -1])
    >>> round(eleven_point_average_precision(ranked, relevant), 2)  # (6 * 1 + 5 * 2/3) / 11
    84.85

    Raises:
        UserError: like ``average_precision``.
    """
    true_positives, images = _curve(scores, labels)
    envelope = _envelope(true_positives / images)
    # recall >= tenth / 10 in integers: 0.1 + 0.2 is not 0.3 in floating point.
    first = np.searchsorted(10 * true_positives, np.arange(11) * true_positives[-1])
    return 100 * float(np.mean(envelope[first]))


def standard_error(percent: float, n: int) -> float:
    """The binomial standard error of an accuracy over n independent images, in percentage points.

    sqrt(p (1 - p) / n). It is zero, and not meaningful, at 0 and 100 percent. Not applicable to average
    precisions or means over classes.

    >>> round(standard_error(64.9, 720), 2)
    1.78

    Raises:
        UserError: n < 1, or the accuracy is outside [0, 100].
    """
    if n < 1 or not 0 <= percent <= 100:
        raise UserError(
            f"standard error of {percent} % over {n} images: expected 0..100 % and at least one "
            "image. Give accuracies in percent."
        )
    return float(np.sqrt(percent * (100 - percent) / n))


def _places(
    scores: np.ndarray,  # (N, C)
    labels: np.ndarray,  # (N,)
) -> np.ndarray:  # (N,)
    """The rank of the true class: the number of classes before it."""
    _check_numbers(scores)
    if not len(labels) or len(labels) != len(scores):
        raise UserError(
            f"{len(scores)} rows of scores and {len(labels)} labels: expected one label for each "
            "row and at least one. Check that the split has images."
        )
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise UserError(
            f"labels are in {labels.min()}..{labels.max()}; expected 0..{scores.shape[1] - 1}. "
            "Check that both splits use the same list of classes."
        )
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    before = np.arange(scores.shape[1]) < labels[:, None]
    return np.count_nonzero((scores > own) | ((scores == own) & before), axis=1)


def _curve(
    scores: np.ndarray,  # (N,)
    labels: np.ndarray,  # (N,)
) -> tuple[np.ndarray, np.ndarray]:  # (T,), (T,)
    """Numbers of positives and of images at or above each of the T distinct scores, in descending order."""
    _check_numbers(scores)
    if len(labels) != len(scores) or not np.isin(labels, (-1, 0, 1)).all():
        raise UserError(
            f"{len(scores)} scores and {len(labels)} labels from {np.unique(labels)[:5]}: "
            "expected one label for each score, 1 for positive and -1 or 0 for negative."
        )
    if not (labels == 1).any():
        raise UserError(
            f"none of the {len(labels)} labels is positive (1), so precision is undefined. "
            "Exclude the class or use a split that contains it."
        )
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    return np.cumsum(labels[order] == 1)[ends], ends + 1


def _envelope(
    precisions: np.ndarray,  # (T,)
) -> np.ndarray:  # (T,)
    """The highest precision at each threshold or below it."""
    return np.maximum.accumulate(precisions[::-1])[::-1]


def _check_numbers(scores: np.ndarray) -> None:
    wrong = np.count_nonzero(np.isnan(scores))
    if wrong:
        raise UserError(
            f"{wrong} of {scores.size} scores are NaN. "
            "The classifier diverged: lower its learning rate, or check the features for NaN."
        )
