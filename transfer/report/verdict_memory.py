"""Comparisons of earlier reports, so that a report that is written again repeats no bootstrap.

A comparison is known by the contents of the files it was computed from, not by their names or dates.
"""

import dataclasses
import enum
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msbreg.run.errors import UserError
from msbreg.run.files import open_regular, write_atomically
from msbreg.run.json_files import Shape, misfits, read_json
from transfer.report import formatting
from transfer.report.exports.score_rows import ScoreRow, sha256_of
from transfer.report.runs import Run
from transfer.report.score_tables import Column
from transfer.verdicts.bootstrap import DRAWS, Resampled, resample
from transfer.verdicts.comparison import Comparison, check_comparable, compare_resampled
from transfer.verdicts.outcomes import FILE, FORMAT, Outcomes, load_outcomes

FILE_NAME = "verdicts.json"
VERSION = 2
"""Changes when ``compare`` computes something else from the same outcomes."""
_NUMBERS = ("difference", "stderr", "degrees")
_SHAPE: Shape = {**dict.fromkeys(_NUMBERS, (int, float)), "units": int, "seeds": list}


class Missing(enum.Enum):
    """Why there is no comparison yet."""

    OUTCOMES = "a run did not save its outcomes"
    TIME = "it was not to be computed"


class Memory:
    """Comparisons by what they were computed from.

    Args:
        path: file of an earlier report; one that is missing or damaged is an empty memory. None: no file.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._known = _read(path) if path is not None else {}
        self._used: dict[str, dict[str, Any] | str] = {}
        self._load = functools.lru_cache(maxsize=32)(load_outcomes)
        self._resampled: dict[tuple[str, Column], Resampled] = {}
        self._digest = functools.cache(_digest)

    def compare(
        self, ours: ScoreRow, theirs: ScoreRow, *, compute: bool = True
    ) -> Comparison | str | Missing:
        """The comparison of two rows of one column, or why there is none.

        Args:
            compute: whether a comparison that is not known is computed.

        Returns:
            The comparison; or a text that says why the outcomes do not go together; or what is missing.
        """
        column = ours.column
        try:
            of = [self._runs(row) for row in (ours, theirs)]
            if not all(of):
                return Missing.OUTCOMES
            key = _key(column, [[digest for digest, _ in runs] for runs in of])
            if key not in self._known:
                if not compute:
                    return Missing.TIME
                self._known[key] = self._computed(column, *of)
        except UserError as error:
            return formatting.cut(error)
        found = self._used[key] = self._known[key]
        return found if isinstance(found, str) else _comparison(column, found)

    def _runs(self, row: ScoreRow) -> list[tuple[str, Run]]:
        """The runs that stand for the row, with the digests of their outcomes; none if one has no outcomes.

        They are the first run on each set of weights. If there is only one set of weights, they are all runs
        whose outcomes differ, such as the trials of a detector.
        """
        first: dict[str, Run] = {}
        for run, _ in row.found:
            first.setdefault(sha256_of(run), run)
        runs = list(first.values()) if len(first) > 1 else [run for run, _ in row.found]
        if not all((run.folder / FILE).is_file() for run in runs):
            return []
        found = [(self._digest(run.folder / FILE), run) for run in runs]
        if len(first) > 1:
            return found
        different: dict[str, Run] = {}
        for digest, run in found:
            different.setdefault(digest, run)
        return list(different.items())

    def _computed(
        self, column: Column, ours: Sequence[tuple[str, Run]], theirs: Sequence[tuple[str, Run]]
    ) -> dict[str, Any] | str:
        try:
            self._resample(column, dict([*ours, *theirs]))
            done = compare_resampled(
                *([self._resampled[digest, column] for digest, _ in of] for of in (ours, theirs)),
                higher_is_better=column.higher_is_better,
            )
        except UserError as error:
            return formatting.cut(error)
        return {name: getattr(done, name) for name in (*_NUMBERS, "units")} | {
            "seeds": list(done.seeds)
        }

    def _resample(self, column: Column, runs: Mapping[str, Run]) -> None:
        """Score those runs on the resamples that have not been; a run is in many comparisons."""
        new = {
            digest: self._outcomes(run, column)
            for digest, run in runs.items()
            if (digest, column) not in self._resampled
        }
        known = [one.of for d in runs if (one := self._resampled.get((d, column))) is not None]
        every = [*new.values(), *known]
        check_comparable(every, every)
        for digest, one in zip(new, resample(list(new.values())), strict=True):
            self._resampled[digest, column] = one

    def _outcomes(self, run: Run, column: Column) -> Outcomes:
        wanted = (column.name, column.rules, column.data)
        for each in self._load(run.folder):
            if (each.score, each.rules, each.data) == wanted:
                return each
        raise UserError(f"{run.folder / FILE} has no outcomes of {column.name}")

    def save(self) -> None:
        """Write the comparisons that were used since the memory was made, if there is a file.

        Raises:
            RunFailed: the file cannot be written.
        """
        if self.path is not None and self._used:
            content = {"version": VERSION, "comparisons": self._used}
            write_atomically(self.path, json.dumps(content, indent=1).encode())


def _digest(path: Path) -> str:
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def _key(column: Column, digests: list[list[str]]) -> str:
    parts = [FORMAT, DRAWS, dataclasses.asdict(column), digests]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _comparison(column: Column, fields: dict[str, Any]) -> Comparison:
    return Comparison(
        score=column.name,
        rules=column.rules,
        data=column.data,
        higher_is_better=column.higher_is_better,
        difference=fields["difference"],
        stderr=fields["stderr"],
        degrees=fields["degrees"],
        units=fields["units"],
        seeds=tuple(fields["seeds"]),
    )


def _read(path: Path) -> dict[str, dict[str, Any] | str]:
    """The comparisons in a file; entries that are not valid are computed again."""
    if not path.is_file():
        return {}
    try:
        content = read_json(path)
    except UserError:  # damaged: everything is computed again
        return {}
    known = content.get("comparisons") if isinstance(content, dict) else None
    if not isinstance(known, dict) or content.get("version") != VERSION:
        return {}
    return {
        key: value for key, value in known.items() if isinstance(value, str) or _is_valid(value)
    }


def _is_valid(fields: Any) -> bool:
    return (
        not misfits(fields, _SHAPE)
        and all(fields[name] > 0 for name in ("stderr", "degrees", "units"))
        and [type(count) for count in fields["seeds"]] == [int, int]
    )
