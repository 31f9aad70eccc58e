"""Logistic regression on frozen features by L-BFGS, the protocol of the fine-grained data sets.

A softmax over the classes with an L2 penalty, on cached features without augmentation. The strength of the
penalty is chosen on a validation split, or on held-out training images; the classifier is then fitted again
on all of them (SimCLR, arXiv 2002.05709, B.8.1; BYOL, arXiv 2006.07733, D.2). Images with several labels have
one binary regression per class, and the score is VOC07's 11-point mAP.

With ``few_shot``, the classifier is fitted on k images per class instead, over several random draws.
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
from transfer.frozen.frozen_config import LabeledConfig


@dataclass(frozen=True)
class Config(LabeledConfig):
    """Settings of a logistic regression: fitted on DATA/train, scored on DATA/val."""

    script: ClassVar[str] = "transfer/logistic.py"

    output: Path = Path("runs/logistic")
    """Folder for record.json, log.txt and path.json."""
    regularizations: tuple[float, ...] | None = None
    """Factors of the penalty to choose from, 1 / C of scikit-learn (null: the published 45 values, 1e-6 to
    1e5)."""
    selection_split: str | None = None
    """Split that the penalty is chosen on (null: held-out training images)."""
    held_out: float = 0.2
    """Fraction of the training images held out to choose the penalty, without ``selection_split``."""
    metric: Literal["top1", "mean_per_class"] = "top1"
    """Accuracy that the penalty is chosen by. Several labels per image: always the 11-point mAP."""
    normalize: Literal["none", "l2"] = "none"
    """none: features as they are. l2: features of unit length."""
    few_shot: tuple[int, ...] = ()
    """Numbers of training images per class: fit on random draws of so few images, not on the whole split."""
    draws: int = 5
    """Number of random draws for each number in ``few_shot``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.regularizations
        if given is not None and (not given or min(given) <= 0):
            raise UserError(
                f"regularizations is {list(given)}; expected one or more numbers above 0"
            )
        if not 0 < self.held_out < 1:
            raise UserError(f"held_out is {self.held_out}; expected a fraction between 0 and 1")
        if self.selection_split in (self.train_split, self.val_split):
            raise UserError(
                f"selection_split is {self.selection_split!r}, which is also used to fit or to score; "
                "expected another split, or null to hold out training images"
            )
        if self.few_shot and (min(self.few_shot) < 1 or self.draws < 2):
            raise UserError(
                f"few_shot is {list(self.few_shot)} and draws {self.draws}; expected numbers of at least 1, "
                "and at least 2 draws for an interval"
            )
        if self.few_shot and self.selection_split is None and (given is None or len(given) > 1):
            raise UserError(
                f"few_shot is {list(self.few_shot)}, and there are several regularizations but nothing to "
                "choose one on; expected a fixed one, such as --regularizations '[1.0]', or "
                "--selection-split"
            )


if __name__ == "__main__":  # options, cards and paths are checked before PyTorch is imported
    OPTIONS = read_options(Config)

import numpy as np
import scipy.stats
import torch

from msbreg.data.sources import data_name
from msbreg.run import distributed
from msbreg.run.files import write_atomically
from msbreg.run.job import Job, log
from msbreg.run.progress import Progress
from transfer.frozen.evaluation import (
    Split,
    accuracy_scores,
    evaluate,
    labeled_images,
    mean_class_score,
    split_features,
)
from transfer.frozen.heads import held_out_split
from transfer.frozen.logistic_regression import (
    Fit,
    choose_regularization,
    fit_path,
    published_regularizations,
)
from transfer.scoring.classification import (
    class_accuracies,
    eleven_point_average_precision,
    top_k_accuracy,
    top_k_hits,
)
from transfer.scoring.scores import Score
from transfer.verdicts.measured import Measured, measured, record_scores
from transfer.verdicts.outcome_kinds import mean_outcomes, ranking_outcomes


def run(config: Config, card: Card = Card()) -> dict[str, Any]:  # noqa: B008 - frozen
    """Run the evaluation and return its results; accuracies and mAP are in percent."""
    return evaluate("logistic", config, card, _run)


def _run(config: Config, job: Job) -> dict[str, Any]:
    """Extract the features of all splits; the rest is done by the main process."""
    assert config.data is not None
    more = () if config.selection_split is None else (config.selection_split,)
    lists = labeled_images(config, job, more=more, several_labels=True)
    first = next(iter(lists.values()))
    if config.few_shot and first.labels is not None and first.labels.ndim == 2:
        raise UserError(
            f"{config.data} has several labels per image, and few_shot draws images by their only label; "
            "expected other data, or transfer/svm.py --low-shot"
        )
    splits = split_features(config, job, lists, name=data_name(config.data))
    protocol = _few_shot if config.few_shot else _whole_split
    return distributed.from_main(lambda: protocol(config, job, splits))


# ---- The whole training split


Labeled = tuple[np.ndarray, np.ndarray]  # features (N, D); labels (N,) or (N, C)


def _whole_split(config: Config, job: Job, splits: tuple[Split, ...]) -> dict[str, Any]:
    """Choose the penalty, fit on all images but those of the test split, and score."""
    train, test = splits[0], splits[-1]
    x, labels = _features(train, config), train.labels
    more = (_features(splits[1], config), splits[1].labels) if len(splits) == 3 else None
    regularizations = config.regularizations or published_regularizations()
    start: Fit | None = None
    measures: dict[float, float] = {}
    unconverged = 0
    if len(regularizations) > 1:
        fitted, selection = ((x, labels), more) if more else _held_out(x, labels, config)
        start, measures, unconverged = _choose(config, job, fitted, selection, train.images.classes)
    chosen = start.regularization if start is not None else regularizations[0]

    # ---- Fit again on all images, and score once.
    if more:
        x, labels = np.concatenate([x, more[0]]), np.concatenate([labels, more[1]])
    job.record.content["selection"] = _selection(config, len(regularizations), len(labels))
    classes = len(train.images.classes)
    (fit,) = fit_path(x, labels, [chosen], classes=classes, start=start, device=job.device)
    unconverged += not fit.converged
    if unconverged:
        job.warn(f"{unconverged} of {len(measures) + 1} fits did not converge")
    scores = _scores(fit.decision(_features(test, config)), test, _rules(config))
    record_scores(job, list(scores.values()))
    for score in scores.values():
        log.info("%s: %.2f %% with regularization %g", score.name, score.value, chosen)
    return {name: score.value for name, score in scores.items()} | {
        "regularization": chosen,
        "selection_value": measures.get(chosen),
        "gradient": fit.gradient,
        "iterations": fit.iterations,
        "unconverged_fits": unconverged,
    }


def _choose(
    config: Config, job: Job, fitted: Labeled, selection: Labeled, classes: tuple[str, ...]
) -> tuple[Fit, dict[float, float], int]:
    """Fit all penalties and choose one; see ``choose_regularization``. Writes path.json."""
    regularizations = config.regularizations or published_regularizations()
    with Progress("regularizations", len(regularizations), unit="fits") as progress:
        best, measures, unconverged = choose_regularization(
            *fitted,
            regularizations,
            lambda fit: _measure(fit, *selection, config),
            classes=len(classes),
            device=job.device,
            progress=progress.update,
        )
    rows = [{"regularization": k, "selection": v} for k, v in measures.items()]
    write_atomically(job.output / "path.json", json.dumps(rows, indent=1).encode())
    chosen = best.regularization
    if len(measures) > 2 and chosen in (min(measures), max(measures)):
        job.warn(f"the chosen regularization {chosen:g} is at the end of the list; extend the list")
    return best, measures, unconverged


def _selection(config: Config, regularizations: int, images: int) -> str:
    """How the penalty was chosen, for the record."""
    if regularizations == 1:
        return "nothing is selected: one regularization was given"
    where = config.selection_split or f"{config.held_out:.0%} of the training images, held out"
    return f"regularization on {where}; then fitted on all {images} images but the test split"


def _held_out(x: np.ndarray, labels: np.ndarray, config: Config) -> tuple[Labeled, Labeled]:
    """The images to fit on, and those to choose the penalty on."""
    # Images with several labels have no class to stratify by.
    groups = labels if labels.ndim == 1 else np.zeros(len(labels), np.int64)
    kept, held = held_out_split(torch.from_numpy(groups), config.held_out, config.seed)
    first, second = ((x[part], labels[part]) for part in (kept.numpy(), held.numpy()))
    return first, second


def _features(split: Split, config: Config) -> np.ndarray:  # (N, D) float32
    x = np.asarray(split.x)
    if config.normalize == "l2":
        x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return x


def _measure(fit: Fit, x: np.ndarray, labels: np.ndarray, config: Config) -> float:
    """The metric that the penalty is chosen by, in percent."""
    outputs = fit.decision(x)
    if labels.ndim == 2:
        # Held-out images may show none of a class, whose AP is then undefined.
        shown = np.flatnonzero((labels == 1).any(0))
        return float(
            np.mean([eleven_point_average_precision(outputs[:, c], labels[:, c]) for c in shown])
        )
    if config.metric == "mean_per_class":
        return float(np.nanmean(class_accuracies(outputs, labels)))
    return top_k_accuracy(outputs, labels, 1)


def _rules(config: Config) -> str:
    features = "" if config.normalize == "none" else "L2-normalized "
    return f"logistic regression by L-BFGS on {features}frozen features"


def _scores(outputs: np.ndarray, test: Split, rules: str) -> dict[str, Measured]:
    """Name in the results -> score: top-1, top-5 and the mean over classes, or the 11-point mAP."""
    if test.labels.ndim == 2:
        return {"map": _mean_average_precision(outputs, test, rules)}
    top1, *top5 = accuracy_scores(outputs, test, name="logistic", rules=rules)
    mean = mean_class_score(outputs, test, name="logistic", rules=rules)
    return {"top1": top1, **({"top5": top5[0]} if top5 else {}), "mean_per_class": mean}


def _mean_average_precision(outputs: np.ndarray, test: Split, rules: str) -> Measured:
    classes = test.images.classes
    if absent := [n for n, row in zip(classes, test.labels.T, strict=True) if not (row == 1).any()]:
        raise UserError(
            f"no image of {test.data.split} shows {', '.join(absent)}, so the average precision is "
            "undefined; expected at least one image of each class"
        )
    precisions = {
        name: eleven_point_average_precision(outputs[:, c], test.labels[:, c])
        for c, name in enumerate(classes)
    }
    score = Score(
        name="logistic mAP",
        value=float(np.mean(list(precisions.values()))),
        data=test.data,
        rules=f"VOC 11-point, images with difficult objects only are negatives; {rules}",
        n=len(test.labels),
        per_class=precisions,
    )
    labels = np.where(test.labels == 1, 1, -1)
    return measured(
        score, ranking_outcomes(score, test.units, outputs, labels, curve="11-point in integers")
    )


# ---- A few images per class


def _few_shot(config: Config, job: Job, splits: tuple[Split, ...]) -> dict[str, Any]:
    """Mean over random draws of k training images per class, with a 95 % confidence interval."""
    test = splits[-1]
    several = len(config.regularizations or published_regularizations()) > 1
    job.record.content["selection"] = (
        f"regularization of each draw on {config.selection_split}; not fitted on that split"
        if several
        else "nothing is selected: one regularization was given"
    )
    results: dict[str, Any] = {}
    scores, by_draw = [], {}
    for shots in config.few_shot:
        draws, hits = _draws(config, job, splits, shots)
        by_draw[shots] = draws
        value, stderr, half = mean_and_interval(np.array([draw["top1"] for draw in draws]))
        score = Score(
            name=f"{shots}-shot logistic top-1",
            value=value,
            data=test.data,
            rules=f"mean over {config.draws} draws of {shots} images per class; {_rules(config)}",
            n=len(test.labels),
            stderr=stderr,
        )
        outcomes = mean_outcomes(score, test.units, hits, trials=config.draws)
        scores.append(measured(score, outcomes))
        unconverged = sum(draw["unconverged_fits"] for draw in draws)
        results[f"{shots}_shot"] = {
            "top1": value,
            "interval": half,
            "unconverged_fits": unconverged,
        }
        if unconverged:
            job.warn(f"{shots} images per class: {unconverged} fits did not converge")
        log.info(
            "%d-shot top-1: %.2f +- %.2f %% (95 %% interval over %d draws)",
            *(shots, value, half, config.draws),
        )
    write_atomically(job.output / "few_shot.json", json.dumps(by_draw, indent=1).encode())
    record_scores(job, scores)
    return results


def _draws(
    config: Config, job: Job, splits: tuple[Split, ...], shots: int
) -> tuple[list[dict[str, float]], np.ndarray]:
    """Top-1 on the test split, the penalty, and the number of unconverged fits, of each draw.

    Also the number of draws in which each test image is classified correctly, (N,).
    """
    train, test = splits[0], splits[-1]
    x, queries = _features(train, config), _features(test, config)
    selection = (_features(splits[1], config), splits[1].labels) if len(splits) == 3 else None

    def measure(fit: Fit) -> float:
        return 0.0 if selection is None else _measure(fit, *selection, config)

    draws: list[dict[str, float]] = []
    correct = np.zeros(len(test.labels), np.int64)
    with Progress(f"{shots}-shot draws", config.draws, unit="draws") as progress:
        for number in range(config.draws):
            # A function of seed, shots and number: more draws keep the first ones.
            generator = np.random.default_rng((config.seed, shots, number))
            drawn = draw_images(train.labels, shots, generator, train.images.classes)
            fit, _, unconverged = choose_regularization(
                x[drawn],
                train.labels[drawn],
                config.regularizations or published_regularizations(),
                measure,
                classes=len(train.images.classes),
                device=job.device,
            )
            hits = top_k_hits(fit.decision(queries), test.labels, 1)
            correct += hits
            draws.append(
                {
                    "top1": 100 * float(hits.mean()),
                    "regularization": fit.regularization,
                    "unconverged_fits": unconverged,
                }
            )
            progress.update(number + 1)
    return draws, correct


def draw_images(
    labels: np.ndarray,  # (N,)
    shots: int,
    generator: np.random.Generator,
    classes: tuple[str, ...],
) -> np.ndarray:  # (C * shots,) ascending
    """Draw ``shots`` images of each class without replacement.

    Raises:
        UserError: a class has fewer images.
    """
    counts = np.bincount(labels, minlength=len(classes))
    if counts.min() < shots:
        fewest = int(counts.argmin())
        raise UserError(
            f"class {classes[fewest]} has {counts[fewest]} training images; expected at least {shots}. "
            "Give smaller numbers in --few-shot"
        )
    members = [np.flatnonzero(labels == label) for label in range(len(classes))]
    return np.sort(np.concatenate([generator.choice(m, shots, replace=False) for m in members]))


def mean_and_interval(
    values: np.ndarray,  # (R,), R >= 2
) -> tuple[float, float, float]:
    """Mean, standard error, and half the width of the 95 % interval of Student's t with R - 1 degrees.

    The interval covers the choice of the training images, not that of the test images.

    >>> mean, stderr, half = mean_and_interval(np.array([50.0, 52.0, 54.0]))
    >>> mean, round(stderr, 3), round(half, 3)
    (52.0, 1.155, 4.968)
    """
    stderr = float(values.std(ddof=1) / np.sqrt(len(values)))
    quantile = float(scipy.stats.t.ppf(0.975, len(values) - 1))
    return float(values.mean()), stderr, quantile * stderr


if __name__ == "__main__":
    main(run, *OPTIONS)
