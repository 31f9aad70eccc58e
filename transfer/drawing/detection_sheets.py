"""Drawings of detection results: precision-recall curves, and the best hits and worst misses."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from msbreg.data.annotated_images import read_upright
from msbreg.data.run_lengths import decode, to_rle
from msbreg.data.scenes import Prediction, RunLengths, Scene, Scenes
from msbreg.run.files import write_atomically
from transfer.drawing.svg import BLUE, GRAY, GREEN, ORANGE, Line, Panel, as_file, plots
from transfer.scoring.predictions import in_order
from transfer.scoring.scores import RECALLS, DetectionScores
from transfer.scoring.voc_ap import (
    VocRules,
    best_overlaps,
    class_detections,
    class_objects,
    hits_and_misses,
)

THRESHOLD = 0.5
# Boxes are matched by VOC's rules without rounding, for every metric.
_RULES = VocRules("area", rounding=False, ties="stable")


@dataclass(frozen=True)
class Pick:
    """One detection.

    Attributes:
        scene: index of its scene in the split.
        index: its index in the prediction of this scene.
        overlap: its highest IoU with an object of its class; -inf if the scene has none.
    """

    scene: int
    index: int
    overlap: float


def best_and_worst(
    scenes: Scenes, predictions: Sequence[Prediction], count: int
) -> tuple[list[Pick], list[Pick]]:
    """The hits and the misses with the highest scores, at most ``count`` of each and one per scene.

    A detection is a hit if its IoU with its nearest object of the same class is above 0.5 and no detection
    with a higher score has matched this object. Detections of difficult objects or crowds are neither.

    Raises:
        UserError: the predictions do not match the split; see ``in_order``.
    """
    ordered = in_order(scenes, predictions)
    lengths = [len(p.scores) for p in ordered]
    scene = np.repeat(np.arange(len(ordered)), lengths)
    index = np.concatenate([np.arange(0), *map(np.arange, lengths)])
    scores = np.concatenate([np.zeros(0), *(p.scores for p in ordered)])
    hit, miss, overlap = judge(scenes, ordered)
    ranking = np.argsort(-scores, kind="stable")

    def first(chosen: np.ndarray) -> list[Pick]:  # (N,) bool
        ranked = ranking[chosen[ranking]]
        _, places = np.unique(scene[ranked], return_index=True)
        kept = ranked[np.sort(places)][:count]
        return [Pick(int(scene[i]), int(index[i]), float(overlap[i])) for i in kept]

    return first(hit), first(miss)


def judge(
    scenes: Scenes, ordered: Sequence[Prediction]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # (N,) bool, (N,) bool, (N,) float64
    """For each of the N detections, scene by scene: hit, miss (or neither), and highest IoU."""
    labels = np.concatenate([np.zeros(0, np.int64), *(p.labels for p in ordered)])
    hit, miss = np.zeros(len(labels), bool), np.zeros(len(labels), bool)
    overlap = np.full(len(labels), -np.inf)
    objects = class_objects(scenes, _RULES)
    found = class_detections(ordered, len(scenes.classes), _RULES)
    for k, (own_objects, own) in enumerate(zip(objects, found, strict=True)):
        places = np.flatnonzero(labels == k)
        overlap[places], nearest = best_overlaps(own_objects, own, pixel=1.0)
        order = np.argsort(-own.scores, kind="stable")
        above = overlap[places][order] > THRESHOLD
        ranked = places[order]
        hit[ranked], miss[ranked] = hits_and_misses(above, nearest[order], own_objects.difficult)
    return hit, miss, overlap


# ---- Files


CURVES, SHEET = "curves_{}.svg", "detections.webp"
SHOWN_SCORE = 0.5  # detections with lower scores are drawn only if they are the picked one
MOST_PLOTS = 100
NAMED = 8  # pictures with more boxes only label the picked one
_QUALITY = 80  # of WebP: 0.1 MB per sheet instead of 0.9 MB as PNG, without a visible difference
_EFFORT = 2  # of WebP: in less than half the time of the default, 5 % more bytes
_THICK = 3
_DOT = 2  # radius
_SIDE, _GAP, _LINE = (
    224,
    8,
    14,
)  # pixels: side of a picture, gap between pictures, height of a text line


def write_drawings(
    folder: Path,
    scenes: Scenes,
    predictions: Sequence[Prediction],
    scores: dict[str, DetectionScores],  # by name: "box", "mask"
) -> list[str]:
    """Write ``curves_NAME.svg`` for each of the scores and ``detections.webp``; return their names.

    Raises:
        UserError: the predictions do not match the split, or an image cannot be read.
    """
    written = []
    for name, of_name in scores.items():
        written.append(CURVES.format(name))
        write_atomically(folder / written[-1], precision_recall_curves(of_name).encode())
    buffer = io.BytesIO()
    detection_sheet(scenes, predictions).save(buffer, "WEBP", quality=_QUALITY, method=_EFFORT)
    write_atomically(folder / SHEET, buffer.getvalue())
    return [*written, SHEET]


# ---- Curves


def precision_recall_curves(scores: DetectionScores) -> str:
    """An SVG file with one small plot per class, at IoU 0.50 and 0.75 if these were scored.

    With more than ``MOST_PLOTS`` classes, of those with the most objects.
    """
    lines = [
        (f"IoU {t:.2f}", scores.thresholds.index(t), color)
        for t, color in ((0.5, BLUE), (0.75, ORANGE))
        if t in scores.thresholds
    ]
    panels = []
    table = scores.table()
    # The classes with the most objects, in label order: 1,203 plots would take minutes to look at.
    common = np.argsort(-scores.objects, kind="stable")[:MOST_PLOTS]
    for k, row in ((k, table[k]) for k in sorted(common.tolist())):
        result = "no objects" if row["AP"] is None else f"AP {row['AP']:.1f}"
        panels.append(
            Panel(
                title=f"{row['class']}: {result}",
                lines=[
                    Line(_corners(scores.precision[index, :, k]), color, label)
                    for label, index, color in lines
                ],
                x_range=(0, 1),
                y_range=(0, 1.03),
                x_label="recall",
            )
        )
    columns = min(5 if len(panels) <= 25 else 10, len(panels))
    return as_file(plots(panels, columns=columns, label="Precision over recall", size=(190, 160)))


def _corners(
    precision: np.ndarray,  # (101,) at RECALLS
) -> list[tuple[float, float]]:
    """The curve without points inside horizontal segments; empty for a class without objects."""
    if np.isnan(precision).any():
        return []
    inside = np.zeros(len(precision), bool)
    inside[1:-1] = (precision[1:-1] == precision[:-2]) & (precision[1:-1] == precision[2:])
    return [(float(r), float(p)) for r, p in zip(RECALLS[~inside], precision[~inside], strict=True)]


# ---- Detections


@dataclass(frozen=True)
class _Shape:
    """Something to draw, in pixels of the scene's image."""

    box: tuple[float, ...]
    mask: RunLengths | None
    color: str
    label: str
    width: int
    keypoints: np.ndarray | None = None  # (K, 3)


def detection_sheet(
    scenes: Scenes,
    predictions: Sequence[Prediction],
    count: int = 6,
) -> Image.Image:
    """Draw the best hits (left) and the worst misses (right), each next to the ground truth.

    ``best_and_worst`` picks the most confident hits and misses. The picked detection has a thick box,
    others with a score of 0.5 or more a thin one; difficult objects and crowds are gray. In pictures
    with many boxes only the picked one has a label.
    """
    best, worst = best_and_worst(scenes, predictions, count)
    by_id = {prediction.scene: prediction for prediction in predictions}
    rows = max(len(best), len(worst), 1)
    cell = (2 * _SIDE + _GAP, _SIDE + _LINE + _GAP)
    sheet = Image.new("RGBA", (2 * cell[0] + 3 * _GAP, rows * cell[1] + _LINE + _GAP))
    pen = ImageDraw.Draw(sheet)
    columns = [("most confident hits", best, BLUE), ("most confident misses", worst, ORANGE)]
    for column, (title, picks, color) in enumerate(columns):
        left = column * (cell[0] + 3 * _GAP)
        heading = title if picks else f"no {title.removeprefix('most confident ')}"
        pen.text((left, 0), f"{heading}: ground truth, detections", fill=GRAY, font=_font())
        for row, pick in enumerate(picks):
            top = _LINE + _GAP + row * cell[1]
            scene, prediction = scenes.scenes[pick.scene], by_id[scenes.scenes[pick.scene].id]
            pixels = np.asarray(read_upright(scene))
            shapes = _detections(prediction, pick, scenes.classes, color)
            edges = () if scenes.keypoints is None else scenes.keypoints.skeleton
            truth = _draw_shapes(pixels, _objects(scene, scenes.classes), edges)
            found = _draw_shapes(pixels, shapes, edges)
            for place, picture in enumerate((truth, found)):
                sheet.paste(picture, (left + place * (_SIDE + _GAP), top))
            caption = _caption(scene, prediction, pick, scenes.classes)
            pen.text((left, top + truth.height + 1), caption, fill=GRAY, font=_font())
    return sheet


def _objects(scene: Scene, classes: Sequence[str]) -> list[_Shape]:
    return [
        _Shape(
            o.box,
            None if o.mask is None else to_rle(o.mask, scene.height, scene.width),
            GRAY if o.crowd or o.difficult else GREEN,
            classes[o.label],
            2,
            None if o.keypoints is None else np.array(o.keypoints).reshape(-1, 3),
        )
        for o in scene.instances
    ]


def _detections(
    prediction: Prediction, pick: Pick, classes: Sequence[str], color: str
) -> list[_Shape]:
    """The detections to draw, by ascending score; the picked one is last, on top."""
    order = [i for i in np.argsort(prediction.scores, kind="stable").tolist() if i != pick.index]
    shown = [i for i in order if prediction.scores[i] >= SHOWN_SCORE] + [pick.index]
    return [
        _Shape(
            tuple(prediction.boxes[i].tolist()),
            None if prediction.masks is None else prediction.masks[i],
            color if i == pick.index else GRAY,
            f"{classes[prediction.labels[i]]} {prediction.scores[i]:.2f}",
            _THICK if i == pick.index else 1,
            None if prediction.keypoints is None else prediction.keypoints[i],
        )
        for i in shown
    ]


def _draw_shapes(
    pixels: np.ndarray,  # (H, W, 3) uint8
    shapes: Sequence[_Shape],
    edges: Sequence[tuple[int, int]] = (),
) -> Image.Image:
    """The image with masks, boxes, keypoints and labels, scaled to ``_SIDE`` pixels along its longer side."""
    height, width = pixels.shape[:2]
    scale = _SIDE / max(height, width)
    blended = pixels.copy()
    for shape in shapes:
        if shape.mask is not None:
            inside = decode(shape.mask)
            tone = np.array(Image.new("RGB", (1, 1), shape.color))[0, 0]
            blended[inside] = (0.55 * blended[inside] + 0.45 * tone).astype(np.uint8)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = Image.fromarray(blended).resize(size, Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(image)
    for shape in shapes:
        x0, y0, x1, y1 = (edge * scale for edge in shape.box)
        pen.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), None, shape.color, shape.width)
        if shape.keypoints is not None:
            _draw_keypoints(pen, shape.keypoints * [scale, scale, 1], edges, shape.color)
    labeled = shapes if len(shapes) <= NAMED else [s for s in shapes if s.width == _THICK]
    for shape in labeled:  # after all boxes, which would cover the labels
        fitting = image.width - pen.textlength(shape.label, font=_font()) - 1
        at = (
            max(0, min(shape.box[0] * scale + 1, fitting)),
            max(0, shape.box[1] * scale - _LINE + 2),
        )
        pen.rectangle(pen.textbbox(at, shape.label, font=_font()), fill=shape.color)
        pen.text(at, shape.label, fill="white", font=_font())
    return image


def _draw_keypoints(
    pen: ImageDraw.ImageDraw,
    keypoints: np.ndarray,  # (K, 3), in pixels of the drawing; a third value of 0 is not drawn
    edges: Sequence[tuple[int, int]],
    color: str,
) -> None:
    """Dots, and the lines of the skeleton between them.

    The scores of predicted keypoints are all above 0: a low one means that the place is uncertain.
    """
    shown = keypoints[:, 2] > 0
    for first, second in edges:
        if shown[first] and shown[second]:
            pen.line([*keypoints[first, :2], *keypoints[second, :2]], color, 1)
    for x, y, _ in keypoints[shown].tolist():
        pen.ellipse((x - _DOT, y - _DOT, x + _DOT, y + _DOT), color)


def _caption(scene: Scene, prediction: Prediction, pick: Pick, classes: Sequence[str]) -> str:
    name = classes[prediction.labels[pick.index]]
    nearest = f"IoU {pick.overlap:.2f}" if pick.overlap >= 0 else f"no {name} in this scene"
    return f"{scene.id}: {name} {prediction.scores[pick.index]:.2f}, {nearest}"


def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default()
