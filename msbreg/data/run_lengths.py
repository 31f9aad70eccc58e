"""Masks as COCO run-length encodings (RLE); the only module that uses pycocotools' codec.

A compressed mask is ``{"size": [height, width], "counts": str}``. The counts are alternating runs of zeros
and ones in column-major order, starting with zeros. From the fourth run on, each is stored as its difference
from the run two before. Values are split into groups of five bits, lowest first; each group is a character
with code 48 + bits, plus 32 if more groups follow.

pycocotools does not validate its input: counts that do not add up to the size make it access invalid memory
and abort or return noise. Call ``check_runs`` first for masks from external sources.
"""

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as codec

from msbreg.data.annotated_images import quote
from msbreg.data.scenes import Polygons, RunLengths
from msbreg.run.errors import UserError

_FIRST, _MORE, _SIGN, _VALUE = 48, 32, 16, 31


def encode(
    masks: np.ndarray,  # (N, H, W) bool
) -> tuple[RunLengths, ...]:
    """Encode each mask as compressed run lengths; returns an empty tuple for no masks.

    >>> square = np.zeros((1, 4, 4), bool)
    >>> square[0, 1:3, 1:3] = True
    >>> (mask,) = encode(square)
    >>> int(decode(mask).sum())
    4
    """
    if not len(masks):
        return ()
    # pycocotools expects (H, W, N) in Fortran order.
    columns = np.ascontiguousarray(masks.transpose(0, 2, 1)).view(np.uint8).transpose(2, 1, 0)
    return tuple(_as_text(run_lengths) for run_lengths in codec.encode(columns))


def decode(
    mask: RunLengths,  # compressed
) -> np.ndarray:  # (H, W) bool
    """Decode a mask to pixels.

    Implemented in NumPy, because pycocotools' ``decode`` warns on NumPy >= 2 (its arrays do not support
    ``copy``) and returns noise where the runs do not cover the mask.

    Raises:
        UserError: the runs do not add up to the size.
    """
    height, width = mask["size"]
    check_runs([mask], height, width)
    runs, _ = _runs([mask])
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def area(masks: Sequence[RunLengths]) -> np.ndarray:  # (N,) int64
    """The number of pixels of each compressed mask."""
    return np.asarray(codec.area(list(masks)), dtype=np.int64).reshape(len(masks))


def boxes_around(masks: Sequence[RunLengths]) -> np.ndarray:  # (N, 4) float64 XYXY
    """The smallest box around each compressed mask; all zeros for an empty mask."""
    boxes = np.asarray(codec.toBbox(list(masks)), dtype=np.float64).reshape(len(masks), 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def polygons_to_rle(polygons: Polygons, height: int, width: int) -> RunLengths:
    """Rasterize the union of the rings like COCO's tools; returns compressed run lengths.

    Raises:
        UserError: there is no ring, or a ring has fewer than three points or an odd number of coordinates.
            (pycocotools would interpret four numbers as a box.)
    """
    wrong = [ring for ring in polygons if len(ring) < 6 or len(ring) % 2]
    if wrong or not polygons:
        given = f"a ring of {len(wrong[0])} numbers" if wrong else "no ring"
        raise UserError(
            f"a polygon has {given}; expected rings x0, y0, x1, y1, ... of three points or more.\n"
            "Remove such rings, and the masks of objects without any other ring."
        )
    rings = codec.frPyObjects([list(ring) for ring in polygons], height, width)
    return _as_text(codec.merge(rings))


def empty(height: int, width: int) -> RunLengths:
    """A mask without any pixels."""
    return _as_text(
        codec.frPyObjects({"size": [height, width], "counts": [height * width]}, height, width)
    )


def union(masks: Sequence[RunLengths]) -> RunLengths:
    """The pixels of any of the compressed masks, which have one size; there is at least one mask."""
    return _as_text(codec.merge(list(masks)))


def to_rle(mask: Polygons | RunLengths, height: int, width: int) -> RunLengths:
    """Convert polygons, run lengths or compressed run lengths to compressed run lengths.

    Raises:
        UserError: the run lengths have another size than (height, width) or do not add up to it, or a polygon
            is invalid (see ``polygons_to_rle``).
    """
    return all_to_rle([mask], height, width)[0]


def all_to_rle(masks: Sequence[Polygons | RunLengths], height: int, width: int) -> list[RunLengths]:
    """Convert all masks of one image like ``to_rle``. They are checked together, which is faster.

    A polygon mask without rings is an empty mask.
    """
    check_runs([m for m in masks if isinstance(m, dict) and not _listed(m)], height, width)
    out = []
    for mask in masks:
        if not isinstance(mask, dict):
            drawn = polygons_to_rle(mask, height, width) if mask else empty(height, width)
            out.append(drawn)
            continue
        if _listed(mask):
            if list(mask["size"]) != [height, width] or sum(mask["counts"]) != height * width:
                raise UserError(_misfit(mask["size"], sum(mask["counts"]), height, width))
            mask = codec.frPyObjects(mask, height, width)
        out.append(_as_text(mask))
    return out


def check_runs(masks: Sequence[RunLengths], height: int, width: int) -> None:
    """Check that each compressed mask has this size and that its runs add up to it.

    Raises:
        UserError: a mask does not.
    """
    if not masks:
        return
    for mask in masks:
        if list(mask["size"]) != [height, width]:
            raise UserError(_misfit(mask["size"], None, height, width))
    runs, starts = _runs(masks)
    pixels = np.add.reduceat(runs, starts)
    if (runs < 0).any() or (pixels != height * width).any():
        worst = int(pixels[np.argmax(pixels != height * width)])
        raise UserError(_misfit([height, width], worst, height, width))


def _runs(
    masks: Sequence[RunLengths],
) -> tuple[np.ndarray, np.ndarray]:  # (R,) int64, (N,) where each mask's runs start
    """Decode the runs of N masks at once."""
    texts = [characters(mask) for mask in masks]
    codes = np.frombuffer(b"".join(texts), np.uint8).astype(np.int64) - _FIRST
    lengths = np.array([len(text) for text in texts])
    last = (codes & _MORE) == 0
    ends = np.cumsum(lengths)
    if not lengths.all() or not last[ends - 1].all() or codes.min() < 0 or codes.max() > 63:
        raise UserError(
            "the counts of a mask are not valid COCO run lengths; expected the output of "
            "pycocotools.mask.encode."
        )
    first = np.append(0, np.flatnonzero(last)[:-1] + 1)  # index of the first character of each run
    place = np.arange(len(codes)) - np.repeat(first, np.diff(np.append(first, len(codes))))
    if place.max() > 6:  # 2^35 pixels or more; smaller runs cannot overflow 64-bit sums
        raise UserError("the counts of a mask contain a run of more than 2^34 pixels")
    runs = np.add.reduceat((codes & _VALUE) << (5 * place), first)
    negative = (codes[last] & _SIGN) != 0
    runs -= np.where(negative, 1 << (5 * (place[last] + 1)), 0)
    starts = np.searchsorted(first, ends - lengths)
    return _undo_differences(runs, starts), starts


def _undo_differences(
    runs: np.ndarray,  # (R,)
    starts: np.ndarray,  # (N,)
) -> np.ndarray:  # (R,)
    """Cumulatively sum the differences, separately for runs of zeros and ones, within each mask."""
    place = np.arange(len(runs)) - np.repeat(starts, np.diff(np.append(starts, len(runs))))
    out = runs.copy()
    for parity in (0, 1):
        chosen = np.flatnonzero((place % 2 == parity) & (place > 0))
        sums = np.cumsum(runs[chosen])
        opens = place[chosen] <= 2  # the first of its mask: earlier sums belong to other masks
        before = np.where(opens, sums - runs[chosen], 0)
        group = np.cumsum(opens) - 1
        out[chosen] = sums - before[opens][group]
    return out


def _listed(mask: RunLengths) -> bool:
    return isinstance(mask["counts"], list)


def characters(mask: RunLengths) -> bytes:
    """The counts of a compressed mask as bytes; pycocotools uses bytes, JSON uses strings."""
    counts = mask["counts"]
    # Lone surrogates, which JSON allows, become bytes that are invalid in run lengths.
    return counts if isinstance(counts, bytes) else counts.encode("utf-8", "surrogatepass")


def _as_text(mask: RunLengths) -> RunLengths:
    counts = mask["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    height, width = mask["size"]
    return {"size": [int(height), int(width)], "counts": text}


def _misfit(size: Sequence[int], pixels: int | None, height: int, width: int) -> str:
    runs = "" if pixels is None else f" with runs of {quote(pixels)} pixels in total"
    return (
        f"a mask of size {quote(size)}{runs}; expected [{height}, {width}] and {height * width} pixels, "
        "the size of its image."
    )
