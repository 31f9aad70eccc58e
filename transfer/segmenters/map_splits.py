"""The two splits of a data set with label maps, checked before anything is computed."""

import os
from typing import Any

import numpy as np

from msbreg.data.segmentation.label_maps import LabelMaps, survey
from msbreg.data.segmentation.map_sources import open_label_maps
from msbreg.run import distributed
from msbreg.run.errors import UserError
from msbreg.run.job import Job
from msbreg.run.progress import Progress


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


def _files(source: LabelMaps) -> set[str]:
    """The image files, with links resolved."""
    return {os.path.realpath(source.name(i)) for i in range(len(source))}
