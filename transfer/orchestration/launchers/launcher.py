"""The interface of the launchers: how the tasks of a plan are run, and the command that runs one of them."""

import abc
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msbreg.run.config import plain
from msbreg.run.files import write_atomically
from transfer.orchestration.execution import Progress
from transfer.orchestration.task_graph import Plan

JOBS = "jobs"
"""Folder in the suite's output: the settings of the suite, and what each process printed."""
REPORT = "report"
"""In place of the key of a task: write the report."""


class Launcher(abc.ABC):
    """Runs the tasks of a plan: here, side by side, each with torchrun, or as jobs of a cluster."""

    @abc.abstractmethod
    def launch(
        self, plan: Plan, output: Path, *, anyway: bool, after_each: Callable[[], object]
    ) -> Progress:
        """Run what is not done yet, each task after those that it waits for.

        A failure stops only the tasks that need the failed one.

        Args:
            output: folder of the suite; the caller holds its lock.
            anyway: also evaluate networks whose gate says that they have not learned anything.
            after_each: called in this process whenever a run has ended.

        Raises:
            Interrupted, KeyboardInterrupt: Ctrl-C or SIGTERM; no task is running any more.
        """


@dataclass(frozen=True)
class SuiteCommand:
    """The command that runs one task of a suite in a process of its own.

    Attributes:
        script: transfer/suite.py.
        card: file with all settings of the suite.
    """

    script: Path
    card: Path

    def words(self, key: str) -> list[str]:
        """The script and its options, without the interpreter. ``key`` is of a task, or ``REPORT``."""
        return [str(self.script), f"--config={self.card}", f"--task={key}"]

    def python(self, key: str) -> list[str]:
        """The whole command for one process."""
        return [sys.executable, *self.words(key)]

    def log(self, key: str) -> Path:
        """The file for what the process of a task prints."""
        return self.card.with_name(f"{key.replace('/', '-')}.txt")


def save_command(config: Any, script: Path, output: Path) -> SuiteCommand:
    """Write the settings of a suite to OUTPUT/jobs/suite.yaml, from which its processes read them.

    Args:
        config: the suite's config, without the choice of a single task.
    """
    card = output.expanduser() / JOBS / "suite.yaml"
    card.parent.mkdir(parents=True, exist_ok=True)
    # JSON is YAML: strings stay strings, and null stays null.
    write_atomically(card, (json.dumps(plain(config), indent=1) + "\n").encode())
    return SuiteCommand(script, card)
