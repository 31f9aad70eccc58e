"""curve.jsonl: losses and scores over the iterations, one JSON object a line."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msbreg.run import distributed
from msbreg.run.errors import UserError
from msbreg.run.record import write_atomically
from transfer.detectors.train_loop import State


class Curve:
    """Appends rows; a continued run first drops what lies behind its checkpoint.

    A row of losses has ``iteration`` and the means since the row before; a row of scores has
    ``iteration`` and ``scores``.
    """

    def __init__(self, folder: Path, state: State) -> None:
        self.path = folder / "curve.jsonl"
        if distributed.is_main():
            kept = [line for line in _lines(self.path) if _before(json.loads(line), state)]
            with self._written():
                write_atomically(self.path, "".join(line + "\n" for line in kept).encode())

    def add(self, row: dict[str, Any]) -> None:
        """Write one row.

        Raises:
            UserError: the disk is full, or the file cannot be written.
        """
        if distributed.is_main():
            with self._written(), open(self.path, "a") as file:
                file.write(json.dumps(row) + "\n")

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"cannot write {self.path}: {error.strerror or error}.\n"
                "Free some space; the same command then continues."
            ) from error


def _lines(path: Path) -> list[str]:
    """The whole lines; the last may have been cut off by a kill."""
    if not path.is_file():
        return []
    lines = path.read_text(errors="replace").split("\n")[:-1]
    return [line for line in lines if line.startswith("{") and line.endswith("}")]


def _before(row: dict[str, Any], state: State) -> bool:
    return row["iteration"] <= (state.evaluated_at if "scores" in row else state.iteration)
