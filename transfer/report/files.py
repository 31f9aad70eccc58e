"""The files that runs leave beside their records; what is missing or broken is said in words."""

import json
from pathlib import Path
from typing import Any


def read_curve(folder: Path) -> list[dict[str, Any]] | str:
    """Rows of curve.jsonl, or why there are none."""
    path = folder / "curve.jsonl"
    text = _text(path)
    if text is None:
        return f"{path} is not there: this run left no training curve."
    try:
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    except json.JSONDecodeError as error:
        return f"{path} cannot be read ({error})."
    if not rows or not all(isinstance(row, dict) and "epoch" in row for row in rows):
        return f"{path} holds no epoch."
    return rows


def read_neighbours(folder: Path) -> list[dict[str, Any]] | str:
    """Queries with their neighbours, or why there are none."""
    return _rows(folder / "neighbours.json", list, {"path", "class", "neighbours"})


def read_per_class(folder: Path) -> dict[str, dict[str, Any]] | str:
    """Class -> its average precision and cost, or why there are none."""
    return _rows(folder / "per_class.json", dict, {"ap"})


def _rows(path: Path, container: type[list] | type[dict], keys: set[str]) -> Any:
    text = _text(path)
    if text is None:
        return f"{path} is not there."
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        return f"{path} cannot be read ({error})."
    if isinstance(content, container):
        rows: list[Any] = list(content.values()) if isinstance(content, dict) else content
        if all(isinstance(row, dict) and keys <= set(row) for row in rows):
            return content
    return f"{path} is not as this suite writes it."


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return None
