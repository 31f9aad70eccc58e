"""Detectron2's VOC evaluator on our scenes, and the numbers that it gave, kept in frozen/voc.json.

python -m tests.transfer.scoring.by_detectron2        # writes the file anew
"""

import itertools
import json
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from msbreg.data.scenes import Instance, Prediction, Scene, Scenes
from tests.transfer.scoring.drawn import predict, voc_scenes

FROZEN = Path(__file__).with_name("frozen") / "voc.json"
_NAMES = itertools.count()


def write_voc(root, scenes):
    """Write Annotations and ImageSets; the images are never read."""
    (root / "Annotations").mkdir(parents=True)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    ids = [scene.id for scene in scenes.scenes]
    (root / "ImageSets" / "Main" / "test.txt").write_text("\n".join(ids))
    for scene in scenes.scenes:
        objects = ""
        for o in scene.instances:
            x0, y0, x1, y1 = (int(edge) for edge in o.box)
            objects += (
                f"<object><name>{scenes.classes[o.label]}</name><pose>Left</pose>"
                f"<truncated>0</truncated><difficult>{int(o.difficult)}</difficult>"
                f"<bndbox><xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin>"
                f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
            )
        size = f"<size><width>{scene.width}</width><height>{scene.height}</height></size>"
        (root / "Annotations" / f"{scene.id}.xml").write_text(
            f"<annotation>{size}{objects}</annotation>"
        )


def evaluate(root, scenes, predictions):
    """Give its AP, AP50, AP75 and the (T, K) values that they are means of, in percent."""
    theirs = _their_module()
    write_voc(root, scenes)
    original, seen = theirs.voc_eval, []

    def recorded(*arguments, **options):
        outcome = original(*arguments, **options)
        seen.append(100 * outcome[2])
        return outcome

    theirs.voc_eval = recorded
    try:
        numbers = numbers_of(root, scenes, predictions)
    finally:
        theirs.voc_eval = original
    return numbers, np.array(seen, dtype=float).reshape(len(scenes.classes), -1).T


def numbers_of(root, scenes, predictions):
    """Give its AP, AP50, AP75 in percent; the annotations are in root."""
    theirs = _their_module()
    from detectron2.data import MetadataCatalog
    from detectron2.structures import Boxes, Instances

    name = f"msbreg_{next(_NAMES)}"
    MetadataCatalog.get(name).set(
        thing_classes=list(scenes.classes), dirname=str(root), year=scenes.year, split="test"
    )
    evaluator = theirs.PascalVOCDetectionEvaluator(name)
    evaluator.reset()
    for prediction in predictions:
        found = Instances((1, 1))
        found.pred_boxes = Boxes(torch.from_numpy(prediction.boxes.copy()))
        found.scores = torch.from_numpy(prediction.scores.copy())
        found.pred_classes = torch.from_numpy(prediction.labels.copy())
        evaluator.process([{"image_id": prediction.scene}], [{"instances": found}])
    with warnings.catch_warnings():
        # A class without objects divides by zero there.
        warnings.simplefilter("ignore", RuntimeWarning)
        numbers = evaluator.evaluate()["bbox"]
    return {key: float(value) for key, value in numbers.items()}


def _their_module():
    with warnings.catch_warnings():
        # Importing it compiles a box coder with torch.jit.script, which is deprecated.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        from detectron2.evaluation import pascal_voc_evaluation
    return pascal_voc_evaluation


def distinct(rng, predictions):
    """The same with scores of which no two of one class are equal after rounding."""
    total = sum(len(p.scores) for p in predictions)
    assert total < 1000
    fresh = iter(rng.permutation(1000)[:total])
    out = []
    for p in predictions:
        scores = np.array([next(fresh) / 1000 for _ in p.scores], dtype=np.float32)
        order = np.argsort(-scores)
        out.append(Prediction(p.scene, p.boxes[order], scores[order], p.labels[order]))
    return tuple(out)


def read_frozen():
    """Yield (scenes, predictions, numbers, per class and threshold) of each frozen case."""
    for case in json.loads(FROZEN.read_text()):
        scenes = tuple(
            Scene(
                name,
                Path(name),
                60,
                60,
                tuple(Instance(tuple(o[:4]), o[4], difficult=o[5]) for o in objects),
            )
            for name, objects in case["scenes"]
        )
        predictions = tuple(
            Prediction(
                name,
                np.array(boxes, dtype=np.float32).reshape(-1, 4),
                np.array(scores, dtype=np.float32),
                np.array(labels, dtype=np.int64),
            )
            for name, boxes, scores, labels in case["predictions"]
        )
        split = Scenes(f"voc_{case['year']}", tuple(case["classes"]), scenes, year=case["year"])
        yield split, predictions, case["numbers"], np.array(case["per_class"], dtype=float)


def case(seed, year, classes):
    """One case: drawn scenes and predictions of the first classes, and Detectron2's numbers."""
    rng = np.random.default_rng(seed)
    drawn = voc_scenes(rng, 18, year)
    parts = tuple(
        replace(s, instances=tuple(o for o in s.instances if o.label < classes))
        for s in drawn.scenes
    )
    scenes = replace(drawn, classes=drawn.classes[:classes], scenes=parts)
    kept = []
    for p in predict(rng, scenes):
        own = p.labels < classes
        kept.append(Prediction(p.scene, p.boxes[own], p.scores[own], p.labels[own]))
    predictions = distinct(rng, kept)
    with tempfile.TemporaryDirectory() as folder:
        numbers, per_class = evaluate(Path(folder) / "voc", scenes, predictions)
    return {
        "year": year,
        "classes": scenes.classes,
        "scenes": [
            [s.id, [[*o.box, o.label, o.difficult] for o in s.instances]] for s in scenes.scenes
        ],
        "predictions": [
            [p.scene, p.boxes.tolist(), p.scores.tolist(), p.labels.tolist()] for p in predictions
        ],
        "numbers": numbers,
        "per_class": per_class.tolist(),
    }


def main():
    # Of 2012 the classes with objects only: another that is found has no number there.
    cases = [case(0, 2007, 5), case(1, 2012, 3)]
    FROZEN.write_text("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")


if __name__ == "__main__":
    main()
