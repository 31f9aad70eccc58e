"""Evaluation with pycocotools and Detectron2, to compare our scores and their speed with."""

import contextlib
import io
import itertools
import warnings

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

_NAMES = itertools.count()


# ---- COCO scores by pycocotools alone, from two JSON files


def truth_as_json(scenes):
    """The content of an instances JSON; objects without a mask get an empty segmentation."""
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
    """The content of a results JSON; for masks, boxes are omitted so that areas are those of the masks."""
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
    """Evaluate two files; return the twelve numbers in percent (NaN if undefined) and COCOeval's arrays."""
    with contextlib.redirect_stdout(io.StringIO()):
        given = COCO(truth)
        evaluation = COCOeval(given, given.loadRes(str(results)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return np.where(evaluation.stats > -1, 100 * evaluation.stats, np.nan), evaluation.eval


# ---- Detectron2's VOC evaluator on our scenes


def write_voc(root, scenes):
    """Write Annotations and ImageSets; images are not needed."""
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


def numbers_of(root, scenes, predictions):
    """AP, AP50 and AP75 in percent by Detectron2's evaluator, for the annotations in ``root``."""
    theirs = voc_evaluation()
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
        # Detectron2 divides by zero for classes without objects.
        warnings.simplefilter("ignore", RuntimeWarning)
        numbers = evaluator.evaluate()["bbox"]
    return {key: float(value) for key, value in numbers.items()}


def voc_evaluation():
    """Detectron2's module, with warnings during its import suppressed."""
    with warnings.catch_warnings():
        # The import uses torch.jit.script, which is deprecated.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        from detectron2.evaluation import pascal_voc_evaluation
    return pascal_voc_evaluation
