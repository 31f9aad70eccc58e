"""COCO's scores the long way: two JSON files, read and evaluated by pycocotools alone."""

import contextlib
import io
import json

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def truth_as_json(scenes):
    """Give an instances JSON; objects without a mask get an empty segmentation."""
    annotations = []
    for scene in scenes.scenes:
        for instance in scene.instances:
            x0, y0, x1, y1 = instance.box
            mask = instance.mask if isinstance(instance.mask, dict) else list(instance.mask or ())
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": scene.id,
                    "category_id": scenes.category_ids[instance.label],
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0) if instance.area is None else instance.area,
                    "iscrowd": int(instance.crowd),
                    "segmentation": mask,
                }
            )
    images = [
        {"id": s.id, "height": s.height, "width": s.width, "file_name": s.file.name}
        for s in scenes.scenes
    ]
    pairs = zip(scenes.category_ids, scenes.classes, strict=True)
    categories = [{"id": number, "name": name} for number, name in pairs]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def results_as_json(scenes, predictions, kind):
    """Give a results JSON; for masks without boxes, so that sizes are those of masks."""
    entries = []
    for prediction in predictions:
        for index, label in enumerate(prediction.labels.tolist()):
            x0, y0, x1, y1 = prediction.boxes[index]
            entry = {
                "image_id": prediction.scene,
                "category_id": scenes.category_ids[label],
                "score": float(prediction.scores[index]),
            }
            if kind == "bbox":
                entry["bbox"] = [float(value) for value in (x0, y0, x1 - x0, y1 - y0)]
            else:
                entry["segmentation"] = prediction.masks[index]
            entries.append(entry)
    return entries


def evaluate(truth, results, kind):
    """Evaluate two files; give the twelve numbers in percent (NaN for none) and COCOeval's arrays."""
    with contextlib.redirect_stdout(io.StringIO()):
        given = COCO(truth)
        evaluation = COCOeval(given, given.loadRes(str(results)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return np.where(evaluation.stats > -1, 100 * evaluation.stats, np.nan), evaluation.eval


def coco_ap(folder, scenes, predictions, kind):
    """Write both files and evaluate them."""
    (folder / "truth.json").write_text(json.dumps(truth_as_json(scenes)))
    entries = results_as_json(scenes, predictions, kind)
    (folder / "results.json").write_text(json.dumps(entries))
    return evaluate(folder / "truth.json", folder / "results.json", kind)
