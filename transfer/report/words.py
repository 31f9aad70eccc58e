"""How values are written in the report."""

import json
import re
from typing import Any

from markupsafe import Markup

from msbreg.run.config import flat


def escaped(value: Any) -> str:
    """Text that Markdown, its tables and the HTML in it take for nothing but text."""
    if isinstance(value, Markup):  # what a template marked as safe is made of escaped parts
        return value
    text = re.sub(r"\s+", " ", str(value)).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"[\\`*|\[~#]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)


def settings(values: dict[str, Any]) -> str:
    """``views = 2, optimizer.base_lr = 4.0``, or ``none``."""
    return ", ".join(f"{k} = {json.dumps(v)}" for k, v in flat(values).items()) or "none"


def in_short(data: dict[str, Any]) -> dict[str, Any]:
    """What a record says of its data, without lists that may be long: skipped files, classes."""
    return {
        name: len(value) if name.endswith("classes") and isinstance(value, list) else value
        for name, value in flat(data).items()
        if not name.startswith("skipped")
    }


def some(rows: list[Any], most: int = 16) -> list[Any]:
    """The first, the last, and evenly spaced ones between, at most ``most``."""
    if len(rows) <= most:
        return rows
    return [rows[round(i * (len(rows) - 1) / (most - 1))] for i in range(most)]


def duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    if hours:
        return f"{hours} h {rest // 60:02d} min"
    return f"{rest // 60} min {rest % 60:02d} s" if rest >= 60 else f"{seconds:.1f} s"


def points(value: float) -> str:
    """A signed difference, with a minus as wide as the plus."""
    return f"{value:+.1f}".replace("-", "−")


def number(value: Any) -> str:
    """Thousands apart; four digits of what is no whole number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
