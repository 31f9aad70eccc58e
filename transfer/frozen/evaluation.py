"""What the protocols on classified images share: their runs, the labeled features, scores and checks."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from msbreg.checkpoints.load import file_sha256
from msbreg.data.images import LabeledImages
from msbreg.data.sources import data_name, open_source, published_images
from msbreg.run import distributed
from msbreg.run.config import Card
from msbreg.run.errors import RunFailed, UserError
from msbreg.run.job import AlreadyFinished, Job, log, start_job
from transfer.frozen.feature_cache import Features, export
from transfer.frozen.feature_store import Rows
from transfer.frozen.frozen_config import (
    FrozenConfig,
    LabeledConfig,
    NetworkConfig,
    SplitConfig,
)
from transfer.frozen.frozen_network import frozen_network
from transfer.scoring.classification import (
    class_accuracies,
    mean_class_accuracy,
    standard_error,
    top_k_hits,
)
from transfer.scoring.scores import DataId, Score
from transfer.verdicts.measured import Measured, measured
from transfer.verdicts.outcome_kinds import group_outcomes, mean_outcomes
from transfer.verdicts.outcomes import digest_of_units

C = TypeVar("C", bound=NetworkConfig)

MOST_COPIES = 0.01
"""Largest share of test images that may also be training images.

Public data sets have a few exact duplicates across splits (CIFAR-10 and ImageNet among them), and
published scores include them; a larger share means that the splits were mixed up.
"""


@dataclass(frozen=True)
class Labeled:
    """The images of one split with their labels.

    Attributes:
        images: N images with labels.
        data: identity of the split, for scores.
    """

    images: LabeledImages
    data: DataId

    @functools.cached_property
    def units(self) -> str:
        """Identity of the images in their order, by which networks are compared image by image."""
        return units_of(self.images)

    @property
    def labels(self) -> np.ndarray:
        """(N,) class indices, or (N, C) for several classes per image: 1, -1, 0 (only difficult objects)."""
        return np.asarray(self.images.labels)


@dataclass(frozen=True)
class Split(Labeled):
    """One split with its features.

    Attributes:
        x: (N, D) float32 features, memory-mapped; ``np.asarray`` loads all of them.
    """

    x: Rows


def evaluate(
    kind: str,
    config: C,
    card: Card,
    protocol: Callable[[C, Job], dict[str, Any]],
    *,
    resume_file: str | None = None,
    more_inputs: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Run a protocol as a job. With ``finished = skip``, a completed run is not repeated.

    Args:
        resume_file: name of the file in the output folder that an unfinished run continues from.
        more_inputs: digests of the protocol's own input files, by their names.
    """
    given = config.data is not None
    if not given:
        config = dataclasses.replace(config, data="digits")
    try:
        with start_job(
            config,
            card,
            kind=kind,
            inputs=inputs(config) | dict(more_inputs or {}),
            resume_file=resume_file,
        ) as current:
            log.info("%s of %s on %s", kind, config.checkpoint, config.data)
            default = NetworkConfig.checkpoint
            if not given and config.checkpoint not in ("random", default):
                current.warn(
                    f"no --data was given: {config.checkpoint} is evaluated on the EMBEDDED DIGITS, not "
                    "on data of your own. Use --data FOLDER, or --data digits to silence this warning"
                )
            current.results = protocol(config, current)
            return current.results
    except AlreadyFinished as finished:
        log.info("%s already contains this completed run; skipping", finished)
        return {}


def inputs(config: NetworkConfig) -> dict[str, str]:
    """SHA-256 digests of the checkpoint files; a completed run is recognized by them."""
    named = {"checkpoint": config.checkpoint}
    if config.twin_of is not None:
        named["twin_of"] = str(config.twin_of)
    files = {name: Path(value).expanduser() for name, value in named.items()}
    return {
        name: file_sha256(file) if named[name] != "random" and file.is_file() else named[name]
        for name, file in files.items()
    }


def best_of(scores: Mapping[str, float | None]) -> str:
    """The candidate with the highest score on held-out images, the first of equal ones; None: it diverged.

    Raises:
        RunFailed: all diverged.
    """
    finite = {name: score for name, score in scores.items() if score is not None}
    if not finite:
        raise RunFailed(
            f"all diverged: {'; '.join(scores)}.\nGive lower learning rates and a new --output."
        )
    return max(finite, key=lambda name: finite[name])


# ---- The images and their features


def labeled_images(
    config: SplitConfig,
    job: Job,
    *,
    more: Sequence[str] = (),
    several_labels: bool = False,
) -> dict[str, LabeledImages]:
    """The images of each split by its name: the training split first, the test split last.

    Args:
        more: names of further splits, between the two.
        several_labels: whether the protocol takes images with several labels.

    Raises:
        UserError: the images cannot be read, the splits have different classes, or they share images.
    """
    assert config.data is not None
    names = (config.train_split, *more, config.val_split)
    lists = {name: open_source(config.data, name) for name in names}
    labels = lists[config.train_split].labels
    if labels is not None and labels.ndim == 2 and not several_labels:
        raise UserError(
            f"{config.data} has several labels per image, and this protocol takes one; use transfer/svm.py "
            "or transfer/logistic.py"
        )
    for name in names[1:]:
        _check_classes(lists, (config.train_split, name), config)
    for images in lists.values():
        if note := images.ignored_files():
            job.warn(note)
    check_images(lists, job, config.data)
    return lists


def check_images(
    lists: dict[str, LabeledImages], job: Job, data: str, *, layout: str = "folder"
) -> None:
    """Check that no file is in two splits, and record the images of each and their notes.

    Args:
        data, layout: as in ``open_source``.

    Raises:
        UserError: the splits share files.
    """
    for images in lists.values():
        for note in images.notes:
            job.warn(f"{data}: {note}")
    for pair in itertools.combinations(lists.items(), 2):
        _check_files(*pair)
    record_images(
        {split: image_facts(images, data, split, layout) for split, images in lists.items()}, job
    )


def image_facts(images: LabeledImages, data: str, split: str, layout: str) -> dict[str, Any]:
    """What a record says about the images of a split; ``published_images`` only if their number differs."""
    facts = {"images": len(images), "fingerprint": images.fingerprint}
    published = published_images(data, split, images, layout=layout)
    return facts if published in (None, len(images)) else facts | {"published_images": published}


def record_images(facts: dict[str, dict[str, Any]], job: Job) -> None:
    """Record ``image_facts`` of each split; warn if they are not those of the published data set."""
    job.record.content["data"] = facts
    different = [
        f"{split}: published count {of['published_images']:,}, found {of['images']:,}"
        for split, of in facts.items()
        if "published_images" in of
    ]
    if different:
        more = f"; and {len(different) - 3} more splits" if len(different) > 3 else ""
        job.warn(
            f"NOT THE PUBLISHED DATA SET: {'; '.join(different[:3])}{more}. Scores are not comparable with "
            "published ones; tools/verify_data.py lists the differences"
        )


def labeled_splits(config: LabeledConfig, job: Job) -> tuple[Split, Split]:
    """Features of the training and the test images of an ImageFolder tree.

    Raises:
        UserError: the network or the images cannot be read, the splits have different classes, or
            they share images.
    """
    assert config.data is not None
    lists = labeled_images(config, job)
    train, test = split_features(config, job, lists, name=data_name(config.data))
    return train, test


def split_features(
    config: FrozenConfig, job: Job, lists: dict[str, LabeledImages], *, name: str
) -> tuple[Split, ...]:
    """Features of the splits that ``check_images`` accepted, in the same order.

    Args:
        lists: name of the split -> images with labels; the training split comes first, the test split last.
        name: name of the data in tables.

    Raises:
        UserError: the network or an image cannot be read, or the splits share images.
    """
    network = frozen_network(config, job)
    features = {split: network.features(images, split) for split, images in lists.items()}
    *fitted, test_name = lists
    known = np.concatenate([features[split].contents for split in fitted])
    copies = np.flatnonzero(np.isin(features[test_name].contents, known))
    check_copies(copies, lists[test_name], job)
    if config.features_out is not None and distributed.is_main():
        export(
            config.features_out.expanduser(),
            {split: (images, features[split].x) for split, images in lists.items()},
        )
    return tuple(split_of(images, features[split], name, split) for split, images in lists.items())


def split_of(images: LabeledImages, features: Features, name: str, split: str) -> Split:
    """A split with its features; ``name`` is that of the data in tables."""
    return Split(images, DataId(name, split, images.fingerprint), features.x)


# ---- Scores


def units_of(images: LabeledImages) -> str:
    """The digest of the images' names within their data set, in order."""
    return digest_of_units(images.entry(i) for i in range(len(images)))


def accuracy_scores(
    outputs: np.ndarray,  # (N, C)
    split: Labeled,
    *,
    name: str,
    rules: str,
) -> list[Measured]:
    """``NAME top-1`` and, for more than 5 classes, ``NAME top-5``, with binomial standard errors."""
    by_class = class_accuracies(outputs, split.labels)
    scores = []
    for k in (1, 5) if outputs.shape[1] > 5 else (1,):
        hits = top_k_hits(outputs, split.labels, k)
        value = 100 * float(hits.mean())
        score = Score(
            name=f"{name} top-{k}",
            value=value,
            data=split.data,
            rules=rules,
            n=len(split.labels),
            stderr=standard_error(value, len(split.labels)),
            per_class=dict(zip(split.images.classes, by_class.tolist(), strict=True))
            if k == 1
            else None,
        )
        scores.append(measured(score, mean_outcomes(score, split.units, hits)))
    return scores


def mean_class_score(
    outputs: np.ndarray,  # (N, C)
    split: Labeled,
    *,
    name: str,
    rules: str,
) -> Measured:
    """``NAME mean per class``, as reported for data sets with unequal classes."""
    value, stderr = mean_class_accuracy(outputs, split.labels)
    by_class = class_accuracies(outputs, split.labels)
    score = Score(
        name=f"{name} mean per class",
        value=value,
        data=split.data,
        rules=f"top-1 accuracy of each class, averaged over classes; {rules}",
        n=len(split.labels),
        stderr=stderr,
        per_class=dict(zip(split.images.classes, by_class.tolist(), strict=True)),
    )
    hits = top_k_hits(outputs, split.labels, 1)
    return measured(score, group_outcomes(score, split.units, hits, split.labels, len(by_class)))


# ---- Checks


def _check_classes(
    lists: dict[str, LabeledImages], pair: tuple[str, str], config: SplitConfig
) -> None:
    """Check that two splits have the same classes, at least two."""
    (first, second), (train, test) = pair, (lists[name] for name in pair)
    names = f"{first} and {second}"
    if train.classes != test.classes:
        parts = []
        for here, there, split in (
            (train, test, second),
            (test, train, first),
        ):
            missing = [name for name in here.classes if name not in there.classes]
            if missing:
                shown = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
                parts.append(f"{split} has no {shown}")
        if not parts:
            pairs = zip(train.classes, test.classes, strict=True)
            label, (one, other) = next((i, p) for i, p in enumerate(pairs) if p[0] != p[1])
            parts.append(f"label {label} is {one} in {first} and {other} in {second}")
        hint = ""
        beside = Path(test.where).parent / "test"
        if beside.is_dir() and second == config.val_split != "test":
            hint = f"\n{beside} exists: did you mean --val-split test?"
        raise UserError(
            f"{config.data}: {names} have different classes: {'; '.join(parts)}.\n"
            f"Expected the same classes in the same order in both.{hint}"
        )
    if not train.classes:
        raise UserError(
            f"{config.data}: the images of {names} have no labels; classification needs at least two classes"
        )
    if len(train.classes) < 2:
        raise UserError(
            f"{config.data} has the single class {train.classes[0]!r}; classification needs at least "
            "two class folders in each split"
        )


def _check_files(first: tuple[str, LabeledImages], second: tuple[str, LabeledImages]) -> None:
    """Check that no file is in both splits, also by a link or another path."""
    (train_name, train), (test_name, test) = first, second
    known = {_file_id(train.name(i)) for i in range(len(train))}
    shared = [test.name(i) for i in range(len(test)) if _file_id(test.name(i)) in known]
    if shared:
        raise UserError(
            f"{len(shared)} of the {len(test)} images of {test_name} are also in {train_name}, for example "
            f"{shared[0]}; a test image must not be trained on. Use splits without common files"
        )


def _file_id(path: str) -> object:
    """An identifier of the file that a path leads to, with links resolved."""
    try:
        state = os.stat(path)
    except OSError:  # reading the image reports it
        return path
    return state.st_dev, state.st_ino


def check_copies(copies: np.ndarray, test: LabeledImages, job: Job) -> None:
    """Check that at most a few test images are copies of training images.

    Args:
        copies: their indices.

    Raises:
        UserError: they are more than MOST_COPIES of all.
    """
    if not len(copies):
        return
    found = (
        f"copies of training images among the {len(test)} test images: {len(copies)}, for example "
        f"{test.name(int(copies[0]))}"
    )
    if len(copies) > MOST_COPIES * len(test):
        raise UserError(
            f"{found}; a test image must not be trained on. Use splits without common images"
        )
    job.warn(found)
