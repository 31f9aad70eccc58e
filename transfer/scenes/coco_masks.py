"""Masks as a COCO file spells them: polygons, run lengths, compressed run lengths, each checked."""

from typing import Any

import numpy as np

from msbreg.errors import UserError
from transfer.scenes.masks import check_runs
from transfer.scenes.types import Polygons, RunLengths


def read_polygons(rings: list[Any], height: int, width: int) -> Polygons:
    """The rings as floats.

    Corners may lie outside the image, where drawing cuts them off, but not farther than it is long:
    pycocotools walks along every edge, and ends the process at coordinates of 2^30 / 5.

    Raises:
        UserError: a ring is no list of numbers, has fewer than 6, an odd count, or ones out of reach.
    """
    read = []
    reach = max(height, width)
    for number, ring in enumerate(rings, 1):
        try:
            values = np.asarray(ring)
        except ValueError:  # lists of unequal length inside
            values = np.asarray(None)
        if values.ndim != 1 or (len(values) and values.dtype.kind not in "iuf"):
            raise UserError(f"polygon {number} is not a list of numbers x, y, x, y, ...")
        if len(values) < 6 or len(values) % 2:
            raise UserError(
                f"polygon {number} has {len(values)} numbers; "
                "expected an even count of 6 or more: x, y of each corner"
            )
        low, high = values.min(), values.max()
        if not (low >= -reach and high <= 2 * reach):  # nor if one is no number
            raise UserError(
                f"polygon {number} has numbers from {low:g} to {high:g}; expected pixels of an image "
                f"of {width} x {height} (width x height)"
            )
        read.append(tuple(values.astype(np.float64).tolist()))
    return tuple(read)


def read_run_lengths(given: dict[str, Any], height: int, width: int) -> RunLengths:
    """``{"size": [height, width], "counts": ...}`` as it is: compressed if it is a string.

    Raises:
        UserError: the size is not that of the image, or the counts are malformed or do not fill it.
    """
    size, counts = given.get("size"), given.get("counts")
    if size != [height, width]:
        raise UserError(
            f"run lengths have size {size}; expected that of the image, [{height}, {width}]"
        )
    mask = {"size": [height, width], "counts": counts}
    if isinstance(counts, str):
        check_runs([mask], height, width)
    elif not isinstance(counts, list) or any(type(run) is not int or run < 0 for run in counts):
        raise UserError("run lengths have no counts; expected a list of whole numbers or a string")
    elif sum(counts) != height * width:
        raise UserError(
            f"run lengths cover {sum(counts)} pixels; "
            f"expected all {height * width} of an image of size [{height}, {width}]"
        )
    return mask
