"""Send completed runs to Weights & Biases. The only file that imports wandb.

Its environment variables apply: WANDB_MODE=offline writes to WANDB_DIR without a server, for ``wandb sync``.
"""

import json
from pathlib import Path
from typing import Any

import wandb

from msbreg.run.errors import UserError
from msbreg.run.files import write_atomically
from tools.sinks.finished_run import FinishedRun

MARK = "sent_to_wandb.json"
"""File in the folder of a run: project -> id of the run that was sent."""


class WandbSink:
    """A project of Weights & Biases.

    A sent run is remembered in its folder. If sending was interrupted, the run continues under its id.
    """

    def __init__(self, project: str) -> None:
        self.project = project
        self._sent: set[str] = set()

    def has(self, run: FinishedRun) -> bool:
        """Whether the run was sent to this project, as its folder says, or a copy of it just now."""
        return run.id in self._sent or _marks(run.folder).get(self.project) == run.id

    def send(self, run: FinishedRun) -> str:
        """Send a run; returns its address, or its local folder if offline.

        Raises:
            UserError: wandb refuses, for example because nobody is logged in.
        """
        try:
            where = self._log(run)
        except wandb.errors.Error as error:
            raise UserError(
                f"wandb cannot send {run.folder}: {error}\nLog in with: wandb login, or work without a "
                "server: WANDB_MODE=offline"
            ) from error
        marks = _marks(run.folder) | {self.project: run.id}
        write_atomically(run.folder / MARK, json.dumps(marks, indent=1).encode())
        self._sent.add(run.id)
        return where

    def _log(self, run: FinishedRun) -> str:
        # Only the record is sent: no code, no patch of the repository, no statistics of this machine.
        settings = wandb.Settings(
            save_code=False, disable_git=True, x_disable_stats=True, console="off", silent=True
        )
        with wandb.init(
            project=self.project,
            id=run.id,
            resume="allow",
            name=run.name,
            job_type=run.kind,
            config=run.settings,
            settings=settings,
        ) as sent:
            for step, row in _by_step(run):
                sent.log(row, step=step)
            sent.summary.update(run.metrics)
            artifact = wandb.Artifact(f"record-{run.id}", type="record")
            artifact.add_file(str(run.record))
            sent.log_artifact(artifact)
            return sent.url or str(Path(sent.dir).parent)


def _by_step(run: FinishedRun) -> list[tuple[int, dict[str, float]]]:
    """The history in the order of steps, one row for each: wandb ignores rows of earlier steps."""
    rows: dict[int, dict[str, float]] = {}
    for step, row in run.history:
        rows[step] = rows.get(step, {}) | row
    return sorted(rows.items())


def _marks(folder: Path) -> dict[str, Any]:
    path = folder / MARK
    if not path.is_file():
        return {}
    try:
        marks = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); delete it to send the run again") from error
    return marks if isinstance(marks, dict) else {}
