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
    added: ClassVar[dict[str, Any]] = FrozenConfig.added | {
        "solver": "liblinear",
        "low_shot": (),
        "draws": 5,
    }

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
    solver: Literal["liblinear", "newton"] = "liblinear"
    """How the classifiers are fitted: LIBLINEAR, one by one, or Newton's method, all together."""
    low_shot: tuple[int, ...] = ()
    """Numbers of positive images per class: fit on random draws of so few images, not on the whole split.
    Each class also draws as many negative images for every other class. Takes one cost."""
    draws: int = 5
    """Number of random draws for each number in ``low_shot``."""
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
        if self.low_shot and (min(self.low_shot) < 1 or self.draws < 1):
            raise UserError(
                f"low_shot is {list(self.low_shot)} and draws {self.draws}; expected numbers of at least 1"
            )
        if self.low_shot and (self.costs is None or len(self.costs) != 1):
            raise UserError(
                f"low_shot is {list(self.low_shot)}, but costs is {self.costs and list(self.costs)}; "
                "expected one cost, such as --costs '[0.5]': so few images do not allow cross-validation"
            )
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
from transfer.frozen.svm_low_shot import low_shot_average_precisions
from transfer.frozen.svm_solver import (
    C_GRIDS,
    class_average_precisions,
    decision,
    fit_svm,
    unusable_classes,
)
from transfer.scoring.scores import Score
from transfer.verdicts.measured import measured, record_scores, with_stderr
from transfer.verdicts.outcome_kinds import ranking_outcomes
from transfer.verdicts.outcomes import Outcomes


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
    check_images(lists, job, config.data, layout="voc")
    lists = {name: _of_classes(images, chosen) for name, images in lists.items()}
    train, test = split_features(config, job, lists, name=data_name(config.data))
    protocol = _low_shot if config.low_shot else _whole_split
    return distributed.from_main(lambda: protocol(config, job, train, test, chosen))


def _whole_split(
    config: Config, job: Job, train: Split, test: Split, classes: tuple[str, ...]
) -> dict[str, Any]:
    """Choose each class's cost by cross-validation, and fit on the whole training split."""
    job.record.content["selection"] = (
        f"cost of each class by {config.folds}-fold cross-validation on {config.train_split}"
    )

    # ---- Fit one classifier per class on the training split.
    costs = list(config.costs or C_GRIDS[config.c_grid])
    with Progress("classifiers", len(classes), unit="classes") as progress:
        model = fit_svm(
            np.asarray(train.x),
            train.labels,
            costs=costs,
            folds=config.folds,
            difficult_train=config.difficult_train,
            seed=config.seed,
            jobs=config.workers,
            solver=config.solver,
            device=str(job.device),
            progress=lambda done, _: progress.update(done),
        )
    if model.unconverged:
        log.info("%d fits did not converge, which is common for large costs", model.unconverged)

    # ---- Average precision on the test split.
    decisions = decision(model, np.asarray(test.x))
    per_class = class_average_precisions(decisions, test.labels, config.difficult_test)
    mean = float(per_class.mean())
    rows = {
        name: {"ap": float(ap), "cost": float(cost), "cv_ap": float(100 * scores.max())}
        for name, ap, cost, scores in zip(
            classes, per_class, model.costs, model.cv_scores, strict=True
        )
    }
    write_atomically(job.output / "per_class.json", json.dumps(rows, indent=1).encode())
    score = Score(
        name="SVM mAP",
        value=mean,
        data=test.data,
        rules=_rules(config),
        n=len(test.labels),
        per_class={name: row["ap"] for name, row in rows.items()},
    )
    found = with_stderr(measured(score, _outcomes(score, test, decisions, config)))
    record_scores(job, [found])
    spread = "unknown" if found.stderr is None else f"{found.stderr:.2f}"
    log.info("mAP: %.2f +- %s %% (bootstrap over test images)", mean, spread)
    results = {"map": mean, "unconverged_fits": int(model.unconverged)}
    return results if model.largest_gap is None else results | {"largest_gap": model.largest_gap}


def _low_shot(
    config: Config, job: Job, train: Split, test: Split, classes: tuple[str, ...]
) -> dict[str, Any]:
    """Mean and spread over random draws of a few positive images per class, at a fixed cost."""
    assert config.costs is not None
    job.record.content["selection"] = "nothing is selected"
    results: dict[str, Any] = {}
    scores, by_draw = [], {}
    for shots in config.low_shot:
        found, decisions, unconverged = low_shot_average_precisions(
            (np.asarray(train.x), train.labels),
            (np.asarray(test.x), test.labels),
            shots=shots,
            draws=config.draws,
            cost=config.costs[0],
            difficult=(config.difficult_train, config.difficult_test),
            seed=config.seed,
            solver=config.solver,
            jobs=config.workers,
            device=str(job.device),
        )
        means = found.mean(axis=1)  # (R,)
        spread = float(means.std(ddof=1)) if len(means) > 1 else None
        by_draw[shots] = [dict(zip(classes, row, strict=True)) for row in found.tolist()]
        score = Score(
            name=f"{shots}-shot SVM mAP",
            value=float(means.mean()),
            data=test.data,
            rules=f"mean over {config.draws} draws; {_rules(config)}",
            n=len(test.labels),
            per_class=dict(zip(classes, found.mean(axis=0).tolist(), strict=True)),
        )
        scores.append(measured(score, _outcomes(score, test, decisions, config)))
        results[f"{shots}_shot"] = {
            "map": score.value,
            "std": spread,
            "unconverged_fits": unconverged,
        }
        log.info(
            "%d-shot mAP: %.2f %%, std %.2f over %d draws",
            *(shots, score.value, spread or 0, config.draws),
        )
    write_atomically(job.output / "low_shot.json", json.dumps(by_draw, indent=1).encode())
    record_scores(job, scores)
    return results


def _outcomes(
    score: Score,
    test: Split,
    decisions: np.ndarray,  # (N, C), or (N, R C) of R draws
    config: Config,
) -> Outcomes:
    labels = test.labels
    if config.difficult_test == "negative":
        labels = np.where(labels == 0, -1, labels)
    labels = np.tile(labels, decisions.shape[1] // labels.shape[1])
    return ranking_outcomes(score, test.units, decisions, labels, curve="area")


def _rules(config: Config) -> str:
    treated = {"exclude": "excluded", "negative": "negatives"}[config.difficult_test]
    return (
        "mean over classes of the interpolated AP; images with difficult objects only are "
        + treated
    )


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
    at_least, why = config.folds, "one for each fold"
    if config.low_shot:
        at_least, why = max(config.low_shot), "the largest number in low_shot"
    reasons = unusable_classes(
        train.labels, test.labels, wanted, at_least, config.difficult_train, why=why
    )
    usable = tuple(name for name in wanted if name not in reasons)
    listed = "\n".join(f"  {name}: {reason}" for name, reason in reasons.items())
    if reasons and (config.unusable_classes == "error" or not usable):
        remedy = (
            f"Choose others with --classes '[{', '.join(usable)}]', or skip them with "
            "--unusable-classes skip; the mean is then over the remaining classes."
            if usable
            else "Give splits with more images, fewer --folds, or smaller numbers in --low-shot."
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
