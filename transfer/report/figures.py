"""Training curves as inline SVG, and neighbors as inline PNG."""

import base64
import io
import re
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image, UnidentifiedImageError

from transfer.drawing.svg import BLUE, GRAY, GREEN, ORANGE, PURPLE, STYLE, svg_of
from transfer.report.runs import is_number

Curve = list[dict[str, Any]]

_STYLE: Any = STYLE | {
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "lines.linewidth": 1.5,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "legend.handlelength": 1.2,
    "legend.labelspacing": 0.25,
}
# One tone for what is about classes, one for boxes; dashed are the proposals.
_DETECTOR_LOSSES = {
    "total_loss": ("total", GRAY),
    "loss_mask": ("masks", GREEN),
    "loss_cls": ("classes", BLUE),
    "loss_box_reg": ("boxes", ORANGE),
    "loss_rpn_cls": ("proposals, objectness", BLUE + "--"),
    "loss_rpn_loc": ("proposals, boxes", ORANGE + "--"),
}
_DETECTOR_SCORES = {
    "box_AP50": ("box AP50", BLUE + "--"),
    "box_AP": ("box AP", BLUE),
    "mask_AP50": ("mask AP50", GREEN + "--"),
    "mask_AP": ("mask AP", GREEN),
}
THUMBNAIL = 64  # pixels
# What an <svg> inside a page has no use for: addresses, a size, rules and ids that the page shares.
_CLEANED = (
    (r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", ""),
    (r'(?<=<svg) [^>]*?(viewBox="[^"]*")[^>]*', r" \1"),
    (r'<g id="[^"]*"', "<g"),
    (r" font-family: [^;]*;| transform=\"rotate\(-0 [^\"]*\"", ""),
    (r"\s*\n\s*", "\n"),
)


def training_curves(
    curve: Curve,
    config: dict[str, Any],
    *,
    name: str,  # another one for each figure of a page: it keeps the SVGs' ids apart
) -> str:
    """Eight small multiples over epochs, as one ``<svg>`` element."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(10.4, 4.6), layout="constrained")
        axes = figure.subplots(2, 4)
        watch = config.get("diagnostics", {})
        _losses(axes[0, 0], curve, config)
        _lines(axes[0, 1], curve, "kNN monitor, top-1 [%]", {"knn_top1": ("", GREEN)})
        _lines(axes[0, 2], curve, "std per dimension × √D", {"std": ("", BLUE)})
        _lines(axes[0, 3], curve, "effective rank", {"effective_rank": ("", BLUE)})
        _level(axes[0, 1], curve[0].get("knn_top1"), "before training")
        _level(axes[0, 2], watch.get("least_std"), "collapse")
        _level(axes[0, 3], watch.get("least_rank"), "collapse")
        pair = {"alignment": ("alignment", BLUE), "uniformity": ("uniformity", ORANGE)}
        _lines(axes[1, 0], curve, "alignment, uniformity", pair)
        _spectrum(axes[1, 1], curve)
        _lines(axes[1, 2], curve, "learning rate", {"learning_rate": ("", PURPLE)})
        _lines(axes[1, 3], curve, "decay of the target", {"target_decay": ("", PURPLE)})
        for ax in axes.flat:
            ax.grid(color=GRAY, alpha=0.22, linewidth=0.5)
            if ax is not axes[1, 1]:
                ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        for ax in (axes[1, 0], axes[1, 2], axes[1, 3]):
            ax.set_xlabel("epoch")
        return _svg(figure)


def detector_curves(
    curve: Curve,
    *,
    name: str,  # another one for each figure of a page
) -> str:
    """Losses, learning rate and, where there were several evaluations, AP over iterations."""
    losses = [row for row in curve if "scores" not in row]
    scores = [{**row, **row["scores"]} for row in curve if isinstance(row.get("scores"), dict)]
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(10.4, 2.6), layout="constrained")
        axes = figure.subplots(1, 3 if len(scores) > 1 else 2)
        _lines(axes[0], losses, "loss", _DETECTOR_LOSSES, "iteration")
        _lines(axes[1], losses, "learning rate", {"learning_rate": ("", PURPLE)}, "iteration")
        if len(scores) > 1:
            _lines(axes[2], scores, "AP, AP50 [%]", _DETECTOR_SCORES, "iteration")
        for ax in axes:
            ax.grid(color=GRAY, alpha=0.22, linewidth=0.5)
            ax.set_xlabel("iteration")
            ax.set_xlim(left=0)
            ax.set_ylim(bottom=0)
        return _svg(figure)


def _losses(ax: Axes, curve: Curve, config: dict[str, Any]) -> None:
    """The terms times their weights, so that they add up to the total."""
    terms = {"total": ("total", GRAY, 1.0)}
    if config.get("method") == "msbreg":
        terms |= {
            "centroid": ("centroid", BLUE, 1.0),
            "singular_value": ("λ singular value", ORANGE, config.get("lambda_s", 1.0)),
            "brownian": ("λ Brownian", GREEN, config.get("lambda_b", 1.0)),
        }
    weighted = [
        {"epoch": row["epoch"]}
        | {k: row[k] * w for k, (_, _, w) in terms.items() if is_number(row.get(k))}
        for row in curve
    ]
    _lines(ax, weighted, "loss, weighted terms", {k: v[:2] for k, v in terms.items()})


def _lines(
    ax: Axes,
    curve: Curve,
    title: str,
    lines: dict[str, tuple[str, str]],  # what a row has -> label, color (with "--": dashed)
    over: str = "epoch",
) -> None:
    ax.set_title(title)
    for name, (label, look) in lines.items():
        points = [(row[over], row[name]) for row in curve if is_number(row.get(name))]
        if points:
            ax.plot(
                *zip(*points, strict=True),
                color=look.removesuffix("--"),
                linestyle=(0, (3, 1.5)) if look.endswith("--") else "-",
                label=label,
                marker="o" if len(points) <= 12 else "",
                markersize=3,
            )
    if not ax.lines:
        _say(ax, "not recorded")
    elif len(lines) > 1:
        ax.legend(ncols=2 if len(lines) > 4 else 1)


def _level(ax: Axes, value: float | None, words: str) -> None:
    if value is not None and is_number(value) and ax.lines:
        ax.axhline(value, color=GRAY, linestyle=(0, (4, 3)), linewidth=1)
        ax.annotate(
            words,
            (1, value),
            xycoords=("axes fraction", "data"),
            xytext=(-1, 2),
            textcoords="offset points",
            ha="right",
            fontsize=7.5,
        )
        ax.margins(y=0.12)


def _spectrum(ax: Axes, curve: Curve) -> None:
    """Singular values of the last epoch that has them, and of the first."""
    rows = [row for row in curve if row.get("spectrum")]
    ax.set_title("singular values")
    if not rows:
        _say(ax, "not recorded")
        return
    for row, color in ((rows[0], GRAY), (rows[-1], BLUE)) if len(rows) > 1 else ((rows[0], BLUE),):
        values = row["spectrum"]
        ax.plot(range(1, len(values) + 1), values, color=color, label=f"epoch {row['epoch']}")
    if any(value > 0 for row in rows for value in row["spectrum"]):
        ax.set_yscale("log")
    ax.set_xlabel("index")
    ax.legend()


def _say(ax: Axes, words: str) -> None:
    ax.text(0.5, 0.5, words, ha="center", va="center", transform=ax.transAxes)
    ax.set_xticks([])
    ax.set_yticks([])


def _svg(figure: Figure) -> str:
    """The element alone: no prologue, no metadata, no address of any kind."""
    svg = svg_of(figure)
    svg = svg[svg.index("<svg") :]
    for pattern, by in _CLEANED:
        svg = re.sub(pattern, by, svg, flags=re.DOTALL)
    return svg.replace("<svg", '<svg role="img" aria-label="Training curves"', 1)


def thumbnail(path: Path) -> str | None:
    """The image as a PNG data URI about ``THUMBNAIL`` pixels high; None if it cannot be read.

    A small one is enlarged by whole factors with nearest neighbor: its pixels stay what they are.
    """
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
        return None
    factor = THUMBNAIL // max(image.size)
    if factor >= 1:
        image = image.resize(
            (image.width * factor, image.height * factor), Image.Resampling.NEAREST
        )
    else:
        image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
