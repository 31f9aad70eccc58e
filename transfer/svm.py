"""VOC07 linear SVM classification with frozen features.

One-vs-rest LIBLINEAR classifiers on L2-normalized global average pools. The cost C of each class is
chosen by 3-fold cross-validation on trainval; the score is the mean average precision on test (Goyal et
al., arXiv 1905.01235; the grid of costs is VISSL's).
"""

import dataclasses
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
    """Settings of an SVM evaluation on a folder in VOC layout: fitted on trainval, scored on test."""

    script: ClassVar[str] = "transfer/svm.py"

    output: Path = Path("runs/svm")
    """Folder for record.json, log.txt and per_class.json."""
    c_grid: Literal["vissl", "goyal", "obow"] = "vissl"
    """The published grid of costs that cross-validation chooses from."""
    costs: tuple[float, ...] | None = None
    """Costs to choose from instead of a published grid."""
    folds: int = 3
    """Number of folds of the cross-validation on the training images."""
    difficult_train: Literal["negative", "exclude"] = "negative"
    """How fitting treats images in which all objects of a class are marked difficult."""
    difficult_test: Literal["exclude", "negative"] = "exclude"
    """How scoring treats these images."""
    train_split: str = "trainval"
    """Training split: a name in ImageSets/Main."""
    test_split: str = "test"
    """Test split: a name in ImageSets/Main."""
    classes: tuple[str, ...] | None = None
    """Evaluate only these classes (null: every CLASS_SPLIT.txt in ImageSets/Main)."""
    unusable_classes: Literal["error", "skip"] = "error"
    """What to do with classes that have too few images to be fitted or scored; ``skip`` evaluates the
    others, with a warning in the record."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.folds < 2:
            raise UserError(f"folds is {self.folds}; expected at least 2")
        if self.costs is not None and (not self.costs or min(self.costs) <= 0):
            raise UserError(f"costs is {list(self.costs)}; expected numbers above 0")
        if self.classes is not None and (
            not self.classes or len(set(self.classes)) < len(self.classes)
        ):
            raise UserError(f"classes is {list(self.classes)}; expected distinct names")
        if self.train_split == self.test_split:
            raise UserError(
                f"train_split and test_split are both {self.train_split!r}; expected two splits"
            )


if __name__ == "__main__":  # options, cards and paths are checked before PyTorch is imported
    OPTIONS = read_options(Config)

import numpy as np

from msbreg.data.images import LabeledImages
from msbreg.data.sources import data_name, open_source
from msbreg.run import distributed
from msbreg.run.files import write_atomically
from msbreg.run.job import Job, log
from msbreg.run.progress import Progress
from transfer.frozen.evaluation import Split, check_images, evaluate, split_features
from transfer.frozen.svm_solver import (
    C_GRIDS,
    bootstrap_stderr,
    class_average_precisions,
    decision,
    fit_svm,
    unusable_classes,
)
from transfer.scoring.scores import Score


def run(config: Config, card: Card = Card()) -> dict[str, Any]:  # noqa: B008 - frozen
    """Run the evaluation and return its results; mAP is in percent."""
    return evaluate("svm", config, card, _run)


def _run(config: Config, job: Job) -> dict[str, Any]:
    # ---- Read the labels and extract the features; the rest is done by the main process.
    assert config.data is not None
    lists = {
        name: open_source(config.data, name, layout="voc")
        for name in (config.train_split, config.test_split)
    }
    chosen = _usable_classes(config, job, *lists.values())
    lists = {name: _of_classes(images, chosen) for name, images in lists.items()}
    check_images(lists, job)
    train, test = split_features(config, job, lists, name=data_name(config.data))
    return distributed.from_main(lambda: _fit_and_score(config, job, chosen, train, test))


def _fit_and_score(
    config: Config, job: Job, chosen: tuple[str, ...], train: Split, test: Split
) -> dict[str, Any]:
    job.record.content["selection"] = (
        f"cost of each class by {config.folds}-fold cross-validation on {config.train_split}"
    )

    # ---- Fit one classifier per class on the training split.
    costs = list(config.costs or C_GRIDS[config.c_grid])
    with Progress("classifiers", len(chosen), unit="classes") as progress:
        model = fit_svm(
            np.asarray(train.x),
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
            "%d fits reached the iteration limit, which is common for large costs",
            model.unconverged,
        )

    # ---- Average precision on the test split.
    decisions = decision(model, np.asarray(test.x))
    per_class = class_average_precisions(decisions, test.labels, config.difficult_test)
    mean = float(per_class.mean())
    rows = {
        name: {"ap": float(ap), "cost": float(cost), "cv_ap": float(100 * scores.max())}
        for name, ap, cost, scores in zip(
            chosen, per_class, model.costs, model.cv_scores, strict=True
        )
    }
    write_atomically(job.output / "per_class.json", json.dumps(rows, indent=1).encode())
    generator = np.random.default_rng(config.seed)
    score = Score(
        name="SVM mAP",
        value=mean,
        data=test.data,
        rules="mean over classes of the interpolated AP; images with difficult objects only are "
        + {"exclude": "excluded", "negative": "negatives"}[config.difficult_test],
        n=len(test.labels),
        stderr=bootstrap_stderr(decisions, test.labels, config.difficult_test, generator),
        per_class={name: row["ap"] for name, row in rows.items()},
    )
    job.record.content["scores"] = [score.as_dict()]
    log.info("mAP: %.2f +- %.2f %% (bootstrap over test images)", mean, score.stderr)
    return {"map": mean, "unconverged_fits": int(model.unconverged)}


def _usable_classes(
    config: Config, job: Job, train: LabeledImages, test: LabeledImages
) -> tuple[str, ...]:
    """The requested classes; unusable ones raise an error or are skipped, as the config says."""
    splits = f"{config.train_split} and {config.test_split}"
    if train.classes != test.classes:
        only = {
            config.train_split: sorted(set(train.classes) - set(test.classes)),
            config.test_split: sorted(set(test.classes) - set(train.classes)),
        }
        parts = [f"only {split} has {', '.join(names)}" for split, names in only.items() if names]
        raise UserError(f"{splits} have different classes: {'; '.join(parts)}; expected the same")
    wanted = config.classes or train.classes
    unknown = [name for name in wanted if name not in train.classes]
    if unknown:
        raise UserError(
            f"classes lists {', '.join(unknown)}, for which {splits} have no files; "
            f"expected some of: {', '.join(train.classes)}"
        )
    train, test = _of_classes(train, wanted), _of_classes(test, wanted)
    assert train.labels is not None
    assert test.labels is not None
    reasons = unusable_classes(
        train.labels, test.labels, wanted, config.folds, config.difficult_train
    )
    usable = tuple(name for name in wanted if name not in reasons)
    listed = "\n".join(f"  {name}: {reason}" for name, reason in reasons.items())
    if reasons and (config.unusable_classes == "error" or not usable):
        remedy = (
            f"Choose others with --classes '[{', '.join(usable)}]', or skip them with "
            "--unusable-classes skip; the mean is then over the remaining classes."
            if usable
            else "Give splits with more images, or fewer --folds."
        )
        raise UserError(
            f"{len(reasons)} of {len(wanted)} classes cannot be evaluated:\n{listed}\n{remedy}"
        )
    if reasons:
        job.warn(f"skipped {len(reasons)} of {len(wanted)} classes:\n{listed}")
        job.record.content["skipped_classes"] = reasons
    return usable


def _of_classes(images: LabeledImages, classes: tuple[str, ...]) -> LabeledImages:
    """The same images with the labels of these classes only."""
    assert images.labels is not None
    columns = [images.classes.index(name) for name in classes]
    return dataclasses.replace(images, classes=classes, labels=images.labels[:, columns])


if __name__ == "__main__":
    main(run, *OPTIONS)
