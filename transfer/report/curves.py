"""Plots of curve.jsonl. A table defines which quantities share a plot; unknown ones get their own.

A row has an ``epoch`` or an ``iteration`` and numbers; a row of an evaluation has them in ``scores``.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from msbreg.run.errors import UserError
from msbreg.run.json_files import is_number, parse_json_lines, read_bytes
from transfer.drawing.figure_memory import remembered
from transfer.drawing.svg import BLUE, GRAY, GREEN, ORANGE, PURPLE, Line, Panel, plots

LIMIT = 64_000_000  # bytes of a curve.jsonl
_LARGEST = 1e30  # larger values are not drawn
_MOST_UNKNOWN = 4  # plots of quantities that are not in the table
_OVER = ("epoch", "iteration")


@dataclass(frozen=True)
class Quantity:
    """One line of a plot.

    Attributes:
        key: its name in a row of the curve.
        weight: name of the setting that its values are multiplied by.
    """

    key: str
    label: str
    color: str
    dashed: bool = False
    weight: str = ""


# Title -> quantities of the plot. Loss terms are multiplied by their weights: they add up to the total.
_PLOTS = {
    "loss": (
        Quantity("total", "total", GRAY),
        Quantity("centroid", "centroid", BLUE),
        Quantity("singular_value", "λ singular value", ORANGE, weight="lambda_s"),
        Quantity("brownian", "λ Brownian", GREEN, weight="lambda_b"),
    ),
    "losses": (
        Quantity("total_loss", "total", GRAY),
        Quantity("loss_decode", "labels", BLUE),
        Quantity("loss_mask", "masks", GREEN),
        Quantity("loss_keypoint", "keypoints", PURPLE),
        Quantity("loss_cls", "classes", BLUE),
        Quantity("loss_box_reg", "boxes", ORANGE),
        Quantity("loss_rpn_cls", "proposal scores", BLUE, dashed=True),
        Quantity("loss_rpn_loc", "proposal boxes", ORANGE, dashed=True),
    ),
    "scores [%]": (
        Quantity("box_AP50", "box AP50", BLUE, dashed=True),
        Quantity("box_AP", "box AP", BLUE),
        Quantity("mask_AP50", "mask AP50", GREEN, dashed=True),
        Quantity("mask_AP", "mask AP", GREEN),
        Quantity("keypoint_AP50", "keypoint AP50", PURPLE, dashed=True),
        Quantity("keypoint_AP", "keypoint AP", PURPLE),
    ),
    "kNN monitor, top-1 [%]": (Quantity("knn_top1", "", GREEN),),
    "std per dimension × √D": (Quantity("std", "", BLUE),),
    "effective rank": (Quantity("effective_rank", "", BLUE),),
    "alignment and uniformity": (
        Quantity("alignment", "alignment", BLUE),
        Quantity("uniformity", "uniformity", ORANGE),
    ),
    "RankMe": (
        Quantity("rankme_backbone", "backbone", BLUE),
        Quantity("rankme", "embeddings", ORANGE),
    ),
    "covariance: mean (eigenvalue − 1)²": (Quantity("identity_deviation", "", BLUE),),
    "covariance: eigenvalues": (
        Quantity("largest_eigenvalue", "largest", BLUE),
        Quantity("smallest_eigenvalue", "smallest", ORANGE),
    ),
    "learning rate": (Quantity("learning_rate", "", PURPLE),),
    "target decay": (Quantity("target_decay", "", PURPLE),),
}
# Title -> start of the keys of a plot whose lines depend on the run, the terms of its loss; and how many
# lines have a legend that fits.
_FAMILIES = {
    "share of the gradient": ("force_share/", 6),
    "cosine between gradients": ("force_cosine/", 3),
}
_FAMILY_COLORS = (BLUE, ORANGE, GREEN, PURPLE, GRAY)
# Alignment and uniformity in Table 12 of the MSBReg paper (arXiv 2207.03552).
_PUBLISHED = ((0.25, -1.52, "a"), (0.27, -2.95, "b"), (0.26, -2.92, "c"), (0.36, -3.8, "d"))
_PUBLISHED_CAPTION = (
    "Crosses in the plane of alignment and uniformity are Table 12 of arXiv 2207.03552 (ImageNet-100, "
    "ResNet-18): a BYOL, 71.9 %; b BYOL + uniformity loss, 72.1 %; c BYOL + Brownian + singular value loss, "
    "72.8 %; d MSBReg with 4 views, 80.4 %. The paper does not state of which layer they are (A30 in "
    "docs/ambiguities.md), so only directions can be compared with this run, not positions: down is more "
    "uniform, left is better aligned."
)
_LEVELS = {"std": "diagnostics.least_std", "effective_rank": "diagnostics.least_rank"}
_NOT_DRAWN = {*_OVER, "step", "images_per_second", "spectrum", "scores"}


@dataclass(frozen=True)
class Curve:
    """A plotted curve.

    Attributes:
        over: name of the x axis: epoch or iteration.
        last: its last value.
        rows: number of rows in the file.
        sample: at most 8 rows for a table: column -> number, or None.
        caption: what the figure does not say itself; may be empty.
    """

    over: str
    last: float
    rows: int
    figure: Markup
    sample: list[dict[str, Any]]
    caption: str = ""


def draw_curve(folder: Path, numbers: dict[str, float], label: str) -> Curve:
    """Read and plot ``curve.jsonl`` of a run.

    Args:
        numbers: numeric settings of the run, by dotted name.
        label: name of the run, for screen readers.

    Raises:
        UserError: the file is missing or is not a curve.
    """
    path = folder / "curve.jsonl"
    content = read_bytes(path, LIMIT)
    return remembered(
        lambda: _drawn(path, content, numbers, label), content, sorted(numbers.items()), label
    )


def _drawn(path: Path, content: bytes, numbers: dict[str, float], label: str) -> Curve:
    rows = parse_json_lines(path, content)
    over = next((o for o in _OVER if rows and all(_has(row, o) for row in rows)), None)
    if over is None:
        raise UserError(
            f"{path} is not a training curve: some rows have neither epoch nor iteration."
        )
    flat_rows = [
        row | row["scores"] if isinstance(row.get("scores"), dict) else row for row in rows
    ]
    series = _series(flat_rows, over)
    panels = [
        panel
        for title, quantities in _PLOTS.items()
        if (panel := _panel(title, quantities, series, numbers, over, len(rows) == 1)).lines
    ]
    plane = _plane(flat_rows, over)
    families = [_family(title, *keys, series, over) for title, keys in _FAMILIES.items()]
    panels += [panel for panel in (plane, *families) if panel is not None]
    known = {quantity.key for quantities in _PLOTS.values() for quantity in quantities}
    own = {key for row in rows for key in row}  # excludes the scores of evaluations
    others = [
        key
        for key in series
        if key in own and key not in known | _NOT_DRAWN and not key.startswith("force")
    ]
    panels += [Panel(key[:40], [Line(series[key], GRAY)], over) for key in others[:_MOST_UNKNOWN]]
    if spectrum := _spectrum(rows, over):
        panels.append(spectrum)
    # One drawing per plot, so that the page can put as many side by side as fit.
    figure = "".join(
        plots([panel], columns=1, label=f"{panel.title} of {label}")
        for panel in panels or [Panel("curve", [])]
    )
    sample, caption = _sample(flat_rows, over), _PUBLISHED_CAPTION if plane else ""
    return Curve(over, float(rows[-1][over]), len(rows), Markup(figure), sample, caption)


def _has(row: Any, over: str) -> bool:
    return isinstance(row, dict) and is_number(row.get(over)) and abs(row[over]) < _LARGEST


def _series(rows: list[dict[str, Any]], over: str) -> dict[str, list[tuple[float, float]]]:
    """The points of every numeric quantity."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for key, value in row.items():
            if is_number(value) and abs(value) < _LARGEST:
                series.setdefault(key, []).append((float(row[over]), float(value)))
    return {key: sorted(points) for key, points in series.items()}


def _panel(
    title: str,
    quantities: tuple[Quantity, ...],
    series: dict[str, list[tuple[float, float]]],
    numbers: dict[str, float],
    over: str,
    only_row: bool,
) -> Panel:
    """A plot of the quantities with at least two points, or one if the curve has a single row."""
    lines = []
    for quantity in quantities:
        factor = numbers.get(quantity.weight, 1.0)
        points = [(x, factor * y) for x, y in series.get(quantity.key, [])]
        if len(points) > (0 if only_row else 1) and all(abs(y) < _LARGEST for _, y in points):
            lines.append(Line(points, quantity.color, quantity.label, quantity.dashed))
    setting = _LEVELS.get(quantities[0].key)
    level = numbers.get(setting, _LARGEST) if setting else _LARGEST
    return Panel(title, lines, over, [(level, "collapse")] if abs(level) < _LARGEST else [])


def _plane(rows: list[dict[str, Any]], over: str) -> Panel | None:
    """The path of the run in the plane of alignment and uniformity; None if it has no such metrics."""
    drawn = [
        row
        for row in sorted(rows, key=lambda row: float(row[over]))
        if all(
            is_number(row.get(key)) and abs(row[key]) < _LARGEST
            for key in ("alignment", "uniformity")
        )
    ]
    if not drawn:
        return None
    path = [(float(row["alignment"]), float(row["uniformity"])) for row in drawn]
    last = Line(path[-1:], ORANGE, f"to {over} {drawn[-1][over]:g}")
    lines = [Line(path, BLUE, f"from {over} {drawn[0][over]:g}"), last]
    return Panel("uniformity over alignment", lines, "alignment", marks=_PUBLISHED)


def _family(
    title: str,
    start: str,
    most: int,
    series: dict[str, list[tuple[float, float]]],
    over: str,
) -> Panel | None:
    """A plot of the first quantities whose keys have this start; None if there are none."""
    keys = [key for key in series if key.startswith(start)][:most]
    lines = [
        Line(
            series[key],
            _FAMILY_COLORS[number % len(_FAMILY_COLORS)],
            key.removeprefix(start).replace("_", " ").replace(",", ", ")[:40],
            dashed=number >= len(_FAMILY_COLORS),
        )
        for number, key in enumerate(keys)
    ]
    return Panel(title, lines, over) if lines else None


def _spectrum(rows: list[dict[str, Any]], over: str) -> Panel | None:
    """Singular values of the first and the last row that have them; None if no row has."""
    found = [
        row
        for row in rows
        if isinstance(row.get("spectrum"), list)
        and row["spectrum"]
        and all(is_number(v) and abs(v) < _LARGEST for v in row["spectrum"])
    ]
    if not found:
        return None
    drawn = [(found[0], GRAY), (found[-1], BLUE)] if len(found) > 1 else [(found[0], BLUE)]
    lines = [
        Line(list(enumerate(map(float, row["spectrum"]), 1)), color, f"{over} {row[over]:g}")
        for row, color in drawn
    ]
    positive = any(value > 0 for row, _ in drawn for value in row["spectrum"])
    return Panel("singular values", lines, "index", log=positive)


def _sample(rows: list[dict[str, Any]], over: str, most: int = 8) -> list[dict[str, Any]]:
    """Evenly spaced rows, including the first and the last, with the columns of a table."""
    if len(rows) > most:
        rows = [rows[round(k * (len(rows) - 1) / (most - 1))] for k in range(most)]
    known = [q.key for quantities in _PLOTS.values() for q in quantities if q.key in rows[-1]]
    keys = [over, *(known or [k for k in rows[-1] if k not in _NOT_DRAWN])][:8]
    return [{key: row[key] if is_number(row.get(key)) else None for key in keys} for row in rows]
