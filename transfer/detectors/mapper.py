"""Scene to network input, pixel by pixel equal to Detectron2's DatasetMapper.

The steps are those of detectron2/data/dataset_mapper.py: EXIF rotation; conversion to RGB; Pillow's
bilinear resize of 8-bit pixels to a random shortest side; a random flip; the channel order of INPUT.FORMAT.
Boxes, polygons and keypoints are transformed in float64; boxes are then clipped and converted to float32.
Resizing and flipping follow ResizeShortestEdge (detectron2/data/transforms) and fvcore's HFlipTransform.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from msbreg.data.annotated_images import read_upright
from msbreg.data.run_lengths import decode, to_rle
from msbreg.data.scenes import Instance, Polygons, Scene
from msbreg.run.errors import UserError


@dataclass(frozen=True)
class Geometry:
    """A geometric transform: resize from ``old`` to ``new``, then flip.

    Attributes:
        old, new: (height, width) in pixels.
        flip: horizontal, vertical or none.
    """

    old: tuple[int, int]
    new: tuple[int, int]
    flip: str = "none"

    def scaled(
        self,
        coordinates: np.ndarray,  # (N,) float64
        axis: int,  # 0 for x, 1 for y
    ) -> np.ndarray:  # (N,) float64
        """Transform coordinates along one axis to pixels of the new image."""
        side = 1 - axis
        out = coordinates * (self.new[side] * 1.0 / self.old[side])
        return self.new[side] - out if self._flips(axis) else out

    def boxes(
        self,
        boxes: np.ndarray,  # (N, 4) float64 XYXY
    ) -> np.ndarray:  # (N, 4) float64 XYXY
        """Transform boxes to pixels of the new image and clip them to it.

        The smaller coordinate comes first even if it comes last in the data, as in fvcore's
        ``Transform.apply_box``.
        """
        out = np.empty_like(boxes)
        for axis in (0, 1):
            one, other = self.scaled(boxes[:, axis], axis), self.scaled(boxes[:, axis + 2], axis)
            out[:, axis], out[:, axis + 2] = np.minimum(one, other), np.maximum(one, other)
        height, width = self.new
        return np.minimum(out.clip(min=0), (width, height, width, height))

    def polygons(self, polygons: Polygons) -> tuple[np.ndarray, ...]:  # each (2M,) float64
        """Transform the rings of polygons to pixels of the new image, without clipping."""
        out = []
        for ring in polygons:
            points = np.asarray(ring, dtype=np.float64)
            for axis in (0, 1):
                points[axis::2] = self.scaled(points[axis::2], axis)
            out.append(points)
        return tuple(out)

    def pixels(self, image: Image.Image) -> np.ndarray:  # (H, W, 3) or (H, W) uint8
        """Transform the image: bilinear for RGB, nearest neighbor for an 8-bit mask (mode L)."""
        if self.new != self.old:
            how = Image.Resampling.NEAREST if image.mode == "L" else Image.Resampling.BILINEAR
            image = image.resize(self.new[::-1], how)
        out = np.asarray(image)
        if self.flip == "none":
            return out
        return out[:, ::-1] if self.flip == "horizontal" else out[::-1]

    def _flips(self, axis: int) -> bool:
        return self.flip == ("horizontal", "vertical")[axis]


def resized(height: int, width: int, shortest: int, longest: int) -> tuple[int, int]:
    """(height, width) with the given shortest side, or a smaller one so that the longest side is at most
    ``longest``.

    The arithmetic of ResizeShortestEdge in detectron2/data/transforms/augmentation_impl.py, operation by
    operation.
    """
    scale = shortest * 1.0 / min(height, width)
    new_height, new_width = scale * height, scale * width
    if height < width:
        new_height = shortest * 1.0
    else:
        new_width = shortest * 1.0
    if max(new_height, new_width) > longest:
        scale = longest * 1.0 / max(new_height, new_width)
        new_height, new_width = new_height * scale, new_width * scale
    return int(new_height + 0.5), int(new_width + 0.5)


# ---- Samples


EMPTY = 1e-5  # pixels; filter_empty_instances of detectron2/data/detection_utils.py


@dataclass(frozen=True)
class Sample:
    """A scene after resizing and flipping.

    Attributes:
        scene: id of the scene.
        image: (3, H, W) uint8, channels in the order of the config's INPUT.FORMAT, not normalized.
        height, width: size of the stored image (after EXIF rotation), to scale results back.
        boxes: (N, 4) float32 XYXY in pixels of ``image``; None when testing.
        labels: (N,) int64; None when testing.
        polygons: N lists of rings (float64 arrays x0, y0, x1, y1, ...) in pixels of ``image``; None
            without polygon masks.
        bitmasks: (N, H, W) bool; None unless the config's INPUT.MASK_FORMAT is bitmask.
        keypoints: (N, K, 3) float32, x, y in pixels of ``image`` and visibility (0: not labeled, or outside
            the image); None without MODEL.KEYPOINT_ON.
    """

    scene: str | int
    image: Tensor
    height: int
    width: int
    boxes: Tensor | None = None
    labels: Tensor | None = None
    polygons: tuple[tuple[np.ndarray, ...], ...] | None = None
    bitmasks: Tensor | None = None
    keypoints: np.ndarray | None = None


@dataclass(frozen=True)
class MapperSettings:
    """How images are resized and flipped.

    Attributes:
        channels: RGB or BGR.
        train_sizes: shortest sides to sample from: one of them (``choice``), or an integer between the
            first and the second, inclusive (``range``). 0 means no resizing.
        train_longest, test_longest: maximum of the longest side.
        sampling: choice or range.
        flip: horizontal, vertical or none; in training, with probability 0.5.
        test_size: shortest side; 0 means no resizing.
        masks: polygon, bitmask, or None for a detector without masks.
        keypoints: whether the detector predicts keypoints.
        mirror: for each keypoint, the one that it becomes in a mirrored image (``KeypointSet.mirror``).
    """

    channels: str = "RGB"
    train_sizes: tuple[int, ...] = (800,)
    train_longest: int = 1333
    sampling: str = "choice"
    flip: str = "horizontal"
    test_size: int = 800
    test_longest: int = 1333
    masks: str | None = None
    keypoints: bool = False
    mirror: tuple[int, ...] = ()


def mapper_settings(config: Any) -> MapperSettings:
    """The mapper's settings from INPUT.*, MODEL.MASK_ON and MODEL.KEYPOINT_ON of Detectron2's config.

    Raises:
        UserError: a value is invalid or not implemented.
    """
    given = config.INPUT
    sizes = given.MIN_SIZE_TRAIN
    # Like Detectron2: a single number becomes a pair.
    sizes = (sizes, sizes) if isinstance(sizes, int) else tuple(sizes)
    _one_of("INPUT.FORMAT", given.FORMAT, ("RGB", "BGR"))
    _one_of("INPUT.MIN_SIZE_TRAIN_SAMPLING", given.MIN_SIZE_TRAIN_SAMPLING, ("choice", "range"))
    _one_of("INPUT.RANDOM_FLIP", given.RANDOM_FLIP, ("horizontal", "vertical", "none"))
    _one_of("INPUT.MASK_FORMAT", given.MASK_FORMAT, ("polygon", "bitmask"))
    _one_of("INPUT.CROP.ENABLED", given.CROP.ENABLED, (False,))
    is_range = given.MIN_SIZE_TRAIN_SAMPLING == "range"
    numbers = [*sizes, given.MIN_SIZE_TEST, given.MAX_SIZE_TRAIN, given.MAX_SIZE_TEST]
    if not sizes or any(type(n) is not int or n < 0 for n in numbers):
        raise UserError(f"INPUT's sizes are {numbers}; expected integers of 0 or more")
    if min(given.MAX_SIZE_TRAIN, given.MAX_SIZE_TEST) == 0:
        raise UserError("INPUT.MAX_SIZE_TRAIN or MAX_SIZE_TEST is 0; expected 1 or more")
    if is_range and (len(sizes) != 2 or sizes[0] > sizes[1]):
        raise UserError(
            f"INPUT.MIN_SIZE_TRAIN is {sizes}; expected (smallest, largest), as "
            "INPUT.MIN_SIZE_TRAIN_SAMPLING is range"
        )
    return MapperSettings(
        channels=given.FORMAT,
        train_sizes=sizes,
        train_longest=given.MAX_SIZE_TRAIN,
        sampling=given.MIN_SIZE_TRAIN_SAMPLING,
        flip=given.RANDOM_FLIP,
        test_size=given.MIN_SIZE_TEST,
        test_longest=given.MAX_SIZE_TEST,
        masks=given.MASK_FORMAT if config.MODEL.MASK_ON else None,
        keypoints=config.MODEL.KEYPOINT_ON,
    )


def training_sample(
    scene: Scene,
    settings: MapperSettings,
    random: np.random.RandomState,
    *,
    sized_boxes: bool = False,
) -> Sample:
    """The scene, randomly resized and flipped, with its targets.

    Crowds and boxes without area are dropped. Random numbers are drawn in Detectron2's order: with the
    state of its global generator, ``random`` gives the same sample.

    Args:
        sized_boxes: whether the data set stores boxes as x, y, width, height (``Scenes.sized_boxes``):
            Detectron2 adds these in float32, which changes the last bit.

    Raises:
        UserError: the image cannot be read or its size differs from the annotation, keypoints are missing,
            or a mask is missing or cannot be converted to the requested format.
    """
    image = read_upright(scene)
    old = (scene.height, scene.width)
    shortest = _draw_size(settings, random)
    new = resized(*old, shortest, settings.train_longest) if shortest else old
    flips = settings.flip != "none" and random.uniform(0, 1.0) < 0.5
    geometry = Geometry(old, new, settings.flip if flips else "none")
    instances = [instance for instance in scene.instances if not instance.crowd]
    given = np.array([i.box for i in instances], dtype=np.float64).reshape(-1, 4)
    boxes = torch.as_tensor(
        geometry.boxes(_rounded_to_float32(given) if sized_boxes else given), dtype=torch.float32
    )
    full = ((boxes[:, 2:] - boxes[:, :2]) > EMPTY).all(dim=1)
    bitmasks = None
    if settings.masks == "bitmask":
        bitmasks = _bitmasks(scene, instances, geometry)
        full &= bitmasks.flatten(1).any(dim=1)
    kept = [i for i, keep in zip(instances, full.tolist(), strict=True) if keep]
    return Sample(
        scene.id,
        _to_tensor(geometry.pixels(image), settings),
        *old,
        boxes=boxes[full],
        labels=torch.tensor([instance.label for instance in kept], dtype=torch.int64),
        polygons=_polygons(scene, kept, geometry) if settings.masks == "polygon" else None,
        bitmasks=None if bitmasks is None else bitmasks[full],
        keypoints=_keypoints(scene, kept, geometry, settings) if settings.keypoints else None,
    )


def testing_sample(scene: Scene, settings: MapperSettings) -> Sample:
    """The resized scene, without targets.

    Raises:
        UserError: the image cannot be read, or its size differs from the annotation.
    """
    old = (scene.height, scene.width)
    shortest = settings.test_size
    new = resized(*old, shortest, settings.test_longest) if shortest else old
    pixels = Geometry(old, new).pixels(read_upright(scene))
    return Sample(scene.id, _to_tensor(pixels, settings), *old)


def _draw_size(settings: MapperSettings, random: np.random.RandomState) -> int:
    if settings.sampling == "range":
        return int(random.randint(settings.train_sizes[0], settings.train_sizes[1] + 1))
    return int(random.choice(settings.train_sizes))


def _to_tensor(
    pixels: np.ndarray,  # (H, W, 3) RGB
    settings: MapperSettings,
) -> Tensor:  # (3, H, W) uint8
    if settings.channels == "BGR":
        pixels = pixels[:, :, ::-1]
    return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))


def _rounded_to_float32(
    boxes: np.ndarray,  # (N, 4) float64
) -> np.ndarray:  # (N, 4) float64
    """The boxes with x + width and y + height computed in float32."""
    corners = boxes[:, :2].astype(np.float32)
    sizes = (boxes[:, 2:] - boxes[:, :2]).astype(np.float32)
    return np.concatenate([corners, corners + sizes], axis=1).astype(np.float64)


def _polygons(
    scene: Scene, instances: list[Instance], geometry: Geometry
) -> tuple[tuple[np.ndarray, ...], ...]:
    out = []
    for instance in instances:
        if not isinstance(instance.mask, tuple):
            raise UserError(mask_problem(scene, "polygon"))
        out.append(geometry.polygons(instance.mask))
    return tuple(out)


def _bitmasks(
    scene: Scene, instances: list[Instance], geometry: Geometry
) -> Tensor:  # (N, H, W) bool
    """As in Detectron2: polygons are transformed, then rasterized; run lengths are decoded first."""
    height, width = geometry.new
    out = np.zeros((len(instances), height, width), dtype=bool)
    for number, instance in enumerate(instances):
        if instance.mask is None:
            raise UserError(mask_problem(scene, "bitmask"))
        if isinstance(instance.mask, tuple):
            rings = tuple(tuple(ring.tolist()) for ring in geometry.polygons(instance.mask))
            out[number] = decode(to_rle(rings, height, width))
        else:
            drawn = decode(to_rle(instance.mask, *geometry.old)).astype(np.uint8)
            out[number] = geometry.pixels(Image.fromarray(drawn)) > 0
    return torch.from_numpy(out)


def _keypoints(
    scene: Scene, instances: list[Instance], geometry: Geometry, settings: MapperSettings
) -> np.ndarray:  # (N, K, 3) float32
    """As in Detectron2 (detection_utils.py, transform_keypoint_annotations).

    Keypoints outside the image become unlabeled, and unlabeled ones move to (0, 0). A horizontal flip
    exchanges left and right; a vertical flip does not, although it also mirrors.
    """
    given = [instance.keypoints for instance in instances if instance.keypoints is not None]
    if len(given) < len(instances):
        raise UserError(keypoint_problem(scene))
    points = np.array(given, dtype=np.float64).reshape(len(given), len(settings.mirror), 3)
    for axis in (0, 1):
        place = geometry.scaled(points[:, :, axis], axis)
        points[:, :, axis] = place
        points[(place < 0) | (place > geometry.new[1 - axis]), 2] = 0
    if geometry.flip == "horizontal":
        points = points[:, list(settings.mirror)]
    points[points[:, :, 2] == 0] = 0
    return points.astype(np.float32)


def keypoint_problem(scene: Scene) -> str:
    """The error message for a scene with objects without keypoints."""
    return (
        f"image {scene.id!r} ({scene.file}) has an object without keypoints, but MODEL.KEYPOINT_ON is "
        "True: set it to False, or use data with keypoints for each object"
    )


def mask_problem(scene: Scene, masks: str) -> str:
    """The error message for a scene whose masks are missing or not in the configured format."""
    if any(instance.mask is None and not instance.crowd for instance in scene.instances):
        return (
            f"image {scene.id!r} ({scene.file}) has an object without a mask, but MODEL.MASK_ON "
            "is True: set it to False, or use data with a mask for each object"
        )
    return (
        f"image {scene.id!r} ({scene.file}) has a mask in run-length encoding, but INPUT.MASK_FORMAT is "
        f"{masks}: set INPUT.MASK_FORMAT to bitmask"
    )


def _one_of(key: str, value: Any, known: tuple[Any, ...]) -> None:
    if value not in known:
        expected = " or ".join(map(str, known))
        raise UserError(
            f"{key} is {value!r}; expected {expected} (other values are not implemented)"
        )
