"""Detectron2's VOC evaluator on our scenes, and its numbers, recorded in frozen/voc.json.

python -m tests.transfer.scoring.by_detectron2        # writes the file again
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.peers import numbers_of, voc_evaluation, write_voc
from msbreg.data.scenes import Instance, Prediction, Scene, Scenes
from tests.transfer.scoring.drawn import predict, voc_scenes

FROZEN = Path(__file__).with_name("frozen") / "voc.json"


def evaluate(root, scenes, predictions):
    """Give its AP, AP50, AP75 and the (T, K) values that they are means of, in percent."""
    theirs = voc_evaluation()
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
    """A case: random scenes and predictions of the first classes, and Detectron2's numbers."""
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
    # For 2012 only classes with objects: Detectron2 gives NaN for others with detections.
    cases = [case(0, 2007, 5), case(1, 2012, 3)]
    FROZEN.write_text("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")


if __name__ == "__main__":
    main()
