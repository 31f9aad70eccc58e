"""Keypoints in COCO's annotations.

COCO annotates a keypoint with the index of a pixel; here, as in Detectron2, it is the center of that pixel:
0.5 is added to both coordinates on reading.
"""

from array import array
from collections.abc import Mapping
from typing import Any

from msbreg.data.annotated_images import quote
from msbreg.data.scenes import Keypoints, KeypointSet
from msbreg.run.errors import UserError

VALUES = 3
PERSON_KEYPOINTS = 17
"""Number of keypoints of COCO's persons, whose sigmas are pycocotools' defaults."""
PIXEL_CENTER = 0.5
LARGEST = 1e6
"""Largest absolute coordinate; unlabeled keypoints are at 0."""


def keypoint_set(categories: list[Any], source: str) -> KeypointSet | None:
    """The keypoints that COCO's categories define; None if no category does.

    Args:
        categories: entries of the JSON file.
        source: its name, for messages.

    Raises:
        UserError: a definition is malformed, or two categories define different keypoints, which a
            detector with a single keypoint head cannot predict.
    """
    found: dict[str, KeypointSet] = {}
    for entry in categories:
        if isinstance(entry, dict) and entry.get("keypoints"):
            where = f"{source}: category {quote(entry.get('name'))}"
            found[where] = _definition(entry, where)
    different = list(dict.fromkeys(found.values()))
    if len(different) > 1:
        first, second, *_ = (next(w for w, s in found.items() if s == one) for one in different)
        raise UserError(f"{second} has keypoints that differ from those of {first}")
    return different[0] if different else None


def _definition(entry: Mapping[str, Any], where: str) -> KeypointSet:
    names, edges = entry["keypoints"], entry.get("skeleton") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{where}: keypoints is {quote(names)}; expected a list of names")
    if len(set(names)) < len(names):
        raise UserError(f"{where}: keypoints has a name twice: {', '.join(names)}")
    known = range(1, len(names) + 1)
    if not isinstance(edges, list) or not all(_is_edge(edge, known) for edge in edges):
        raise UserError(
            f"{where}: skeleton is {quote(edges)}; expected pairs of numbers from 1 to {len(names)}"
        )
    return KeypointSet(tuple(names), tuple((first - 1, second - 1) for first, second in edges))


def _is_edge(edge: Any, known: range) -> bool:
    return isinstance(edge, list) and len(edge) == 2 and all(n in known for n in edge)


def keypoints_of(
    entry: Mapping[str, Any],  # an annotation
    expected: KeypointSet,
    where: str,
) -> Keypoints | None:
    """The keypoints of an object at the centers of their pixels; None if it has none.

    Raises:
        UserError: their number differs from that of the category, or a value is invalid.
    """
    given = entry.get("keypoints")
    if not given:
        return None
    count = len(expected.names)
    try:
        values = array("d", given)
    except (TypeError, OverflowError) as error:
        raise UserError(
            f"{where}: keypoints is not a list of numbers x, y, visibility, ..."
        ) from error
    if len(values) != VALUES * count:
        raise UserError(
            f"{where}: keypoints has {len(values)} numbers; expected {VALUES * count}: x, y, visibility "
            f"for each of {count} keypoints"
        )
    if any(visibility not in (0, 1, 2) for visibility in values[2::VALUES]):
        raise UserError(f"{where}: keypoints has a visibility other than 0, 1 and 2")
    if not all(abs(value) <= LARGEST for value in values):  # NaN fails this test as well
        raise UserError(f"{where}: keypoints has coordinates that are not pixels of an image")
    for axis in (0, 1):
        for at in range(axis, len(values), VALUES):
            values[at] += PIXEL_CENTER
    return tuple(values)


def labeled(keypoints: Keypoints | None) -> int:
    """Number of labeled keypoints.

    >>> labeled((3.5, 4.5, 2.0, 0.5, 0.5, 0.0))
    1
    """
    return sum(visibility > 0 for visibility in (keypoints or ())[2::VALUES])
