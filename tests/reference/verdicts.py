"""Classify detections as right or wrong, one pair of boxes at a time."""


def iou(a, b):
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    sizes = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(sizes) - width * height)


def judged(scene, prediction):
    """For each detection: "hit", "miss" or "neither", and the highest IoU (None without objects)."""
    out = [None] * len(prediction.scores)
    taken = set()
    for i in sorted(range(len(out)), key=lambda i: (-prediction.scores[i], i)):
        box = [float(edge) for edge in prediction.boxes[i]]
        same = [j for j, o in enumerate(scene.instances) if o.label == prediction.labels[i]]
        overlaps = {j: iou(box, scene.instances[j].box) for j in same}
        best = max(same, key=lambda j: (overlaps[j], -j), default=None)
        if best is None or overlaps[best] <= 0.5:
            verdict = "miss"
        elif scene.instances[best].difficult or scene.instances[best].crowd:
            verdict = "neither"
        else:
            verdict = "miss" if best in taken else "hit"
            taken.add(best)
        out[i] = verdict, None if best is None else overlaps[best]
    return out
