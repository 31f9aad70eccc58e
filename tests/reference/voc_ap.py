"""VOC average precision, computed one text line and one pair of boxes at a time."""

import math

import numpy as np


def printed_and_read(prediction):
    """(score, xmin, ymin, xmax, ymax, label), rounded as in a text file of results."""
    rows = []
    for (x0, y0, x1, y1), score, label in zip(
        prediction.boxes, prediction.scores, prediction.labels, strict=True
    ):
        one = np.float32(1)
        edges = [float(f"{float(edge):.1f}") for edge in (x0 + one, y0 + one, x1, y1)]
        rows.append((float(f"{float(score):.3f}"), *edges, int(label)))
    return rows


def iou(a, b):
    """Pixels in the intersection and in the union of two boxes with inclusive edges."""
    width = max(min(a[2], b[2]) - max(a[0], b[0]) + 1, 0.0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]) + 1, 0.0)
    sizes = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return width * height / (sum(sizes) - width * height)


def verdicts(scenes, rows, label, threshold):
    """+1 for a hit, -1 for a miss and 0 for neither, by rank; and the number of positives."""
    objects = {
        scene.id: [
            (o.box[0] + 1, o.box[1] + 1, o.box[2], o.box[3], o.difficult)
            for o in scene.instances
            if o.label == label
        ]
        for scene in scenes.scenes
    }
    mine = [row for row in rows if row[1][5] == label]
    ranking = np.argsort(-np.array([row[1][0] for row in mine])) if mine else []
    taken, out = set(), []
    for place in ranking:
        scene, row = mine[place]
        found = [iou(row[1:5], other) for other in objects[scene]]
        best = max(range(len(found)), key=lambda i: (found[i], -i), default=None)
        if best is None or not found[best] > threshold:
            out.append(-1)
        elif objects[scene][best][4]:
            out.append(0)
        elif (scene, best) in taken:
            out.append(-1)
        else:
            taken.add((scene, best))
            out.append(1)
    positives = sum(not o[4] for listed in objects.values() for o in listed)
    return out, positives


def curve(walked, positives):
    """(recall, precision) after each detection."""
    points, hits, misses = [], 0, 0
    for verdict in walked:
        hits += verdict == 1
        misses += verdict == -1
        recall = hits / positives if positives else math.nan
        points.append((recall, hits / (hits + misses) if hits else 0.0))
    return points


def highest(points, recall):
    """The highest precision at this recall or above."""
    return max((p for r, p in points if r >= recall), default=0.0)


def average_precision(points, metric):
    """The mean of eleven precisions, or the area under the curve, in percent."""
    if metric == "11-point":
        return 100 * sum(highest(points, level) for level in np.arange(0.0, 1.1, 0.1)) / 11
    area, last = 0.0, 0.0
    for recall, _ in points:
        area += (recall - last) * highest(points, recall)
        last = recall
    return 100 * area


def class_ap(scenes, predictions, label, threshold, metric):
    """Average precision of one class at one threshold, in percent."""
    rows = [(p.scene, row) for p in predictions for row in printed_and_read(p)]
    return average_precision(curve(*verdicts(scenes, rows, label, threshold)), metric)
