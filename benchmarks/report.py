"""Measure CPU time, memory and size of a report on many runs.

    python benchmarks/report.py --records 500

Writes synthetic runs (kNN, detection with drawings and a curve, pre-training with a curve) to a temporary
folder and writes their report twice, as the suite does: the second time, figures and comparisons are
remembered. All evaluations keep outcomes of 5,000 images; those of detection are hits, which take less time
to resample than matches.
"""

import argparse
import json
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from PIL import Image

from transfer.drawing.svg import BLUE, Line, Panel, as_file, plots
from transfer.report.render import write_report
from transfer.scoring.scores import DataId, Score
from transfer.verdicts.outcome_kinds import mean_outcomes
from transfer.verdicts.outcomes import save_outcomes

CLASSES = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--records", type=int, default=500)
    parser.add_argument("--keep", type=Path, help="keep the runs and the report in this folder")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp())
    draw = np.random.default_rng(0)
    for number in range(options.records):
        write_run(folder / "runs" / f"{number:05d}", number, draw)
    for which in ("first", "second"):
        before = time.process_time()
        page = write_report([folder / "runs"], folder / "report")
        seconds = time.process_time() - before
        each = 1000 * seconds / options.records
        print(
            f"{which} report of {options.records} records: {seconds:.2f} s CPU, {each:.1f} ms each"
        )
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{memory:.0f} MB peak of the process, page {page.stat().st_size / 1e6:.2f} MB")
    if options.keep is None:
        shutil.rmtree(folder)


def write_run(folder: Path, number: int, draw: np.random.Generator) -> None:
    """Write one run; pre-training, kNN and detection alternate."""
    folder.mkdir(parents=True)
    kind = ("pretrain", "knn", "detection")[number % 3]
    seed = number // 3
    record: dict[str, Any] = {
        "schema": 2,
        "kind": kind,
        "status": "done",
        "card": kind,
        "digest": "0123456789ab",
        "command": f"python {kind}.py --output {folder}",
        "started": "2026-01-01T10:00:00+0000",
        "written": "2026-01-01T11:00:00+0000",
        "seconds": 3600.0,
        "warnings": [],
        "environment": {"python": "3.11", "system": "Linux x86_64", "packages": {"torch": "2.11"}},
        "config": {"seed": seed, **{f"yaml.KEY_{k}": k for k in range(200)}},
        "results": {"sha256": f"{seed:064d}"} if kind == "pretrain" else {},
        "scores": [],
    }
    if kind != "pretrain":
        record["network"] = {
            "name": f"method-{seed % 10} resnet50",
            "arch": "resnet50",
            "family": "msbreg",
            "sha256": f"{seed:064d}",
            "source": f"runs/{seed}/checkpoint.pth",
            "details": {"epochs": 100, "seed": seed},
        }
        names = ("box AP", "box AP50", "box AP75") if kind == "detection" else ("20-NN top-1",)
        data = DataId(f"{kind} data", "test", "a" * 64)
        by_class = {f"class {k}": float(draw.uniform(0, 100)) for k in range(CLASSES)}
        scores = [
            Score(n, float(draw.uniform(40, 60)), data, "rules", 5000, per_class=by_class)
            for n in names
        ]
        record["scores"] = [score.as_dict() for score in scores]
        save_outcomes(
            folder,
            [
                mean_outcomes(score, "images", draw.random(score.n) < score.value / 100)
                for score in scores
            ],
        )
    if kind == "pretrain":
        write_curve(folder, "epoch", 800, ("total", "std", "effective_rank", "learning_rate"), draw)
    if kind == "detection":
        write_curve(folder, "iteration", 1200, ("total_loss", "loss_cls", "learning_rate"), draw)
        record["drawings"] = ["curves_box.svg", "detections.webp"]
        steps = [(x / 100, float(y)) for x, y in enumerate(np.sort(draw.uniform(size=101))[::-1])]
        panels = [Panel(f"class {k}", [Line(steps, BLUE)]) for k in range(CLASSES)]
        (folder / "curves_box.svg").write_text(as_file(plots(panels, columns=5, label="curves")))
        pixels = draw.integers(0, 255, (60, 45, 3), dtype=np.uint8)
        sheet = Image.fromarray(pixels).resize((900, 1200), Image.Resampling.BICUBIC)
        sheet.save(folder / "detections.webp", quality=80)
    (folder / "record.json").write_text(json.dumps(record, indent=2))


def write_curve(
    folder: Path, over: str, rows: int, names: tuple[str, ...], draw: np.random.Generator
) -> None:
    """Write a curve.jsonl with random walks."""
    walks = np.abs(draw.normal(size=(rows, len(names))).cumsum(0)) + 0.1
    lines = [
        json.dumps({over: row, **dict(zip(names, values, strict=True))})
        for row, values in enumerate(walks.tolist())
    ]
    (folder / "curve.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
