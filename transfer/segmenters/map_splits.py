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
    """The split to learn from and the one to score; what they contain goes into the record.

    Every label map is read once, so that errors appear early. Images of the first split without a labeled
    pixel are left out, with a warning.

    Raises:
        UserError: a map is invalid, a split has no labels, or the splits have other classes or share images.
    """
    splits = {}
    for split in names:
        source = open_label_maps(data, split)

        def read(source: LabelMaps = source, split: str = split) -> Any:
            with Progress(f"checking {split}", len(source), unit="images") as progress:
                return survey(source, progress=lambda done, _: progress.update(done))

        found = distributed.from_main(read)
        if len(found.void) and split == names[0]:
            job.warn(
                f"{split}: {len(found.void)} images without a labeled pixel are not trained on"
            )
            source = source.subset(np.setdiff1d(np.arange(len(source)), found.void))
        splits[split] = source
        job.record.content.setdefault("data", {})[split] = {
            "images": len(source),
            "fingerprint": source.fingerprint,
            "classes": list(source.classes),
            "pixels": found.pixels.tolist(),
        }
        absent = [n for n, count in zip(source.classes, found.pixels, strict=True) if not count]
        if absent:
            job.warn(f"{split}: classes without a pixel: {', '.join(absent)}")
    fitted, tested = splits.values()
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


def _files(source: LabelMaps) -> set[str]:
    """The image files, with links resolved."""
    return {os.path.realpath(source.name(i)) for i in range(len(source))}
