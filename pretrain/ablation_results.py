"""The scores of an ablation, read from the records of its cells, and the table beside the paper's."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msbreg.run.config import plain
from msbreg.run.record import read_record
from pretrain.ablation_tables import PaperTable, Row

NOTE = (
    "Ours and the paper's are different data, networks and protocols. Compare the differences between rows, "
    "not the values."
)


@dataclass(frozen=True)
class Score:
    """A score of one cell: its value in percent, and what it was measured on."""

    name: str
    data: str
    value: float


def completed(folder: Path) -> dict[str, Any] | None:
    """The record of a completed run; None if the folder has none."""
    record = read_record(folder)
    return record if record is not None and record["status"] == "done" else None


def score_of(folder: Path, evaluation: str) -> Score | None:
    """The score of the cell in this folder; None if there is none yet."""
    record = completed(folder)
    if record is None:
        return None
    if evaluation == "monitor":
        value = record["results"].get("knn_top1")
        data = f"{record['config']['data']}, held-out training images"
        return None if value is None else Score("kNN monitor", data, float(value))
    found = completed(folder / evaluation)
    if found is None:
        return None
    first = found["scores"][0]  # top-1; for kNN, with the first k
    return Score(first["name"], f"{first['data']['name']} {first['data']['split']}", first["value"])


def entries(
    table: PaperTable,
    rows: Sequence[Row],
    *,
    seeds: Sequence[int],
    evaluations: Sequence[str],
    folder_of: Callable[[Row, int], Path],
    failures: Mapping[tuple[str, int], str],
) -> Iterator[dict[str, Any]]:
    """For each row of the table: its settings, its scores by evaluation and seed, and the paper's score.

    Args:
        folder_of: row and seed -> the output folder of the cell.
        failures: row name and seed -> why the cell failed.
    """
    for row in rows:
        scores: dict[str, Any] = {}
        for evaluation in evaluations:
            found = {seed: score_of(folder_of(row, seed), evaluation) for seed in seeds}
            done = {seed: score for seed, score in found.items() if score is not None}
            values = [score.value for score in done.values()]
            some = next(iter(done.values()), None)
            scores[evaluation] = {
                "score": some and some.name,
                "data": some and some.data,
                "seeds": {str(seed): score.value for seed, score in done.items()},
                "mean": statistics.fmean(values) if values else None,
                "std": statistics.stdev(values) if len(values) > 1 else None,
            }
        yield {
            "name": row.name,
            "columns": dict(row.columns),
            "settings": plain(dict(row.settings)),
            "scores": scores,
            "failures": {str(s): why for (name, s), why in failures.items() if name == row.name},
            "paper": {"score": "linear top-1", "data": table.data, "value": row.paper},
        }


# ---- The table as text


def markdown(content: dict[str, Any]) -> str:
    """The table as Markdown, with aligned columns."""
    rows = content["rows"]
    evaluations = list(rows[0]["scores"])
    headings = ["row", *rows[0]["columns"]]
    for evaluation in evaluations:
        known = next(
            (r["scores"][evaluation] for r in rows if r["scores"][evaluation]["data"]), None
        )
        what = f"{known['score']}, {known['data']}" if known else evaluation
        headings.append(f"ours: {what}")
    headings.append(f"paper: linear top-1, {rows[0]['paper']['data']}")
    cells = [
        [row["name"], *row["columns"].values()]
        + [_text(row, evaluation, len(content["seeds"])) for evaluation in evaluations]
        + [f"{row['paper']['value']:g}"]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    lines = [headings, ["-" * width for width in widths], *cells]
    body = [
        "| "
        + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    ]
    title = f"Table {content['table']} of {content['source']}: {content['title']}"
    return "\n".join([f"# {title}", "", content["note"], "", *body, ""])


def _text(row: dict[str, Any], evaluation: str, seeds: int) -> str:
    score = row["scores"][evaluation]
    parts = []
    if score["mean"] is not None:
        spread = "" if score["std"] is None else f" ± {score['std']:.1f}"
        parts.append(f"{score['mean']:.1f}{spread}")
        if 1 < seeds != len(score["seeds"]):
            parts.append(f"({len(score['seeds'])} of {seeds} seeds)")
    if row["failures"]:
        parts.append(f"failed: seed {', '.join(row['failures'])}")
    return " ".join(parts)
