"""Formatting of values for the HTML page and for Markdown."""

import json
import re
from typing import Any

from markupsafe import Markup

from msbreg.run.config import flat

MAX_LENGTH = 600  # characters of a text from a record
# Kind of a run -> its name in a sentence.
_KINDS = {
    **{"pretrain": "pre-training", "knn": "kNN", "svm": "SVM", "dense_knn": "dense kNN"},
    **{"linear": "linear classification", "logistic": "logistic regression"},
    **{"semisupervised": "fine-tuning", "depth": "depth probe"},
}


def escaped(value: Any) -> str:
    """Escape text for Markdown, its tables and the HTML in it; applied to every expression."""
    if isinstance(value, Markup):  # made in this package from escaped parts
        return value
    text = re.sub(r"\s+", " ", str(value)).replace("&", "&amp;")
    text = text.replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"[\\`*|\[\]~#$]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)


def cut(value: Any, most: int = MAX_LENGTH) -> str:
    """The value as text, with its middle left out if it is longer than ``most`` characters."""
    text = str(value)
    if len(text) <= most:
        return text
    half = (most - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


def settings(values: dict[str, Any]) -> str:
    """``views = 2, optimizer.base_lr = 4.0``, or ``none``."""
    pairs = (f"{k} = {cut(json.dumps(v), 120)}" for k, v in flat(values).items())
    return cut(", ".join(pairs)) or "none"


def kind(name: str) -> str:
    """The name of a kind of run as it is written in a sentence.

    >>> kind("dense_knn"), kind("segmentation")
    ('dense kNN', 'segmentation')
    """
    return _KINDS.get(name, name.replace("_", " "))


def duration(seconds: float) -> str:
    """Hours and minutes, minutes and seconds, or seconds.

    >>> duration(3720)
    '1 h 02 min'
    """
    hours, rest = divmod(round(seconds), 3600)
    if hours:
        return f"{hours} h {rest // 60:02d} min"
    return f"{rest // 60} min {rest % 60:02d} s" if rest >= 60 else f"{seconds:.1f} s"


def points(value: float) -> str:
    """A difference with its sign; the minus sign is as wide as the plus sign."""
    return f"{value:+.1f}".replace("-", "−")


def number(value: Any) -> str:
    """A number with thousands separators, floats with four significant digits; other values as text."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return cut(value, 120)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def first_items(items: list[Any], most: int) -> tuple[list[Any], int]:
    """The first ``most`` items, and the number of the remaining ones."""
    return items[:most], max(0, len(items) - most)
