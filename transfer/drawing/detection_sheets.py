"""What a detection run leaves to look at: precision-recall curves, and its best hits and worst misses."""

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
# VOC's judgment of boxes as they are; the metric plays no part in it.
_RULES = VocRules("area", rounding=False, ties="stable")


@dataclass(frozen=True)
class Pick:
    """One detection.

    Attributes:
        scene: its place in the split.
        index: its place in the prediction of that scene.
        overlap: its highest IoU with an object of its class; -inf where the scene has none.
    """

    scene: int
    index: int
    overlap: float


def best_and_worst(
    scenes: Scenes, predictions: Sequence[Prediction], count: int
) -> tuple[list[Pick], list[Pick]]:
    """Give the hits and the misses of the highest scores, up to ``count``, one of a scene each.

    A hit is the first by score with an IoU above 0.5 with the object of its class that it overlaps
    most; what lies on a difficult object or a crowd is neither.

    Raises:
        UserError: the predictions do not fit the split; see ``in_order``.
    """
    ordered = in_order(scenes, predictions)
    lengths = [len(p.scores) for p in ordered]
    scene = np.repeat(np.arange(len(ordered)), lengths)
    index = np.concatenate([np.arange(0), *map(np.arange, lengths)])
    scores = np.concatenate([np.zeros(0), *(p.scores for p in ordered)])
    hit, miss, overlap = judged(scenes, ordered)
    ranking = np.argsort(-scores, kind="stable")

    def first(chosen: np.ndarray) -> list[Pick]:  # (N,) bool
        ranked = ranking[chosen[ranking]]
        _, places = np.unique(scene[ranked], return_index=True)
        kept = ranked[np.sort(places)][:count]
        return [Pick(int(scene[i]), int(index[i]), float(overlap[i])) for i in kept]

    return first(hit), first(miss)


def judged(
    scenes: Scenes, ordered: Sequence[Prediction]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # (N,) bool, (N,) bool, (N,) float64
    """Judge all N detections, scene by scene: hit, miss (or neither), and highest IoU."""
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


# ---- Drawings of a detector's results: precision-recall curves (SVG), detections beside the


CURVES, SHEET = "curves_{}.svg", "detections.webp"
SHOWN_SCORE = 0.5  # weaker detections are drawn only if the picture is about them
NAMED = 8  # most boxes of a picture that all have labels; more labels would cover it
_QUALITY = 80  # of WebP: 0.1 MB per sheet where PNG takes 0.9, without a visible difference
_THICK = 3
_SIDE, _GAP, _LINE = 224, 8, 14  # pixels of a picture, between pictures, of a line of text


def write_drawings(
    folder: Path,
    scenes: Scenes,
    predictions: Sequence[Prediction],
    scores: dict[str, DetectionScores],  # by name: "box", "mask"
) -> list[str]:
    """Write ``curves_NAME.svg`` for each of the scores and ``detections.webp``; return their names.

    Raises:
        UserError: the predictions do not fit the split, or an image cannot be read.
    """
    written = []
    for name, of_name in scores.items():
        written.append(CURVES.format(name))
        write_atomically(folder / written[-1], precision_recall_curves(of_name).encode())
    buffer = io.BytesIO()
    detection_sheet(scenes, predictions).save(buffer, "WEBP", quality=_QUALITY)
    write_atomically(folder / SHEET, buffer.getvalue())
    return [*written, SHEET]


# ---- Curves


def precision_recall_curves(scores: DetectionScores) -> str:
    """One small plot per class, at IoU 0.50 and 0.75 as far as they were scored, as an SVG file."""
    lines = [
        (f"IoU {t:.2f}", scores.thresholds.index(t), color)
        for t, color in ((0.5, BLUE), (0.75, ORANGE))
        if t in scores.thresholds
    ]
    panels = []
    for k, row in enumerate(scores.table()):
        shown = "no objects" if row["AP"] is None else f"AP {row['AP']:.1f}"
        panels.append(
            Panel(
                title=f"{row['class']}: {shown}",
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
    """The curve without the points inside a level stretch; no points for a class without objects."""
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
    words: str
    width: int


def detection_sheet(
    scenes: Scenes,
    predictions: Sequence[Prediction],
    count: int = 6,
) -> Image.Image:
    """Draw the best hits (left) and the worst misses (right), each beside the truth of its scene.

    Best and worst are by ``best_and_worst``: the surest of either kind, one of a scene. The detection
    in question is drawn thick, others from a score of 0.5 on thin; objects that are difficult or crowds
    are gray. Where there are many boxes, only the one in question has words.
    """
    best, worst = best_and_worst(scenes, predictions, count)
    by_id = {prediction.scene: prediction for prediction in predictions}
    rows = max(len(best), len(worst), 1)
    cell = (2 * _SIDE + _GAP, _SIDE + _LINE + _GAP)
    sheet = Image.new("RGBA", (2 * cell[0] + 3 * _GAP, rows * cell[1] + _LINE + _GAP))
    pen = ImageDraw.Draw(sheet)
    columns = [("surest hits", best, BLUE), ("surest misses", worst, ORANGE)]
    for column, (title, picks, color) in enumerate(columns):
        left = column * (cell[0] + 3 * _GAP)
        words = title if picks else f"no {title.removeprefix('surest ')}"
        pen.text((left, 0), f"{words}: truth, detections", fill=GRAY, font=_font())
        for row, pick in enumerate(picks):
            top = _LINE + _GAP + row * cell[1]
            scene, shown = scenes.scenes[pick.scene], by_id[scenes.scenes[pick.scene].id]
            pixels = np.asarray(read_upright(scene))
            truth = _drawn(pixels, _objects(scene, scenes.classes))
            found = _drawn(pixels, _detections(shown, pick, scenes.classes, color))
            for place, picture in enumerate((truth, found)):
                sheet.paste(picture, (left + place * (_SIDE + _GAP), top))
            caption = _caption(scene, shown, pick, scenes.classes)
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
        )
        for o in scene.instances
    ]


def _detections(
    prediction: Prediction, pick: Pick, classes: Sequence[str], color: str
) -> list[_Shape]:
    """Weakest first, the picked one last: it lies on top."""
    order = [i for i in np.argsort(prediction.scores, kind="stable").tolist() if i != pick.index]
    shown = [i for i in order if prediction.scores[i] >= SHOWN_SCORE] + [pick.index]
    return [
        _Shape(
            tuple(prediction.boxes[i].tolist()),
            None if prediction.masks is None else prediction.masks[i],
            color if i == pick.index else GRAY,
            f"{classes[prediction.labels[i]]} {prediction.scores[i]:.2f}",
            _THICK if i == pick.index else 1,
        )
        for i in shown
    ]


def _drawn(
    pixels: np.ndarray,  # (H, W, 3) uint8
    shapes: Sequence[_Shape],
) -> Image.Image:
    """The image with masks, boxes and words on it, ``_SIDE`` pixels along its longer side."""
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
    named = shapes if len(shapes) <= NAMED else [s for s in shapes if s.width == _THICK]
    for shape in named:  # words after all boxes, so that none strikes them through
        fitting = image.width - pen.textlength(shape.words, font=_font()) - 1
        at = (
            max(0, min(shape.box[0] * scale + 1, fitting)),
            max(0, shape.box[1] * scale - _LINE + 2),
        )
        pen.rectangle(pen.textbbox(at, shape.words, font=_font()), fill=shape.color)
        pen.text(at, shape.words, fill="white", font=_font())
    return image


def _caption(scene: Scene, prediction: Prediction, pick: Pick, classes: Sequence[str]) -> str:
    name = classes[prediction.labels[pick.index]]
    nearest = f"IoU {pick.overlap:.2f}" if pick.overlap >= 0 else f"no {name} in the scene"
    return f"{scene.id}: {name} {prediction.scores[pick.index]:.2f}, {nearest}"


def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default()
