"""Random splits and predictions for the tests of scores, with all special cases."""

from pathlib import Path

import numpy as np

from msbreg.data.run_lengths import encode
from msbreg.data.scenes import Instance, Prediction, Scene, Scenes

CLASSES = ("cat", "dog", "cow", "unseen", "never found")
SIDE = 60


def voc_scenes(rng, count=25, year=2007):
    """Boxes of whole pixels; a fifth of them difficult; no object of class 3."""
    scenes = []
    for index in range(count):
        objects = []
        for _ in range(rng.integers(0, 6)):
            x0, y0 = rng.integers(0, 40, 2)
            width, height = rng.integers(1, 20, 2)
            box = tuple(map(float, (x0, y0, x0 + width, y0 + height)))
            label = int(rng.choice([0, 1, 2, 4]))
            objects.append(Instance(box, label, difficult=bool(rng.random() < 0.2)))
        scenes.append(Scene(f"{index:06d}", Path(f"{index}.jpg"), SIDE, SIDE, tuple(objects)))
    return Scenes(f"voc_{year}_test", CLASSES, tuple(scenes), year=year)


def predict(rng, scenes, tied=False, masks=None):
    """Jittered copies of the objects, some twice, some of another class, and boxes of nothing.

    Args:
        tied: scores of one decimal, so that most are equal; else of many.
        masks: None, or a function of (scene, boxes) to masks.
    """
    out = []
    for scene in scenes.scenes:
        boxes, labels = [], []
        for instance in scene.instances:
            for _ in range(rng.integers(0, 3)):
                if instance.label == 4:
                    continue
                jitter = rng.choice([0, 0.5, 2, 6]) * rng.standard_normal(4)
                boxes.append(np.array(instance.box) + jitter)
                labels.append(instance.label if rng.random() < 0.9 else int(rng.integers(0, 4)))
        for _ in range(rng.integers(0, 4)):
            corner = rng.uniform(0, 40, 2)
            boxes.append(np.concatenate([corner, corner + rng.uniform(1, 20, 2)]))
            labels.append(int(rng.integers(0, 4)))
        found = np.array(boxes, dtype=np.float32).reshape(-1, 4)
        found = np.concatenate([found[:, :2], np.maximum(found[:, 2:], found[:, :2] + 1)], axis=1)
        found = found.clip(0, scene.width).astype(np.float32)
        scores = rng.random(len(found))
        scores = (scores.round(1) if tied else scores).astype(np.float32)
        order = np.argsort(-scores, kind="stable")
        chosen = np.array(labels, dtype=np.int64).reshape(-1)[order]
        made = None if masks is None else masks(scene, found[order])
        out.append(Prediction(scene.id, found[order], scores[order], chosen, made))
    return tuple(out)


def box_masks(scene, boxes):
    """Each box without a corner, as run lengths."""
    drawn = np.zeros((len(boxes), scene.height, scene.width), dtype=bool)
    for pixels, (x0, y0, x1, y1) in zip(drawn, boxes.round().astype(int), strict=True):
        pixels[y0:y1, x0:x1] = True
        pixels[y0 : (y0 + y1) // 2, x0 : (x0 + x1) // 2] = False
    return encode(drawn)


def coco_scenes(rng, count=20):
    """Objects of all sizes with polygons or run lengths, crowds, gapped ids, empty images."""
    side = 200
    scenes = []
    for index in range(count):
        objects = []
        for number in range(rng.integers(0, 7)):
            x0, y0 = rng.integers(0, 50, 2)
            width, height = rng.choice([6, 20, 50, 145], 2)
            x1, y1 = x0 + width, y0 + height
            box = tuple(map(float, (x0, y0, x1, y1)))
            mask = tuple(tuple(map(float, ring)) for ring in ([x0, y0, x1, y0, x1, y1, x0, y1],))
            area = float(width * height) * rng.uniform(0.6, 1)
            crowd = bool(rng.random() < 0.15)
            if crowd or number % 2:
                pixels = np.zeros((1, side, side), dtype=bool)
                pixels[0, y0:y1, x0:x1] = True
                mask = encode(pixels)[0]
            label = int(rng.choice([0, 1, 2, 4]))
            objects.append(Instance(box, label, mask, area, crowd))
        # Ids fall while the list rises: a score may not depend on the order of the list.
        scenes.append(Scene(900 - 7 * index, Path(f"{index}.jpg"), side, side, tuple(objects)))
    return Scenes("coco_drawn", CLASSES, tuple(scenes), category_ids=(2, 3, 17, 40, 90))
