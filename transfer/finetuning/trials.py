"""Several trials of a protocol with different seeds: papers report the mean of three to five."""

import dataclasses
import json
import math
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from msbreg.run import distributed
from msbreg.run.config import Card, plain
from msbreg.run.errors import UserError
from msbreg.run.files import write_atomically
from msbreg.run.job import log, log_to_terminal
from msbreg.run.record import read_record

C = TypeVar("C")
FILE = "trials.json"


def run_trials(
    config: C, card: Card | None, run: Callable[[C, Card | None], Any]
) -> dict[str, Any]:
    """Run seeds 0 to N - 1 in OUTPUT/trial-0, ...; finished trials are skipped.

    Args:
        config: a config with output, trials, seed and finished.
        run: runs one trial.

    Returns:
        For each result: mean, sample standard deviation over the trials, and the values.
    """
    log_to_terminal()
    settings: Any = config
    output = Path(settings.output).expanduser()
    if read_record(output) is not None:
        raise UserError(
            f"output folder {output} contains a single run; give another --output for --trials"
        )
    folders = [output / f"trial-{seed}" for seed in range(settings.trials)]
    with distributed.kept():
        for seed, folder in enumerate(folders):
            log.info("---- trial %d of %d, seed %d", seed + 1, settings.trials, seed)
            changes = {"output": folder, "seed": seed, "trials": 1, "finished": "skip"}
            run(dataclasses.replace(settings, **changes), card)
    if int(os.environ.get("RANK", "0")):
        return {}  # torchrun's first process writes the records
    found = [_results(folder) for folder in folders]
    summary = {
        name: spread([one[name] for one in found]) for name in found[0] if _is_number(found, name)
    }
    content = {"trials": settings.trials, "folders": [f.name for f in folders], "results": summary}
    write_atomically(output / FILE, (json.dumps(plain(content), indent=2) + "\n").encode())
    for name, values in summary.items():
        log.info("%s: %.2f ± %.2f", name, values["mean"], values["std"])
    return summary


def spread(values: list[float]) -> dict[str, Any]:
    """Mean and sample standard deviation.

    >>> spread([1.0, 3.0])
    {'mean': 2.0, 'std': 1.4142135623730951, 'values': [1.0, 3.0]}
    """
    std = statistics.stdev(values) if len(values) > 1 else math.nan
    return {"mean": statistics.fmean(values), "std": std, "values": values}


def _results(folder: Path) -> dict[str, Any]:
    record = read_record(folder)
    assert record is not None, "a trial writes a record"
    return record["results"]


def _is_number(found: list[dict[str, Any]], name: str) -> bool:
    """Whether every trial has a number of that name; the AP of small objects is None without any."""
    return all(isinstance(one.get(name), float) for one in found)
