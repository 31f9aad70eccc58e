"""Classification scores, by sorting and counting one image at a time."""


def top_k_accuracy(scores, labels, k):
    """Sort the classes by (descending score, ascending index) and look for the label."""
    hits = 0
    for row, label in zip(scores, labels, strict=True):
        ranking = sorted(range(len(row)), key=lambda index: (-row[index], index))
        hits += label in ranking[:k]
    return 100 * hits / len(labels)


def class_accuracies(scores, labels):
    """The accuracy of each class; NaN for classes without images."""
    accuracies = []
    for wanted in range(scores.shape[1]):
        own = [index for index, label in enumerate(labels) if label == wanted]
        accuracies.append(top_k_accuracy(scores[own], labels[own], 1) if own else float("nan"))
    return accuracies


def precision_recall_points(scores, labels):
    """(recall, precision) with each score as a threshold."""
    points = []
    for threshold in sorted(set(scores), reverse=True):
        chosen = [label for score, label in zip(scores, labels, strict=True) if score >= threshold]
        hits = sum(label == 1 for label in chosen)
        points.append((hits / sum(label == 1 for label in labels), hits / len(chosen)))
    return points


def interpolated(points, recall):
    """The highest precision at this recall or above."""
    return max(precision for other, precision in points if other >= recall)


def average_precision(scores, labels):
    """The area under the interpolated precision, summed over the steps of recall."""
    points = precision_recall_points(scores, labels)
    area, last = 0.0, 0.0
    for recall, _ in points:
        area += (recall - last) * interpolated(points, recall)
        last = recall
    return 100 * area


def eleven_point_average_precision(scores, labels):
    """The mean precision at eleven recalls; the margin is for tenths that are not exact in floating point."""
    points = precision_recall_points(scores, labels)
    return 100 * sum(interpolated(points, tenth / 10 - 1e-9) for tenth in range(11)) / 11
