"""Drawings of label maps: images, the truth and the predictions side by side."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from msbreg.data.decoding import read_label_map
from msbreg.data.digits.writers import voc_palette
from msbreg.data.segmentation.label_maps import VOID, LabelMaps
from transfer.drawing.svg import GRAY

SHEET = "segmentation.webp"
_ROWS, _COLUMNS = 4, 2
_SIDE, _GAP, _LINE = (
    176,
    8,
    14,
)  # pixels: side of a picture, gap between pictures, height of a text line


def segmentation_sheet(source: LabelMaps, prediction: Callable[[int], Path]) -> Image.Image:
    """Draw images spread evenly over the split: image, truth and prediction in the same colors; void is gray.

    Args:
        prediction: index of an image -> the file of its prediction.
    """
    count = min(_ROWS * _COLUMNS, len(source))
    rows = -(-count // _COLUMNS)
    cell = (3 * (_SIDE + _GAP), _SIDE + _LINE + _GAP)
    sheet = Image.new("RGBA", (_COLUMNS * (cell[0] + 2 * _GAP), rows * cell[1] + _LINE + _GAP))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    pen.text((0, 0), "image, ground truth, prediction", fill=GRAY, font=font)
    for number in range(count):
        i = number * len(source) // count
        left = (number // rows) * (cell[0] + 2 * _GAP)
        top = _LINE + _GAP + (number % rows) * cell[1]
        pixels, truth, found = source.image(i), source.label(i), read_label_map(prediction(i))
        for place, picture in enumerate((pixels, colored(truth), colored(found))):
            sheet.paste(_fitted(picture, smooth=place == 0), (left + place * (_SIDE + _GAP), top))
        pen.text((left, top + _SIDE), Path(source.entry(i)).stem, fill=GRAY, font=font)
    return sheet


def colored(
    labels: np.ndarray,  # (H, W) uint8
) -> np.ndarray:  # (H, W, 3) uint8
    """VOC's colors of the labels; void is gray."""
    palette = np.array(voc_palette(), np.uint8).reshape(256, 3)
    palette[VOID] = 160
    return palette[labels]


def _fitted(pixels: np.ndarray, *, smooth: bool) -> Image.Image:
    height, width = pixels.shape[:2]
    scale = _SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    how = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    return Image.fromarray(pixels).resize(size, how)
