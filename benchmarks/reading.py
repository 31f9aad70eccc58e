"""Time the reading of COCO's annotations against pycocotools: CPU time of one thread, interleaved rounds.

    python benchmarks/reading.py                  # 20,000 images, 140,000 objects: a sixth of train2017
    python benchmarks/reading.py --images 118287  # as large as train2017

Ours also validates every number and returns typed scenes; pycocotools parses the JSON and builds its index.
Image files are not looked at. The memory is the additional peak of a process of its own (Linux).
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from pycocotools.coco import COCO

from msbreg.data.coco import coco_scenes

OBJECTS, CORNERS, CLASSES = 7.3, 25, 80  # per image, per polygon; as in train2017


def write_annotations(file: Path, images: int) -> int:
    """Write random polygons; return the number of objects."""
    draw = np.random.default_rng(0)
    annotations = []
    for image in range(images):
        for _ in range(draw.poisson(OBJECTS)):
            left, top = draw.uniform(0, 300, 2).round(2).tolist()
            width, height = draw.uniform(5, 100, 2).round(2).tolist()
            ring = draw.uniform(0, 1, (CORNERS, 2)) * [width, height] + [left, top]
            annotations.append(
                {
                    "segmentation": [ring.round(2).ravel().tolist()],
                    "area": round(0.6 * width * height, 4),
                    "iscrowd": 0,
                    "image_id": image + 1,
                    "bbox": [left, top, width, height],
                    "category_id": int(draw.integers(1, CLASSES + 1)),
                    "id": len(annotations) + 1,
                }
            )
    content = {
        "images": [
            {"id": i + 1, "file_name": f"{i + 1:012d}.jpg", "height": 427, "width": 640}
            for i in range(images)
        ],
        "annotations": annotations,
        "categories": [{"id": k, "name": f"class{k}"} for k in range(1, CLASSES + 1)],
    }
    file.write_text(json.dumps(content))
    return len(annotations)


def with_ours(file: Path) -> object:
    return coco_scenes("benchmark", file, file.parent, look_at_images=False)


def with_pycocotools(file: Path) -> object:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(file))


ROUTES: dict[str, Callable[[Path], object]] = {"ours": with_ours, "pycocotools": with_pycocotools}


def measured(name: str, file: Path) -> tuple[float, float]:
    """CPU seconds and additional peak memory in MB of one reading in a new process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_measure, args=(theirs, name, file))
    process.start()
    theirs.close()
    result: tuple[float, float] = ours.recv()
    process.join()
    return result


def _measure(pipe: "multiprocessing.connection.Connection", name: str, file: Path) -> None:
    Path("/proc/self/clear_refs").write_text("5")  # a new process starts with its parent's peak
    before = _peak()
    start = time.process_time()
    kept = ROUTES[name](file)
    seconds = time.process_time() - start
    pipe.send((seconds, _peak() - before))
    del kept


def _peak() -> float:
    """Peak memory of this process in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "instances.json"
        objects = write_annotations(file, options.images)
        size = file.stat().st_size / 2**20
        print(f"{options.images:,} images, {objects:,} objects, {size:.0f} MB of JSON")
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ROUTES}
        for _ in range(options.rounds):
            for name, results in found.items():
                results.append(measured(name, file))
    base = statistics.median(seconds for seconds, _ in found["pycocotools"])
    for name, results in found.items():
        seconds = statistics.median(value for value, _ in results)
        memory = statistics.median(value for _, value in results)
        print(f"{name:<12} {seconds:6.2f} s CPU  {seconds / base:5.2f} x  {memory:6.0f} MB")


if __name__ == "__main__":
    main()
