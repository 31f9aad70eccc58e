"""Robustness of a classifier: a linear probe on frozen features, scored on other or corrupted pictures.

The probe is that of transfer/linear.py on ImageNet; nothing is trained here. For other data, such as the
embedded digits, ``corrupted:FOLDER`` corrupts the test images as they are read. ImageNet-A, -R, -V2, -Sketch
and ObjectNet are scored by top-1, with the logits restricted to the classes of the data before the argmax:
200 of 1,000 for ImageNet-A and -R. The score of corrupted images is the mean top-1 over corruptions and
severities.
"""

import dataclasses
import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from msbreg.data.transforms import TransformOptions
from msbreg.run.config import Card
from msbreg.run.errors import UserError
from msbreg.run.options import main, read_options
from transfer.frozen.frozen_config import FrozenConfig


@dataclass(frozen=True)
class Config(FrozenConfig):
    """Settings of a robustness evaluation: the images of DATA, classified by a linear probe."""

    script: ClassVar[str] = "transfer/robustness.py"
    not_protocol: ClassVar[frozenset[str]] = FrozenConfig.not_protocol | {"probe"}

    output: Path = Path("runs/robustness")
    """Folder for record.json and log.txt."""
    probe: Path = Path("runs/linear")
    """Output folder of transfer/linear.py on ImageNet, or its probe.pth."""
    split: str | None = None
    """Split of the data (null: the first one that is there; for corrupted images, all corruptions)."""
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Severities of the corruptions, 1 to 5."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.severities or not set(self.severities) <= {1, 2, 3, 4, 5}:
            raise UserError(
                f"severities is {list(self.severities)}; expected some of 1, 2, 3, 4, 5"
            )

    def check_inputs(self) -> None:
        """Check that the paths can be used.

        Raises:
            UserError: a path does not exist or cannot be used.
        """
        if not self.probe.expanduser().exists():
            raise UserError(
                f"probe {self.probe} does not exist; expected the output folder of a completed run of "
                "transfer/linear.py, or its probe.pth"
            )
        super().check_inputs()


if __name__ == "__main__":  # options, cards and paths are checked before PyTorch is imported
    OPTIONS = read_options(Config)

import numpy as np

from msbreg.data.classification.corrupted import CORRUPT
from msbreg.data.classification.imagenet_variants import (
    CORRUPTIONS,
    VARIANTS,
    objectnet_classes,
)
from msbreg.data.images import LabeledImages
from msbreg.data.sources import (
    EMBEDDED,
    SOURCES,
    data_name,
    data_root,
    open_source,
    recognized,
    split_layout,
)
from msbreg.run.job import Job, log
from transfer.frozen.evaluation import (
    Split,
    accuracy_scores,
    evaluate,
    image_facts,
    record_images,
    split_of,
)
from transfer.frozen.frozen_network import FrozenNetwork, frozen_network
from transfer.frozen.linear_probe import LinearProbe, load_probe
from transfer.scoring.classification import top_k_hits
from transfer.scoring.scores import DataId, Score
from transfer.verdicts.measured import measured, record_scores
from transfer.verdicts.outcome_kinds import group_outcomes, mean_outcomes
from transfer.verdicts.outcomes import Outcomes, digest_of_units

IMAGENET_CLASSES = 1000
# Layout -> the corruptions whose mean is its score.
CORRUPTED = {
    "imagenet-c": tuple(name for group in CORRUPTIONS.values() for name in group),
    "corrupted": tuple(CORRUPT),
}


def run(config: Config, card: Card = Card()) -> dict[str, Any]:  # noqa: B008 - frozen
    """Run the evaluation and return its results; accuracies are in percent."""
    config.check_inputs()
    probe, digest = load_probe(config.probe.expanduser())

    def protocol(config: Config, job: Job) -> dict[str, Any]:
        job.record.content["probe"] = {"sha256": digest, "classes": len(probe.classes)}
        return _run(config, job, probe)

    return evaluate("robustness", config, card, protocol, more_inputs={"probe": digest})


def _run(config: Config, job: Job, probe: LinearProbe) -> dict[str, Any]:
    assert config.data is not None
    data = config.data
    layout, root = variant_layout(data)
    job.record.content["selection"] = "nothing is selected: the probe is not trained on these data"
    usual = probe.transform
    if layout == "imagenet-c":  # its images are center crops already
        usual = dataclasses.replace(usual, resize=usual.crop)
    transform = TransformOptions(**vars(config.transform.over(usual)))
    representation = config.representation or probe.representation
    if representation != probe.representation:
        raise UserError(
            f"representation is {representation!r}, but the probe was trained on {probe.representation!r}; "
            "omit --representation"
        )
    config = dataclasses.replace(config, transform=transform, representation=representation)
    network = frozen_network(config, job)
    probe.check_network(network.provenance)
    if layout in CORRUPTED and config.split is None:
        return _corruptions(config, job, network, probe)
    split = config.split or _first_split(layout, root)
    tested, outputs = _outputs(config, network, probe, layout, root, split)
    record_images({split: image_facts(tested.images, data, split, layout)}, job)
    top1, *top5 = accuracy_scores(
        outputs, tested, name=_probe_name(layout), rules=_rules(layout, outputs.shape[1])
    )
    record_scores(job, (top1, *top5))
    log.info("top-1 on %s: %.2f %%", split, top1.value)
    results = {"top1": top1.value, "top1_stderr": top1.stderr}
    return results | ({"top5": top5[0].value} if top5 else {})


def variant_layout(data: str) -> tuple[str, Path]:
    """Layout and folder of LAYOUT:FOLDER, or of a folder that is recognized.

    Raises:
        UserError: it is none of the layouts in ``VARIANTS``, nor ``corrupted``.
    """
    layout, folder = split_layout(data)
    if folder in EMBEDDED:
        return "corrupted", data_root(folder, "folder")
    root = Path(folder).expanduser()
    layout = layout or recognized(root) or ""
    if layout not in (*VARIANTS, "corrupted"):
        raise UserError(
            f"data is {data!r}{f', which has the layout {layout}' if layout else ''}; this script reads only "
            f"the test sets of ImageNet classifiers, LAYOUT:FOLDER with one of {', '.join(VARIANTS)}; or "
            "corrupted:FOLDER, which corrupts the images in FOLDER/val"
        )
    return layout, root


def _probe_name(layout: str) -> str:
    return "ImageNet probe" if layout in VARIANTS else "linear probe"


def _first_split(layout: str, root: Path) -> str:
    return next(iter(SOURCES[layout].splits(root)), next(iter(VARIANTS[layout])))


def _rules(layout: str, classes: int) -> str:
    rules = f"logits of the {classes} classes of the data only"
    if layout == "objectnet":
        rules += "; an object has the largest logit of its classes in ImageNet"
    return rules


# ---- Classes of the data and of the probe


def columns_of_classes(
    images: LabeledImages, layout: str, root: Path, classes: tuple[str, ...]
) -> list[tuple[int, ...]]:
    """For each class of the data, the columns of the probe's logits.

    Args:
        classes: those of the probe: wnids.

    Raises:
        UserError: the probe lacks a class.
    """
    if layout in ("imagenet-v2", "objectnet"):
        if len(classes) != IMAGENET_CLASSES or classes != tuple(sorted(classes)):
            raise UserError(
                f"the probe has {len(classes)} classes, but {layout} names classes by their index among the "
                f"{IMAGENET_CLASSES} sorted wnids of ImageNet; expected a probe of ImageNet-1k"
            )
        if layout == "imagenet-v2":
            return [(int(name),) for name in images.classes]
        common = objectnet_classes(Path(images.where).parent / "mappings")
        return [common[name] for name in images.classes]
    column = {name: i for i, name in enumerate(classes)}
    if missing := [name for name in images.classes if name not in column]:
        raise UserError(
            f"{len(missing)} of the {len(images.classes)} classes of {root} are not among the {len(classes)} "
            f"of the probe, such as {missing[0]}; expected a probe of ImageNet, whose classes are wnids"
        )
    return [(column[name],) for name in images.classes]


def restricted(
    logits: np.ndarray,  # (N, C)
    columns: list[tuple[int, ...]],  # K
) -> np.ndarray:  # (N, K)
    """The logits of the classes of the data: the largest of each class's columns.

    >>> restricted(np.array([[9.0, 1.0, 2.0, 3.0]]), [(1,), (2, 3)])
    array([[1., 3.]])
    """
    return np.stack([logits[:, list(each)].max(axis=1) for each in columns], axis=1)


def _outputs(
    config: Config,
    network: FrozenNetwork,
    probe: LinearProbe,
    layout: str,
    root: Path,
    split: str,
) -> tuple[Split, np.ndarray]:  # (N, K)
    """The images of a split, and the logits of its classes."""
    assert config.data is not None
    images = open_source(f"{layout}:{root}", split)
    for note in images.notes:
        network.job.warn(f"{config.data}: {note}")
    columns = columns_of_classes(images, layout, root, probe.classes)
    features = network.features(images, split)
    if features.x.shape[1] != len(probe.weight):
        raise UserError(
            f"the features have {features.x.shape[1]} dimensions, but the probe {len(probe.weight)}"
        )
    tested = split_of(images, features, data_name(config.data), split)
    return tested, restricted(probe.logits(np.asarray(features.x)), columns)


# ---- Corrupted images


def _corruptions(
    config: Config, job: Job, network: FrozenNetwork, probe: LinearProbe
) -> dict[str, Any]:
    """Mean top-1 over corruptions and severities, and the mean of each corruption."""
    assert config.data is not None
    layout, root = variant_layout(config.data)
    accuracies: dict[str, list[float]] = {}
    hits: dict[str, np.ndarray] = {}
    units: list[str] = []
    digest = hashlib.sha256()
    data: dict[str, Any] = {}
    for corruption in CORRUPTED[layout]:
        for severity in config.severities:
            split = f"{corruption}/{severity}"
            tested, outputs = _outputs(config, network, probe, layout, root, split)
            hits[split] = top_k_hits(outputs, tested.labels, 1)
            units.append(tested.units)
            value = 100 * float(hits[split].mean())
            accuracies.setdefault(corruption, []).append(value)
            facts = image_facts(tested.images, config.data, split, layout)
            data[split] = facts | {"top1": value}
            digest.update(f"{split} {tested.images.fingerprint}\n".encode())
            log.info("top-1 on %s: %.2f %%", split, value)
    record_images(data, job)
    mean = float(np.mean(list(accuracies.values())))
    severities = ", ".join(map(str, config.severities))
    score = Score(
        name=f"{_probe_name(layout)} top-1",
        value=mean,
        data=DataId(data_name(config.data), "corrupted", digest.hexdigest()),
        rules=f"mean over {len(accuracies)} corruptions and the severities {severities}; images as they are",
        n=sum(map(len, hits.values())),
    )
    record_scores(
        job, [measured(score, _outcomes_of_corruptions(score, list(hits.values()), units))]
    )
    log.info("mean top-1: %.2f %%", mean)
    return {
        "top1": mean,
        "corruptions": {name: float(np.mean(values)) for name, values in accuracies.items()},
    }


def _outcomes_of_corruptions(
    score: Score,
    hits: list[np.ndarray],  # (N,) bool of each split
    units: list[str],
) -> Outcomes:
    """One unit is a photograph with all its corruptions, which are not independent of each other.

    If the splits have different images, each corrupted image is a unit.
    """
    if len(set(units)) == 1:
        return mean_outcomes(score, units[0], np.sum(hits, axis=0), trials=len(hits))
    groups = np.repeat(np.arange(len(hits)), [len(own) for own in hits])
    return group_outcomes(score, digest_of_units(units), np.concatenate(hits), groups, len(hits))


if __name__ == "__main__":
    main(run, *OPTIONS)
