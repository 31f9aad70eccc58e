"""Time detection scoring against other implementations: CPU time of one thread, interleaved rounds.

    python benchmarks/scoring.py                  # 5,000 images x 100 detections, as COCO's val2017
    python benchmarks/scoring.py --quick          # 300 images

COCO: from predictions in memory to the twelve numbers. The reference is the usual pipeline of pycocotools,
which Detectron2 uses as well: results as JSON, ``COCO``, ``loadRes``, ``COCOeval``. Writing the JSON is not
timed. VOC: from predictions in memory to AP, AP50 and AP75. Detectron2's evaluator, if installed, writes text
files and reads the annotations from XML, once for all thresholds. All results are checked for equality.
"""

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # before BLAS is loaded: idle threads spin, which counts as CPU time

import argparse
import importlib.util
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from benchmarks import peers
from msbreg.data.run_lengths import encode
from msbreg.data.scenes import Instance, Prediction, Scene, Scenes
from transfer.scoring.coco_ap import coco_ap
from transfer.scoring.voc_ap import voc_ap

SIDE, OBJECTS, DETECTIONS = 480, 7.3, 100  # objects per image: val2017 has 36,781 in 5,000 images


def synthetic(images: int, classes: int, year: int | None) -> tuple[Scenes, list[Prediction]]:
    """At most three classes per image; two thirds of the detections are near objects, the rest anywhere."""
    draw = np.random.default_rng(0)
    stamps = [_stamp(draw, side) for side in np.exp(draw.uniform(2, 5.5, 200)).astype(int)]
    scenes, predictions = [], []
    for index in range(images):
        own = draw.integers(0, classes, 3)
        objects = []
        for _ in range(draw.poisson(OBJECTS)):
            box, mask = _placed(draw, stamps)
            area = 0.7 * (box[2] - box[0]) * (box[3] - box[1])
            objects.append(Instance(box, int(draw.choice(own)), mask=mask, area=area))
        file = Path(f"{index}.jpg")
        scenes.append(Scene(str(index) if year else index, file, SIDE, SIDE, tuple(objects)))
        predictions.append(_found(draw, scenes[-1], own, classes, stamps))
    ids = () if year else tuple(range(1, classes + 1))
    names = tuple(f"class{k}" for k in range(classes))
    return Scenes("synthetic", names, tuple(scenes), category_ids=ids, year=year), predictions


def _stamp(draw: np.random.Generator, side: int) -> np.ndarray:
    """A mask of a circle with a wavy edge."""
    y, x = np.mgrid[:side, :side] / max(1, side - 1) * 2 - 1
    angle = np.arctan2(y, x)
    return x**2 + y**2 < 1 - 0.3 * np.sin(draw.integers(2, 9) * angle) ** 2


def _placed(draw: np.random.Generator, stamps: list[np.ndarray]) -> tuple[tuple, dict]:
    stamp = stamps[draw.integers(len(stamps))]
    side = len(stamp)
    x, y = (int(v) for v in draw.integers(0, SIDE - side, 2))
    pixels = np.zeros((1, SIDE, SIDE), bool)
    pixels[0, y : y + side, x : x + side] = stamp
    return tuple(map(float, (x, y, x + side, y + side))), encode(pixels)[0]


def _found(
    draw: np.random.Generator,
    scene: Scene,
    own: np.ndarray,
    classes: int,
    stamps: list[np.ndarray],
) -> Prediction:
    boxes, labels, masks = [], [], []
    anywhere = [_placed(draw, stamps) for _ in range(5)]  # drawing masks is slow
    for _ in range(DETECTIONS):
        if scene.instances and draw.random() < 0.67:
            near = scene.instances[draw.integers(len(scene.instances))]
            box, mask, label = near.box, near.mask, near.label
        else:
            box, mask = anywhere[draw.integers(5)]
            label = int(draw.choice(own) if draw.random() < 0.7 else draw.integers(classes))
        jitter = draw.choice([1, 5, 15]) * draw.standard_normal(4)
        boxes.append(np.array(box) + jitter)
        labels.append(label)
        masks.append(mask)
    corners = np.array(boxes, np.float32).clip(0, SIDE)
    corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2] + 1)
    scores = -np.sort(-draw.random(DETECTIONS).astype(np.float32))
    return Prediction(scene.id, corners, scores, np.array(labels, np.int64), tuple(masks))


def coco_routes(images: int, kind: str, folder: Path) -> dict[str, Callable[[], list[float]]]:
    scenes, predictions = synthetic(images, 80, None)
    truth, results = folder / "truth.json", folder / f"{kind}.json"
    truth.write_text(json.dumps(peers.truth_as_json(scenes)))
    results.write_text(json.dumps(peers.results_as_json(scenes, predictions, kind)))
    return {
        "ours": lambda: list(coco_ap(scenes, predictions, kind).numbers.values()),
        "pycocotools": lambda: peers.evaluate(truth, results, kind)[0].tolist(),
    }


def voc_routes(images: int, folder: Path) -> dict[str, Callable[[], list[float]]]:
    scenes, predictions = synthetic(images, 20, 2007)
    routes = {"ours": lambda: list(voc_ap(scenes, predictions).numbers.values())}
    if importlib.util.find_spec("detectron2") is not None:
        peers.write_voc(folder / "voc", scenes)
        names = itertools.count()

        def theirs() -> list[float]:
            root = folder / str(next(names))
            root.symlink_to(folder / "voc")  # Detectron2 caches annotations by path
            return list(peers.numbers_of(root, scenes, predictions).values())

        routes["Detectron2"] = theirs
    return routes


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--quick", action="store_true", help="300 images")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("bbox", "segm", "voc"))
    options = parser.parse_args()
    images = 300 if options.quick else options.images
    print(f"{images} images, {DETECTIONS} detections each, {options.rounds} rounds")
    print(f"{'score':6}{'route':14}{'CPU s':>8}{'x ours':>8}{'spread':>8}")
    for what in (options.only,) if options.only else ("bbox", "segm", "voc"):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            voc = what == "voc"
            routes = voc_routes(images, root) if voc else coco_routes(images, what, root)
            compare(what, routes, options.rounds)


def compare(what: str, routes: dict[str, Callable[[], list[float]]], rounds: int) -> None:
    """Print one row per implementation; raise an error if their numbers differ."""
    seconds: dict[str, list[float]] = {name: [] for name in routes}
    for _ in range(rounds):
        numbers = {}
        for name, route in routes.items():
            start = time.process_time()
            numbers[name] = route()
            seconds[name].append(time.process_time() - start)
        for name, values in numbers.items():
            np.testing.assert_array_equal(values, numbers["ours"], err_msg=f"{what}: {name}")
    for name, times in seconds.items():
        pairs = zip(times, seconds["ours"], strict=True)
        ratio = statistics.median(theirs / own for theirs, own in pairs)
        spread = (max(times) - min(times)) / statistics.median(times)
        print(
            f"{what:6}{name:14}{statistics.median(times):8.2f}{ratio:8.2f}{spread:8.2f}", flush=True
        )


if __name__ == "__main__":
    main()
