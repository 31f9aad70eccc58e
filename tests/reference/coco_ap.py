"""COCO scores by pycocotools alone, from two JSON files."""

import json

from benchmarks.peers import evaluate, results_as_json, truth_as_json


def coco_ap(folder, scenes, predictions, kind):
    """Write both files and evaluate them."""
    (folder / "truth.json").write_text(json.dumps(truth_as_json(scenes)))
    entries = results_as_json(scenes, predictions, kind)
    (folder / "results.json").write_text(json.dumps(entries))
    return evaluate(folder / "truth.json", folder / "results.json", kind)
