"""LVIS's scores, one class, threshold and size range at a time (lvis/eval.py)."""

import numpy as np
from pycocotools import mask as codec

from msbreg.data.run_lengths import to_rle

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
RANGES = {"": (0, 1e10), "s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, 1e10)}


def lvis_ap(scenes, predictions, kind):
    """AP, AP50, AP75, APs, APm, APl, APr, APc, APf and AR300, ARs300, ... in percent."""
    by_id = {p.scene: p for p in predictions}
    order = sorted(scenes.scenes, key=lambda scene: scene.id)
    shape = (len(THRESHOLDS), len(scenes.classes), len(RANGES))
    ap, recall = np.full((*shape, len(RECALLS)), np.nan), np.full(shape, np.nan)
    for k in range(len(scenes.classes)):
        images = [_image(scene, by_id[scene.id], k, scenes.federation, kind) for scene in order]
        for r, (low, high) in enumerate(RANGES.values()):
            for t, threshold in enumerate(THRESHOLDS):
                judged = [_judge(*image, threshold, low, high) for image in images]
                objects = sum(count for count, _ in judged)
                if objects == 0:
                    continue
                rows = sorted((row for _, own in judged for row in own), key=lambda row: -row[0])
                ap[t, k, r], recall[t, k, r] = _curve([hit for _, hit in rows], objects)
    means = {"AP": ap[:, :, 0], "AP50": ap[0, :, 0], "AP75": ap[5, :, 0]}
    means |= {f"AP{name}": ap[:, :, r] for r, name in enumerate(RANGES) if name}
    for name in "rcf":
        own = [k for k, other in enumerate(scenes.federation.frequencies) if other == name]
        means[f"AP{name}"] = ap[:, own, 0]
    means |= {f"AR{name}300": recall[:, :, r] for r, name in enumerate(RANGES)}
    return {n: 100 * v[v == v].mean() if (v == v).any() else np.nan for n, v in means.items()}


def _image(scene, prediction, k, federation, kind):
    """Objects (shape, area), detections (score, shape, area), and whether misses are ignored."""
    objects = [o for o in scene.instances if o.label == k]
    truth = [
        (_shape(o.box) if kind == "bbox" else to_rle(o.mask, scene.height, scene.width), o.area)
        for o in objects
    ]
    found = []
    if objects or k in federation.absent[scene.id]:
        best = sorted(range(len(prediction.scores)), key=lambda i: -prediction.scores[i])[:300]
        for i in (i for i in best if prediction.labels[i] == k):
            if kind == "bbox":
                shape = _shape(prediction.boxes[i])
                size = shape[2] * shape[3]
            else:
                shape = prediction.masks[i]
                size = float(codec.area(shape))
            found.append((float(prediction.scores[i]), shape, size))
    return truth, found, k in federation.incomplete[scene.id]


def _shape(box):
    x0, y0, x1, y1 = box
    return [float(v) for v in (x0, y0, x1 - x0, y1 - y0)]


def _judge(truth, found, incomplete, threshold, low, high):
    """Number of objects, and (score, hit) of the detections that count."""
    skipped = [not low <= area <= high for _, area in truth]
    places = sorted(range(len(truth)), key=lambda g: skipped[g])
    shapes = [shape for shape, _ in truth]
    ious = codec.iou([d for _, d, _ in found], shapes, [0] * len(shapes)) if found and truth else []
    taken, rows = set(), []
    for d, (score, _, area) in enumerate(found):
        best, match = min(threshold, 1 - 1e-10), None
        for g in (g for g in places if g not in taken):
            if match is not None and not skipped[match] and skipped[g]:
                break
            if ious[d][g] >= best:
                best, match = ious[d][g], g
        if match is not None:
            taken.add(match)
            if not skipped[match]:
                rows.append((score, True))
        elif low <= area <= high and not incomplete:
            rows.append((score, False))
    return skipped.count(False), rows


def _curve(hits, objects):
    """Interpolated precision at RECALLS, and the recall of all."""
    tp = np.cumsum(hits)
    precision = tp / (np.arange(1, len(hits) + 1) + np.spacing(1))
    recall = tp / objects
    highest = [max(precision[recall >= r], default=0.0) for r in RECALLS]
    return highest, recall[-1] if len(recall) else 0.0
