"""The files that runs leave beside their records; what is missing or broken is said in words."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transfer.report.runs import is_number


def read_curve(folder: Path, over: str = "epoch") -> list[dict[str, Any]] | str:
    """Rows of curve.jsonl, or why there are none.

    Args:
        over: what each row has, epoch or iteration.
    """
    path = folder / "curve.jsonl"
    text = _text(path)
    if text is None:
        return f"{path} is not there: this run left no training curve."
    try:
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    except json.JSONDecodeError as error:
        return f"{path} cannot be read ({error})."
    if not rows or not all(isinstance(row, dict) and is_number(row.get(over)) for row in rows):
        return f"{path} holds no {over}."
    return rows


def read_neighbors(folder: Path) -> list[dict[str, Any]] | str:
    """Queries with their neighbors, or why there are none."""
    if not (folder / "neighbors.json").exists() and (folder / "neighbours.json").exists():
        rows = _rows(folder / "neighbours.json", list, {"path", "class", "neighbours"})  # of 0.1.0
        if isinstance(rows, str):
            return rows
        return [row | {"neighbors": row["neighbours"]} for row in rows]
    return _rows(folder / "neighbors.json", list, {"path", "class", "neighbors"})


@dataclass(frozen=True)
class ClassRow:
    """Scores of one class.

    Attributes:
        what: box or mask; empty of a protocol that scores images.
        numbers: AP in percent, and what else there is.
    """

    what: str
    name: str
    numbers: dict[str, Any]


def read_per_class(folder: Path, *, detection: bool) -> list[ClassRow] | str:
    """Rows of per_class.json, or why there are none."""
    path = folder / "per_class.json"
    if not detection:
        found = _rows(path, dict, {"ap"})
        if isinstance(found, str):
            return found
        return [ClassRow("", name, {"AP": row["ap"]}) for name, row in found.items()]
    found = _rows(path, dict, {"classes"})
    if isinstance(found, str):
        return found
    lists = all(isinstance(table["classes"], list) for table in found.values())
    rows = [(what, row) for what, table in found.items() if lists for row in table["classes"]]
    if lists and all(
        isinstance(row, dict) and isinstance(row.get("class"), str) for _, row in rows
    ):
        return [ClassRow(what, row["class"], row) for what, row in rows]
    return f"{path} is not as this suite writes it."


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
