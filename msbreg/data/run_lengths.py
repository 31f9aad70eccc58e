"""Masks as COCO's run lengths: the one place that touches pycocotools' codec.

A compressed mask is ``{"size": [height, width], "counts": str}``: runs of zeros and ones in turn,
column by column, zeros first, each run from the fourth on as its difference to the one before the
last, in groups of five bits, lowest first, as characters from 48 on with 32 for "more follow".
pycocotools believes whatever it is given: counts that do not add up to the size read or write
memory that is not theirs (the process aborts, or the mask is noise). ``check_runs`` comes first for
anything from outside.
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
    """Give each mask as compressed run lengths; of no masks, an empty tuple.

    >>> square = np.zeros((1, 4, 4), bool)
    >>> square[0, 1:3, 1:3] = True
    >>> (mask,) = encode(square)
    >>> int(decode(mask).sum())
    4
    """
    if not len(masks):
        return ()
    # pycocotools wants (H, W, N) with H running fastest in memory.
    columns = np.ascontiguousarray(masks.transpose(0, 2, 1)).view(np.uint8).transpose(2, 1, 0)
    return tuple(_as_text(run_lengths) for run_lengths in codec.encode(columns))


def decode(
    mask: RunLengths,  # compressed
) -> np.ndarray:  # (H, W) bool
    """Give the mask as pixels.

    In NumPy, not by pycocotools' decode: that one warns on NumPy >= 2 (its arrays know no ``copy``)
    and fills what its runs leave over with noise.

    Raises:
        UserError: the runs do not add up to the size.
    """
    height, width = mask["size"]
    check_runs([mask], height, width)
    runs, _ = _runs([mask])
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def area(masks: Sequence[RunLengths]) -> np.ndarray:  # (N,) int64
    """Count the pixels of each compressed mask."""
    return np.asarray(codec.area(list(masks)), dtype=np.int64).reshape(len(masks))


def boxes_around(masks: Sequence[RunLengths]) -> np.ndarray:  # (N, 4) float64 XYXY
    """Give the smallest box around each compressed mask; zeros for an empty one."""
    boxes = np.asarray(codec.toBbox(list(masks)), dtype=np.float64).reshape(len(masks), 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def polygons_to_rle(polygons: Polygons, height: int, width: int) -> RunLengths:
    """Draw the union of the rings as COCO's tools do, as compressed run lengths.

    Raises:
        UserError: a ring has fewer than three points or half a point (pycocotools would take one of
            four numbers for a box), or there is no ring.
    """
    wrong = [ring for ring in polygons if len(ring) < 6 or len(ring) % 2]
    if wrong or not polygons:
        given = f"a ring of {len(wrong[0])} numbers" if wrong else "no ring"
        raise UserError(
            f"a polygon has {given}; expected rings x0, y0, x1, y1, ... of three points or more.\n"
            "Drop such rings, and the mask of an object that has no other."
        )
    rings = codec.frPyObjects([list(ring) for ring in polygons], height, width)
    return _as_text(codec.merge(rings))


def empty(height: int, width: int) -> RunLengths:
    """Give the mask without a pixel."""
    return _as_text(
        codec.frPyObjects({"size": [height, width], "counts": [height * width]}, height, width)
    )


def to_rle(mask: Polygons | RunLengths, height: int, width: int) -> RunLengths:
    """Give a mask of an annotation, in any of its three forms, as compressed run lengths.

    Raises:
        UserError: run lengths of another size than height x width, or that do not fill it; or as
            ``polygons_to_rle``.
    """
    return all_to_rle([mask], height, width)[0]


def all_to_rle(masks: Sequence[Polygons | RunLengths], height: int, width: int) -> list[RunLengths]:
    """Give the masks of one image as ``to_rle`` does, checked together: one by one is slow.

    A mask of no ring at all is empty.
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
    """Raise UserError unless each compressed mask has this size and runs that fill it."""
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
    """Take apart the characters of N masks, all at once."""
    texts = [characters(mask) for mask in masks]
    codes = np.frombuffer(b"".join(texts), np.uint8).astype(np.int64) - _FIRST
    lengths = np.array([len(text) for text in texts])
    last = (codes & _MORE) == 0
    ends = np.cumsum(lengths)
    if not lengths.all() or not last[ends - 1].all() or codes.min() < 0 or codes.max() > 63:
        raise UserError(
            "the counts of a mask are not COCO's compressed run lengths; expected what "
            "pycocotools.mask.encode writes."
        )
    first = np.append(0, np.flatnonzero(last)[:-1] + 1)  # character of each run
    place = np.arange(len(codes)) - np.repeat(first, np.diff(np.append(first, len(codes))))
    if place.max() > 6:  # 2^35 pixels and more; below, sums of runs stay within 64 bits
        raise UserError("the counts of a mask hold a run of more than 2^34 pixels")
    runs = np.add.reduceat((codes & _VALUE) << (5 * place), first)
    negative = (codes[last] & _SIGN) != 0
    runs -= np.where(negative, 1 << (5 * (place[last] + 1)), 0)
    starts = np.searchsorted(first, ends - lengths)
    return _undo_differences(runs, starts), starts


def _undo_differences(
    runs: np.ndarray,  # (R,)
    starts: np.ndarray,  # (N,)
) -> np.ndarray:  # (R,)
    """Add the differences up, zeros and ones apart, from the second and the third run on."""
    place = np.arange(len(runs)) - np.repeat(starts, np.diff(np.append(starts, len(runs))))
    out = runs.copy()
    for parity in (0, 1):
        chosen = np.flatnonzero((place % 2 == parity) & (place > 0))
        sums = np.cumsum(runs[chosen])
        opens = place[chosen] <= 2  # the first of its mask: what stood before is not its own
        before = np.where(opens, sums - runs[chosen], 0)
        group = np.cumsum(opens) - 1
        out[chosen] = sums - before[opens][group]
    return out


def _listed(mask: RunLengths) -> bool:
    return isinstance(mask["counts"], list)


def characters(mask: RunLengths) -> bytes:
    """Give the counts of a compressed mask, which pycocotools has as bytes and JSON as text."""
    counts = mask["counts"]
    # Lone surrogates, which JSON can state, become bytes that no run length has.
    return counts if isinstance(counts, bytes) else counts.encode("utf-8", "surrogatepass")


def _as_text(mask: RunLengths) -> RunLengths:
    counts = mask["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    height, width = mask["size"]
    return {"size": [int(height), int(width)], "counts": text}


def _misfit(size: Sequence[int], pixels: int | None, height: int, width: int) -> str:
    runs = "" if pixels is None else f" with runs over {quote(pixels)} pixels"
    return (
        f"a mask of size {quote(size)}{runs}; expected [{height}, {width}] and "
        f"{height * width} pixels, those of its image."
    )
