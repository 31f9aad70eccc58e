"""VOC07 linear SVM classification with frozen features.

One-vs-rest LIBLINEAR classifiers on L2-normalized global average pools, the cost of each class chosen
by 3-fold cross-validation on trainval, mean average precision on test (Goyal et al., arXiv 1905.01235;
VISSL's list of costs).
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from msbreg.run.config import Card
from msbreg.run.errors import UserError
from msbreg.run.options import main, read_options
from transfer.frozen.frozen_config import FrozenConfig


@dataclass(frozen=True)
class Config(FrozenConfig):
    """One SVM evaluation on a VOC-layout folder: fitted on trainval, scored on test."""

    script: ClassVar[str] = "transfer/svm.py"

    output: Path = Path("runs/svm")
    """Folder for record.json, log.txt and per_class.json."""
    c_grid: Literal["vissl", "goyal", "obow"] = "vissl"
    """The list of costs that cross-validation chooses from."""
    costs: tuple[float, ...] | None = None
    """A list of costs of your own instead."""
    folds: int = 3
    """Of the cross-validation on the training images."""
    difficult_train: Literal["negative", "exclude"] = "negative"
    """Images that show a class as difficult objects only, when fitting."""
    difficult_test: Literal["exclude", "negative"] = "exclude"
    """The same, when scoring."""
    train_split: str = "trainval"
    """Name in ImageSets/Main."""
    test_split: str = "test"
    """Name in ImageSets/Main."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.folds < 2:
            raise UserError(f"folds is {self.folds}; expected at least 2")
        if self.costs is not None and (not self.costs or min(self.costs) <= 0):
            raise UserError(f"costs is {list(self.costs)}; expected numbers above 0")
        if self.train_split == self.test_split:
            raise UserError(
                f"train_split and test_split are both {self.train_split!r}; expected two splits"
            )


if __name__ == "__main__":  # options, cards and paths are checked before PyTorch is imported
    OPTIONS = read_options(Config)

import numpy as np

from msbreg.data.folder import list_fingerprint
from msbreg.data.sources import face
from msbreg.data.voc import ImageLabels, image_labels
from msbreg.run.files import write_atomically
from msbreg.run.job import Job, log
from msbreg.run.progress import Progress
from transfer.frozen.evaluation import evaluate, load_network, resolve_transform
from transfer.frozen.features import extract
from transfer.frozen.svm_solver import C_GRIDS, class_average_precisions, decision, fit_svm


def run(config: Config, card: Card = Card()) -> dict[str, Any]:  # noqa: B008 - frozen
    """Evaluate; returns the results that the record holds, mAP in percent."""
    return evaluate("svm", config, card, _run)


def _run(config: Config, running: Job) -> dict[str, Any]:
    # ---- Images with their labels, and their features.
    backbone, provenance = load_network(config, running)
    transform = resolve_transform(config, provenance, running)
    root = face(config.data, "voc")
    splits = {name: image_labels(root, name) for name in (config.train_split, config.test_split)}
    train, test = splits.values()
    _check(train, test)
    fingerprints = {name: list_fingerprint(split.paths) for name, split in splits.items()}
    features = {
        name: extract(
            backbone,
            provenance,
            split.paths,
            transform=transform,
            job=running,
            cache=config.cache,
            label=name,
            threads=config.workers,
        ).x
        for name, split in splits.items()
    }
    running.record.content["data"] = {
        name: {"images": len(split.paths), "fingerprint": fingerprints[name]}
        for name, split in splits.items()
    }
    running.record.content["selection"] = (
        f"cost of each class by {config.folds}-fold cross-validation on {config.train_split}"
    )

    # ---- One classifier a class, fitted on the training split alone.
    costs = list(config.costs or C_GRIDS[config.c_grid])
    with Progress("classifiers", len(train.classes), unit="classes") as progress:
        model = fit_svm(
            features[config.train_split],
            train.labels,
            costs=costs,
            folds=config.folds,
            difficult_train=config.difficult_train,
            seed=config.seed,
            jobs=config.workers,
            progress=lambda done, _: progress.update(done),
        )
    if model.unconverged:
        log.info(
            "%d fits stopped at their iteration limit, as LIBLINEAR does at large costs",
            model.unconverged,
        )

    # ---- Average precision on the test split.
    decisions = decision(model, features[config.test_split])
    per_class = class_average_precisions(decisions, test.labels, config.difficult_test)
    mean = float(per_class.mean())
    rows = {
        name: {"ap": float(ap), "cost": float(cost), "cv_ap": float(100 * scores.max())}
        for name, ap, cost, scores in zip(
            train.classes, per_class, model.costs, model.cv_scores, strict=True
        )
    }
    write_atomically(running.output / "per_class.json", json.dumps(rows, indent=1).encode())
    results = {"map": mean, "unconverged_fits": int(model.unconverged)}
    log.info("mAP: %.2f %%", mean)
    return results


def _check(train: ImageLabels, test: ImageLabels) -> None:
    if train.classes != test.classes:
        raise UserError(
            f"the training split has the classes {', '.join(train.classes)}, "
            f"the test split {', '.join(test.classes)}; expected the same"
        )
    shared = set(train.paths) & set(test.paths)
    if shared:
        raise UserError(
            f"{len(shared)} images are in both splits, {sorted(shared)[0].name} among them; "
            "a test image must not be trained on"
        )
    empty = [
        c for c, column in zip(test.classes, test.labels.T, strict=True) if not np.any(column == 1)
    ]
    if empty:
        raise UserError(
            f"the test split shows no {', '.join(empty)}: its average precision is undefined"
        )


if __name__ == "__main__":
    main(run, *OPTIONS)
