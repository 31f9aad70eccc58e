"""scores.csv: one line per network and score, for spreadsheets and data frames."""

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

from transfer.report.collection import Network
from transfer.report.exports.score_rows import ScoreRow, score_rows

COLUMNS = (
    "network",
    "architecture",
    "untrained",
    "data",
    "split",
    "data_fingerprint",
    "images",
    "score",
    "rules",
    "unit",
    "higher_is_better",
    "value",
    "spread",
    "spread_kind",
    "spread_n",
    "protocol",
    "seeds",
    "weights_sha256",
    "runs",
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # starts of cells that spreadsheets evaluate


def as_csv(content: dict[str, Any]) -> bytes:
    """All scores as CSV in UTF-8 with a header; several values in a cell are separated by ``;``.

    Undefined values and unknown spreads are empty. A text that a spreadsheet would evaluate gets a leading
    apostrophe.

    Args:
        content: of a report; the entry ``networks`` is used.
    """
    return scores_csv(content["networks"]).encode(errors="replace")


def scores_csv(networks: Sequence[Network]) -> str:
    """The table of ``as_csv`` as text."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in score_rows(networks):
        fields = _fields(row)
        assert tuple(fields) == COLUMNS
        writer.writerow([_cell(value) for value in fields.values()])
    return file.getvalue()


def _fields(row: ScoreRow) -> dict[str, Any]:
    column, mean = row.column, row.entry
    return {
        "network": row.network.label,
        "architecture": row.network.arch,
        "untrained": row.network.random,
        "data": column.data.name,
        "split": column.data.split,
        "data_fingerprint": column.data.fingerprint,
        "images": row.images,
        "score": column.name,
        "rules": column.rules,
        "unit": column.unit,
        "higher_is_better": column.higher_is_better,
        "value": mean.mean,
        "spread": mean.spread,
        "spread_kind": mean.over if mean.spread is not None else "",
        "spread_n": mean.n if mean.spread is not None else "",
        "protocol": row.digest,
        "seeds": ";".join(row.seeds),
        "weights_sha256": ";".join(row.weights),
        "runs": ";".join(str(run.folder) for run, _ in row.found),
    }


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return str(value)
