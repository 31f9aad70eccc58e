"""Cityscapes' fine instance annotations: leftImg8bit/SPLIT/CITY and gtFine/SPLIT/CITY.

Read like Detectron2 by default (detectron2/data/datasets/cityscapes.py, ``from_json=True``,
``to_polygons=True``): the polygons in ``*_gtFine_polygons.json`` are processed from last to first; each is
enlarged by half a pixel, parts covered by later polygons are removed, and holes are filled. As in Detectron2,
Shapely does the geometry (``pip install shapely``); no other data set needs it.

Scores follow COCO's rules (pycocotools), not cityscapesScripts, which Detectron2 runs on
``*_instanceIds.png``. They are comparable with each other, but not with published results.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from msbreg.data.annotated_images import advising, check_images, quote, size_problem
from msbreg.data.scenes import Instance, Scene, Scenes
from msbreg.run.errors import UserError
from msbreg.run.files import open_regular

# cityscapesscripts/helpers/labels.py: classes with evaluated instances, by ascending id.
CLASS_IDS = {
    "person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31, "motorcycle": 32,
    "bicycle": 33,
}  # fmt: skip
# Labels that can cover instances but have none; "license plate" has id -1 and covers nothing.
# fmt: off
STUFF = frozenset({
    "unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground",
    "road", "sidewalk", "parking", "rail track", "building", "wall", "fence", "guard rail", "bridge",
    "tunnel", "pole", "polegroup", "traffic light", "traffic sign", "vegetation", "terrain", "sky",
    "caravan", "trailer",
})
# fmt: on
IGNORED = "license plate"
_IMAGE, _POLYGONS = "_leftImg8bit.png", "_gtFine_polygons.json"


def cityscapes_scenes(
    name: str, root: Path, split: str, *, look_at_images: bool = True, strict: bool = False
) -> Scenes:
    """The images of one split with their instances, sorted by city and file name.

    Args:
        root: folder that contains leftImg8bit and gtFine.
        split: train or val; the annotations of test are not public.
        look_at_images: check that images have the annotated size. They must exist in any case.
        strict: for consistency with the other readers; this reader accepts no irregular data.

    Raises:
        UserError: a folder or file is missing or invalid, or Shapely is not installed.
    """
    folder = root / "leftImg8bit" / split
    files = sorted(folder.glob(f"*/*{_IMAGE}"))
    if not files:
        raise UserError(f"no images CITY/*{_IMAGE} found in {folder}")
    with advising():
        scenes = tuple(_scene(file, root / "gtFine" / split) for file in files)
        if look_at_images:
            check_images(
                scenes, annotated_in=lambda scene: str(_annotation(scene.file, root, split))
            )
    return Scenes(
        name,
        tuple(CLASS_IDS),
        scenes,
        category_ids=tuple(CLASS_IDS.values()),
        annotations=root / "gtFine" / split,
        warnings=(
            f"{name} is scored by COCO's rules, not by cityscapesScripts: do not compare the scores "
            "with published results",
        ),
    )


def _annotation(image: Path, root: Path, split: str) -> Path:
    stem = image.name.removesuffix(_IMAGE)
    return root / "gtFine" / split / image.parent.name / f"{stem}{_POLYGONS}"


def _scene(image: Path, annotations: Path) -> Scene:
    file = annotations / image.parent.name / f"{image.name.removesuffix(_IMAGE)}{_POLYGONS}"
    content = _read_json(file)
    height, width = content.get("imgHeight"), content.get("imgWidth")
    if type(height) is not int or type(width) is not int:
        raise UserError(f"{file}: imgHeight or imgWidth is missing; expected whole numbers")
    if problem := size_problem(height, width):
        raise UserError(f"{file}: {problem}")
    return Scene(image.name, image, height, width, _instances(content["objects"], file))


def _read_json(file: Path) -> dict[str, Any]:
    try:
        with open_regular(file) as opened:
            content = json.loads(opened.read())
    except OSError as error:
        raise UserError(
            f"{file} cannot be read: {error.strerror}; expected Cityscapes' polygons"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is malformed JSON: {error or 'nested too deeply'}") from error
    if not isinstance(content, dict) or not isinstance(content.get("objects"), list):
        raise UserError(f"{file} has no list 'objects'; expected Cityscapes' polygons")
    return content


def _instances(objects: Sequence[Any], file: Path) -> tuple[Instance, ...]:
    """Instances as in Detectron2: from the last object to the first, without covered parts."""
    shapely = _shapely()
    labels = {name: label for label, name in enumerate(CLASS_IDS)}
    covered, instances = shapely.Polygon(), []
    for number, entry in reversed(list(enumerate(objects, 1))):
        where = f"{file}: object {number}"
        if not isinstance(entry, dict) or not isinstance(entry.get("label"), str):
            raise UserError(f"{where}: label is missing; expected a string")
        name = entry["label"]
        crowd = name not in STUFF and name.endswith("group")
        known = name.removesuffix("group") if crowd else name
        if "deleted" in entry or known == IGNORED:
            continue
        if known not in labels and known not in STUFF:
            raise UserError(
                f"{where}: label is {quote(name)}, which is not a Cityscapes label; expected one of "
                f"{', '.join(CLASS_IDS)} or a label without instances"
            )
        # Corners are pixel indices and denote pixel centers; the rasterized polygon is half a pixel larger.
        shape = shapely.Polygon(_corners(entry.get("polygon"), where) + 0.5).buffer(
            0.5, quad_segs=4
        )
        if known in labels:
            visible = shape.difference(covered)
            if visible.is_empty:
                continue
            parts = getattr(visible, "geoms", [visible])
            mask = tuple(tuple(np.ravel(part.exterior.coords).tolist()) for part in parts)
            instances.append(Instance(visible.bounds, labels[known], mask=mask, crowd=crowd))
        covered = covered.union(shape)
    return tuple(instances)


def _corners(given: Any, where: str) -> np.ndarray:  # (N, 2) float32
    try:
        corners = np.asarray(given, dtype="f4")
    except (TypeError, ValueError, OverflowError):
        corners = np.empty(0)
    if (
        corners.ndim != 2
        or corners.shape[1] != 2
        or len(corners) < 3
        or not np.isfinite(corners).all()
    ):
        raise UserError(
            f"{where}: polygon is {quote(given)}; expected three or more corners [x, y]"
        )
    return corners


def _shapely() -> Any:
    try:
        import shapely
    except ImportError as error:
        raise UserError(
            "reading Cityscapes needs Shapely, which is not installed.\nRun: pip install shapely"
        ) from error
    return shapely
