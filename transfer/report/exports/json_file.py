"""report.json: everything that the report says about scores, for programs.

``docs/records-and-reports.md`` describes the entries. ``SCHEMA`` changes when an entry is renamed, removed or
gets another meaning; new entries do not change it.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from transfer.report.collection import Network, seed_of
from transfer.report.exports.score_rows import ScoreRow, score_rows, sha256_of
from transfer.report.leaderboard import Board, Leaderboard
from transfer.report.runs import Run
from transfer.report.score_tables import Column, Entry
from transfer.report.verdict_section import VerdictRow, VerdictSection

SCHEMA = 1


def as_json(content: dict[str, Any]) -> bytes:
    """The report as JSON in UTF-8; values that are undefined are null.

    Args:
        content: of a report; its facts, networks, verdicts, leaderboard, paper tables and problems are used.
    """
    networks = content["networks"]
    report = {
        "schema": SCHEMA,
        "facts": dict(content["facts"]),
        "networks": [_network(network) for network in networks],
        "scores": [_score(row) for row in score_rows(networks)],
        "verdicts": _verdicts(content["verdicts"]),
        "leaderboard": _leaderboard(content["leaderboard"]),
        "paper_tables": content["paper_tables"],
        "unfinished": [_unfinished(run) for run in content["unfinished"][0]],
        "problems": content["unread"][0],
    }
    text = json.dumps(plain(report), indent=1, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode(errors="replace")


def plain(value: Any) -> Any:
    """A value as JSON types: data classes as objects, NaN and infinity as null, other types as text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(of) for key, of in value.items()}
    if isinstance(value, list | tuple):
        return [plain(of) for of in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _network(network: Network) -> dict[str, Any]:
    by_weights = {sha256_of(run): run for run in network.runs}
    return {
        "name": network.label,
        "architecture": network.arch,
        "untrained": network.random,
        "weights": [
            {"sha256": sha256, "seed": seed_of(run), **_origin(run)}
            for sha256, run in by_weights.items()
        ],
    }


def _origin(run: Run) -> dict[str, Any]:
    assert run.network is not None
    return {name: run.network[name] for name in ("source", "family", "details")}


def _score(row: ScoreRow) -> dict[str, Any]:
    return {
        "network": row.network.label,
        **_column(row.column),
        "images": row.images,
        **_entry(row.entry),
        "protocol": row.digest,
        "transform": row.transform,
        "fingerprints": row.fingerprints,
        "runs": [
            {
                "folder": str(run.folder),
                "kind": run.kind,
                "weights": sha256_of(run),
                "seed": seed_of(run),
                "value": score.value,
                "standard_error": score.stderr,
                "written": run.written,
                "incomplete": run.incomplete,
            }
            for run, score in row.found
        ],
        "classes": row.per_class(),
    }


def _column(column: Column) -> dict[str, Any]:
    return {
        "score": column.name,
        "rules": column.rules,
        "unit": column.unit,
        "higher_is_better": column.higher_is_better,
        "data": column.data,
    }


def _entry(entry: Entry | None) -> dict[str, Any]:
    if entry is None:
        return {"value": None, "spread": None, "spread_kind": None, "spread_n": None}
    known = entry.spread is not None
    return {
        "value": entry.mean,
        "spread": entry.spread,
        "spread_kind": entry.over if known else None,
        "spread_n": entry.n if known else None,
    }


def _verdicts(section: VerdictSection) -> dict[str, Any]:
    return {
        "margin": section.margin,
        "corrected_together": section.count,
        "comparisons": [_verdict(row) for table in section.tables for row in table.rows],
        "not_comparable": section.not_comparable,
        "left_out": section.left_out,
    }


def _verdict(row: VerdictRow) -> dict[str, Any]:
    return {
        "ours": row.ours,
        "theirs": row.theirs,
        "theirs_untrained": row.against_twin,
        **_column(row.column),
        "protocol": row.protocol,
        **plain(row.verdict),
        "our_value": row.our_entry.mean,
        "their_value": row.their_entry.mean,
        "untrained_value": row.floor.mean if row.floor else None,
    }


def _leaderboard(board: Leaderboard) -> dict[str, Any]:
    return {
        "boards": [_board(one) for one in board.boards],
        "mean_ranks": [{"network": label, "rank": rank} for label, rank in board.mean_ranks],
        "shared_protocols": board.shared,
        "remark": board.remark,
    }


def _board(board: Board) -> dict[str, Any]:
    return {
        **_column(board.column),
        "protocol": board.protocol,
        "remark": board.remark,
        "places": [
            {
                "name": place.label,
                "kind": place.kind,
                **(_entry(place.entry) if place.entry else {"value": place.value}),
                "best_rank": place.best or None,
                "worst_rank": place.worst or None,
            }
            for place in board.places
        ],
    }


def _unfinished(run: Run) -> dict[str, Any]:
    return {"folder": str(run.folder), "kind": run.kind, "status": run.status, "error": run.error}
