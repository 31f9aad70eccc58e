"""Small records like those that the scripts write, for the tests of the report."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from msbreg.run.record import protocol_digest
from transfer.scoring.scores import score_from_dict
from transfer.verdicts.outcome_kinds import mean_outcomes
from transfer.verdicts.outcomes import save_outcomes

ENVIRONMENT = {
    "python": "3.11.0",
    "system": "Linux x86_64",
    "cpu_capability": "AVX2",
    "threads": 1,
    "gpus": [],
    "packages": {"torch": "2.11.0"},
    "commit": "0123456789ab",
}


def write_record(folder: Path, **content: Any) -> Path:
    """Write a record to a new folder; arguments replace its entries."""
    folder.mkdir(parents=True)
    config = content.get("config", {})
    record = {
        "schema": 1,
        "status": "done",
        "card": "defaults",
        "overrides": {},
        "digest": protocol_digest(config),
        "command": "transfer/knn.py",
        "started": "2026-01-01T10:00:00+0000",
        "written": "2026-01-01T10:01:00+0000",
        "seconds": 60.0,
        "environment": ENVIRONMENT,
        "warnings": [],
        "device": "cpu",
        "processes": 1,
        "results": {},
    }
    (folder / "record.json").write_text(json.dumps(record | content))
    return folder


def network(seed: int = 0, *, random: bool = False, **changes: Any) -> dict[str, Any]:
    """Provenance of a network; different seeds have different weights."""
    method = "random" if random else "msbreg"
    details = {"seed": seed} if random else {"method": method, "epochs": 8, "seed": seed}
    return {
        "source": "random" if random else f"runs/pretrain-{seed}/checkpoint.pth",
        "family": method,
        "encoder": "online backbone",
        "arch": "resnet18-tiny",
        "sha256": f"{method}-{seed}",
        "tensors": 122,
        "image_size": 32,
        "details": details,
        "name": f"{method} resnet18-tiny",
    } | changes


def write_knn(
    folder: Path, top1: float, provenance: dict[str, Any], *, size: int = 32, **content: Any
) -> Path:
    """A kNN run of schema 1 with k = 20 on 500 images; ``config`` adds settings."""
    config = {"data": "digits", "k": [20], "temperature": 0.07, "seed": 0}
    defaults = {
        "results": {"top1_20nn": top1, "top1_20nn_stderr": 2.0},
        "transform": {"resize": size, "crop": size},
        "selection": "nothing is selected",
        "data": {
            "train": {"images": 2000, "fingerprint": "aa"},
            "val": {"images": 500, "fingerprint": "bb"},
        },
    }
    settings = config | content.pop("config", {})
    record = defaults | content
    return write_record(folder, kind="knn", config=settings, network=provenance, **record)


def score(value: float, **changes: Any) -> dict[str, Any]:
    """A score on 500 images as in a record of schema 2."""
    fields = {
        "name": "top-1",
        "value": value,
        "data": {"name": "pets", "split": "test", "fingerprint": "bb"},
        "rules": "some rules",
        "n": 500,
        "unit": "%",
        "higher_is_better": True,
        "stderr": None,
        "per_class": None,
    }
    return fields | changes


def write_scores(
    folder: Path, provenance: dict[str, Any], *scores: dict[str, Any], **content: Any
) -> Path:
    """A run of schema 2 of a protocol that the report does not know."""
    return write_record(
        folder,
        schema=2,
        kind="colorization",
        config=content.pop("config", {"steps": 3}),
        network=provenance,
        scores=list(scores),
        **content,
    )


def write_svm(folder: Path, provenance: dict[str, Any], per_class: dict[str, float]) -> Path:
    """An SVM run of schema 1 with its per_class.json."""
    write_record(
        folder,
        kind="svm",
        config={"data": "digits", "folds": 3},
        network=provenance,
        data={"test": {"images": 100, "fingerprint": "cc"}},
        results={"map": float(np.mean(list(per_class.values())))},
    )
    rows = {name: {"ap": ap, "cost": 1.0, "cv_ap": ap} for name, ap in per_class.items()}
    (folder / "per_class.json").write_text(json.dumps(rows))
    return folder


SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 684 280"><defs><path id="tick" '
    'd="M 0 0 \nL 0 3.5 "/></defs><g id="axes_1"><path clip-path="url(#clip)" '
    'd="M 1.2345 2.0 \nL 2.5 2.0 \nL 3.5 2.0 \nL 4.75 1.0 "/></g><text>zero AP 12.5</text></svg>'
)


def write_detector(
    folder: Path,
    provenance: dict[str, Any],
    results: dict[str, float | None] | None = None,
    *,
    engine: str = "torchvision",
    classes: dict[str, float | None] | None = None,
    **content: Any,
) -> Path:
    """A detection run of schema 1 with all its files; ``yaml`` adds settings."""
    yaml = {"SOLVER.BASE_LR": 0.02, "SOLVER.MAX_ITER": 40, "SOLVER.IMS_PER_BATCH": 4}
    config = {"data": None, "seed": 0, "yaml": yaml | content.pop("yaml", {})}
    splits = {
        "train": {"name": "digits_voc_trainval", "images": 600, "fingerprint": "1" * 64},
        "test": {"name": "digits_voc_test", "images": 400, "fingerprint": "2" * 64},
    }
    defaults = {
        "engine": {"name": engine, "version": "0.29.2", "asked": "auto"},
        "data": splits,
        "metric": "VOC 11-point AP",
        "results": results or {"box_AP": 20.0, "box_AP50": 40.0, "box_AP75": 10.0},
        "card": "digits_voc_c4",
        "drawings": ["curves_box.svg", "detections.png"],
    }
    settings = config | content.pop("config", {})
    record = defaults | content
    write_record(folder, kind="detection", config=settings, network=provenance, **record)
    rows = [
        {"class": name, "objects": 9, "detections": 12, "AP": ap, "AP50": ap, "AP75": ap}
        for name, ap in (classes or {"zero": 12.5, "one": 50.0}).items()
    ]
    table = {"box": {"metric": "VOC 11-point AP", "classes": rows}}
    (folder / "per_class.json").write_text(json.dumps(table))
    losses = {"total_loss": 2.0, "loss_cls": 1.5, "loss_rpn_cls": 0.5, "learning_rate": 0.02}
    lines = [{"iteration": i, **losses} for i in (20, 40)]
    lines.append({"iteration": 40, "scores": defaults["results"]})
    (folder / "curve.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "curves_box.svg").write_text(SVG)
    Image.new("RGBA", (40, 30), (200, 10, 10, 255)).save(folder / "detections.png")
    return folder


def write_pretraining(folder: Path, *, epochs: int = 3, **content: Any) -> Path:
    """A pre-training run with its curve."""
    config = {"method": "msbreg", "arch": "resnet18-tiny", "data": "digits", "epochs": epochs}
    config |= {"batch_size": 32, "views": 2, "lambda_s": 0.004, "lambda_b": 0.5, "seed": 0}
    config |= {"diagnostics": {"least_std": 0.1, "least_rank": 2.0}}
    write_record(folder, kind="pretrain", config=config, **content)
    diagnostics = {"std": 0.8, "effective_rank": 40.0, "alignment": 1.0, "uniformity": -1.5}
    rows: list[dict[str, Any]] = [
        {"epoch": e, "step": 10 * e, "knn_top1": 20.0 + e, "spectrum": [0.5, 0.1, 0.01]}
        | diagnostics
        for e in range(epochs + 1)
    ]
    for row in rows[1:]:
        row |= {"total": 1.2, "centroid": 0.7, "singular_value": 122.0, "brownian": 0.01}
        row |= {"learning_rate": 0.1, "target_decay": 0.99}
    (folder / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_neighbors(folder: Path, images: Path) -> list[Path]:
    """One query with two neighbors, the second of another class; returns the three images."""
    images.mkdir(parents=True, exist_ok=True)
    paths = [images / f"{i}.png" for i in range(3)]
    draw = np.random.default_rng(0)
    for path in paths:
        Image.fromarray(draw.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(path)
    near = [
        {"path": str(paths[1]), "class": "seven", "similarity": 0.91},
        {"path": str(paths[2]), "class": "nine", "similarity": 0.72},
    ]
    rows = [{"path": str(paths[0]), "class": "seven", "neighbors": near}]
    (folder / "neighbors.json").write_text(json.dumps(rows))
    return paths


def write_hits(
    folder: Path,
    provenance: dict[str, Any],
    hits: np.ndarray,  # (N,) bool
    *,
    units: str = "the same images",
    per_class: dict[str, float | None] | None = None,
    fields: dict[str, Any] | None = None,
    **content: Any,
) -> Path:
    """A run with an accuracy and the outcomes it was computed from; ``fields`` changes the score."""
    value = 100.0 * float(hits.mean())
    saved = score(value, n=len(hits), per_class=per_class, **(fields or {}))
    write_scores(folder, provenance, saved, **content)
    save_outcomes(folder, [mean_outcomes(score_from_dict(saved), units, hits)])
    return folder
