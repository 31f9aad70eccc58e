"""One run of a suite: a protocol on a network, with all of its settings.

A plan is a list of tasks in an order in which each comes after those that it needs. Nothing here imports
PyTorch, so that tools can work on a plan that was made elsewhere.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msbreg.run.config import Card


@dataclass(frozen=True)
class Task:
    """One run of a script of transfer/.

    Attributes:
        network: the folder of the network's runs, such as ``pretrained``, ``random-0`` or the label of a
            checkpoint.
        name: the folder of this run below it, such as ``knn``, ``logistic-pets`` or ``voc_c4``.
        script: stem of the script in transfer/, such as ``knn`` or ``detection``.
        config: the complete frozen ``Config`` of that script, with the output folder.
        card: the card that the settings come from, and what was changed on top of it.
        needs: keys of the tasks that must be done before this one.
    """

    network: str
    name: str
    script: str
    config: Any
    card: Card
    needs: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """``NETWORK/NAME``, unique in a suite, and the folder of the run below that of the suite."""
        return f"{self.network}/{self.name}"

    @property
    def folder(self) -> Path:
        """The output folder of the run."""
        return Path(self.config.output).expanduser()

    def run(self) -> dict[str, Any]:
        """Run the script in this process and return its results.

        Imports PyTorch. A completed run in the folder is not repeated.
        """
        results: dict[str, Any] = script_module(self.script).run(self.config, self.card)
        return results


def script_module(name: str) -> Any:
    """The module of a script of transfer/, with its ``Config`` and ``run(config, card)``; imports PyTorch."""
    return importlib.import_module(f"transfer.{name}")
