"""Runs whose report has every section."""

from pathlib import Path

import numpy as np

from msbreg.checkpoints.convert.convert import TARGETS, convert
from tests.msbreg.checkpoints.convert.realistic_networks import moved, provenance
from tests.transfer.report.published_scores import write_published
from tests.transfer.report.records import (
    network,
    score,
    write_detector,
    write_hits,
    write_knn,
    write_neighbors,
    write_pretraining,
    write_record,
    write_scores,
    write_svm,
)

SECTIONS = (
    *("summary", "overview", "verdicts", "scores", "leaderboard", "classes", "epochs", "papers"),
    *("pretraining", "neighbors", "predictions", "conversion", "problems", "provenance"),
)


def write_runs(tmp_path: Path) -> Path:
    """Two pre-trained networks, a random one, two protocols, one run unfinished."""
    folder = tmp_path / "runs"
    write_pretraining(folder / "pretrain", warnings=["epoch 2: the embeddings are collapsing"])
    for seed in range(2):
        run = write_knn(folder / f"knn-{seed}", 60.0 + seed, network(seed))
        write_neighbors(run, tmp_path / "images")
        write_svm(folder / f"svm-{seed}", network(seed), {"cat": 50.0, "dog": 70.0})
    write_detector(folder / "detector", network(0))
    write_knn(folder / "knn-random", 30.0, network(random=True), config={"folds": 5})
    write_record(
        folder / "late", kind="linear", config={}, status="failed", error="disk | full\nat 3"
    )
    return folder


def write_full(tmp_path: Path) -> Path:
    """These, and runs with outcomes, classes, epochs, published scores and a converted backbone."""
    folder = write_runs(tmp_path)
    write_published(folder / "published")
    for name, share in (("first", 0.6), ("second", 0.55), ("random", 0.2)):
        random = name == "random"
        evaluated = network(random=random, name=name, arch="resnet18", sha256=name)
        classes = {"cat": 100 * share, "dog": 100 * share - 5, "a rather long name of a class": 7.0}
        hits = np.arange(200) < round(200 * share)
        write_hits(folder / "hits" / name, evaluated, hits, per_class=classes)
    for epoch in (1, 2, 3):
        details = {"method": "byol", "seed": 0, "epoch": epoch}
        source = f"runs/byol/epochs/epoch-{epoch}.pth"
        evaluated = network(name="byol", sha256=f"byol-{epoch}", source=source, details=details)
        write_scores(folder / "epochs" / str(epoch), evaluated, score(40.0 + epoch))
    (folder / "converted").mkdir()
    convert(moved(), provenance(), folder / "converted" / "d2.pkl", TARGETS["detectron2"])
    return folder
