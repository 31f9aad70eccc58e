"""Scores of resampled test sets, by writing every image down as often as it was drawn."""

from dataclasses import replace

from tests.reference.classification import average_precision, eleven_point_average_precision


def copies(counts):
    """Indices of images, each as often as it was drawn."""
    return [i for i, count in enumerate(counts) for _ in range(int(count))]


def accuracy(hits, counts):
    drawn = copies(counts)
    return 100 * sum(hits[i] for i in drawn) / len(drawn)


def mean_class_accuracy(hits, labels, counts):
    """The mean over the classes that were drawn."""
    by_class = {}
    for i in copies(counts):
        by_class.setdefault(labels[i], []).append(hits[i])
    return 100 * sum(sum(own) / len(own) for own in by_class.values()) / len(by_class)


def mean_average_precision(decisions, labels, counts, *, eleven_points=False):
    """The mean over the columns with a positive image; images with the label 0 are left out."""
    metric = eleven_point_average_precision if eleven_points else average_precision
    values = []
    for scores, column in zip(decisions.T, labels.T, strict=True):
        drawn = [i for i in copies(counts) if column[i] != 0]
        if any(column[i] == 1 for i in drawn):
            values.append(metric(scores[drawn], column[drawn]))
    return sum(values) / len(values)


def mean_iou(intersections, unions, counts):
    """The mean over the classes with any pixel."""
    values = []
    for column in range(unions.shape[1]):
        union = sum(unions[i][column] for i in copies(counts))
        if union:
            values.append(sum(intersections[i][column] for i in copies(counts)) / union)
    return 100 * sum(values) / len(values)


def drawn_scenes(scenes, predictions, counts):
    """A split with copies of scenes, under names that keep their order, and its predictions."""
    kept, found = [], []
    order = copies(counts)
    for place, i in enumerate(order):
        old = scenes.scenes[i].id
        # Ids of COCO are numbers; the order of equal scores is that of the ids.
        new = 1000 * old + place if isinstance(old, int) else f"{old}-{place:03d}"
        kept.append(replace(scenes.scenes[i], id=new))
        found.append(replace(predictions[i], scene=new))
    return replace(scenes, scenes=tuple(kept)), tuple(found)
