"""The two splits of a data set with label maps, checked before anything is computed."""

import functools
import os
from pathlib import Path
from typing import Any

import numpy as np

from msbreg.checkpoints.load import file_sha256
from msbreg.data.folder import file_size
from msbreg.data.segmentation.label_maps import LabelMaps, survey
from msbreg.data.segmentation.map_sources import open_label_maps
from msbreg.run import distributed
from msbreg.run.errors import UserError
from msbreg.run.job import Job
from msbreg.run.progress import Progress
from transfer.frozen.evaluation import check_copies


def checked_splits(
    data: str,
    names: tuple[str, str],
    job: Job,
) -> tuple[LabelMaps, LabelMaps]:
    """The split to learn from and the one to score, both checked so that errors appear early.

    Images of the first split without a labeled pixel are left out, with a warning.

    Raises:
        UserError: a map is invalid, a split has no labels, or the splits have other classes or share images.
    """
    fitted, tested = (checked_split(data, name, job, fitted=name == names[0]) for name in names)
    if fitted.classes != tested.classes:
        raise UserError(
            f"{names[0]} has {len(fitted.classes)} classes and {names[1]} {len(tested.classes)}, or other "
            "names; expected the same, in the same order"
        )
    both = _files(fitted) & _files(tested)
    if both:
        raise UserError(
            f"{len(both)} images are in both splits, such as {min(both)}; expected disjoint splits"
        )
    check_copies(np.array(_copies(fitted, tested), np.int64), tested, job)
    return fitted, tested


def checked_split(data: str, split: str, job: Job, *, fitted: bool = False) -> LabelMaps:
    """A split whose label maps were all read once; what it contains goes into the record.

    Args:
        fitted: leave out images without a labeled pixel, with a warning.

    Raises:
        UserError: a map is invalid, or the split has no labels.
    """
    source = open_label_maps(data, split)

    def read() -> Any:
        with Progress(f"checking {split}", len(source), unit="images") as progress:
            return survey(source, progress=lambda done, _: progress.update(done))

    found = distributed.from_main(read)
    if len(found.void) and fitted:
        job.warn(f"{split}: {len(found.void)} images without a labeled pixel are not trained on")
        source = source.subset(np.setdiff1d(np.arange(len(source)), found.void))
    job.record.content.setdefault("data", {})[split] = {
        "images": len(source),
        "fingerprint": source.fingerprint,
        "classes": list(source.classes),
        "pixels": found.pixels.tolist(),
    }
    absent = [n for n, count in zip(source.classes, found.pixels, strict=True) if not count]
    if absent:
        job.warn(f"{split}: classes without a pixel: {', '.join(absent)}")
    return source


def _copies(fitted: LabelMaps, tested: LabelMaps) -> list[int]:
    """The images of the second split whose files have the content of one of the first.

    Only files of equal size are read.
    """
    by_size: dict[int, list[Path]] = {}
    for i in range(len(fitted)):
        by_size.setdefault(file_size(Path(fitted.name(i))), []).append(Path(fitted.name(i)))
    digest = functools.cache(file_sha256)
    return [
        i
        for i, path in enumerate(Path(tested.name(i)) for i in range(len(tested)))
        if digest(path) in map(digest, by_size.get(file_size(path), ()))
    ]


def _files(source: LabelMaps) -> set[str]:
    """The image files, with links resolved."""
    return {os.path.realpath(source.name(i)) for i in range(len(source))}
