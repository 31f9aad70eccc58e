"""What the suite prints at its end: the scores, what is missing and what failed."""

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from msbreg.run.errors import UserError
from msbreg.run.job import log
from msbreg.run.record import read_record
from transfer.orchestration.data_assignment import Missing
from transfer.orchestration.evaluated_networks import EvaluatedNetwork
from transfer.orchestration.execution import Progress
from transfer.orchestration.task_graph import Plan
from transfer.scoring.scores import Score, score_from_dict

Found = dict[tuple[str, str, str], dict[str, list[Score]]]


def print_not_run(plan: Plan, *, full: bool) -> None:
    """Print the protocols that a network cannot run, and those without data.

    Args:
        full: say for each data set what to fetch, and where it must lie.
    """
    for one in plan.not_applicable:
        print(f"not applicable: {one.network}/{one.name}: {one.reason}")
    if not plan.missing:
        return
    if not full:
        names = ", ".join(one.protocol.name for one in plan.missing)
        print(f"no data for: {names}. --plan shows what to fetch")
        return
    for fetch, place, protocols in _by_data(plan.missing):
        where = f"fetch to {place}: " if place else ""
        if place and Path(place).expanduser().exists():
            where = f"{place} is incomplete or has another layout; expected: "
        print(f"no data for {', '.join(protocols)}: {where}{fetch}")


def _by_data(missing: Sequence[Missing]) -> list[tuple[str, str, list[str]]]:
    """(what to fetch, where it must lie, names of the protocols) for each data set."""
    found: dict[tuple[str, str], list[str]] = {}
    for one in missing:
        found.setdefault((one.fetch, one.place), []).append(one.protocol.name)
    return [(fetch, place, names) for (fetch, place), names in found.items()]


def print_failures(progress: Progress) -> None:
    """Print the tasks that failed, and those that were not run; those with one reason together."""
    for end in ("failed", "not run"):
        tasks: dict[str, list[str]] = {}
        for key in progress.keys(end):
            tasks.setdefault(progress.reasons[key], []).append(key)
        for reason, keys in tasks.items():
            print(f"{end}: {', '.join(keys)}: {reason}")


# ---- The table of scores


def print_scores(output: Path, networks: Sequence[EvaluatedNetwork]) -> None:
    """Print the scores of the completed runs: each checkpoint's, and the mean of its untrained twins."""
    checkpoints = [network for network in networks if not network.untrained]
    for network in checkpoints:
        twins = [n.folder for n in networks if n.untrained and n.spec == network.spec]
        rows: Found = {}
        _collect(rows, output / network.folder, "network")
        for folder in twins:
            _collect(rows, output / folder, "twins")
        _console().print(_scores_table(rows, network.folder))


def _collect(rows: Found, folder: Path, column: str) -> None:
    for run in sorted(folder.expanduser().glob("*")):
        try:
            record = read_record(run)
        except UserError as error:  # of an earlier suite: this one has moved its own aside
            log.warning("%s is left out: %s", run, error)
            continue
        if record is None or record["status"] != "done":
            continue
        for score in map(score_from_dict, record.get("scores", [])):
            name = score.name if score.unit == "%" else f"{score.name} [{score.unit}]"
            key = name, f"{score.data.name} {score.data.split}", score.rules
            rows.setdefault(key, {}).setdefault(column, []).append(score)


def _scores_table(rows: Found, heading: str) -> Table:
    table = _table("score", "data", heading, "untrained", "difference")
    for (name, data, _), found in rows.items():
        means = {who: statistics.fmean(s.value for s in scores) for who, scores in found.items()}
        difference = means["network"] - means["twins"] if len(means) == 2 else None
        table.add_row(
            name,
            data,
            *(_cell(found.get(who, [])) for who in ("network", "twins")),
            f"{difference:+.1f}" if difference is not None else "",
        )
    return table


def _cell(scores: list[Score]) -> str:
    """A score with its standard error, or the mean and standard deviation over several seeds."""
    if not scores:
        return ""
    if len(scores) > 1:
        values = [score.value for score in scores]
        return (
            f"{statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f} ({len(values)} seeds)"
        )
    stderr = scores[0].stderr
    return f"{scores[0].value:.1f}" + (f" ± {stderr:.1f}" if stderr is not None else "")


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 110, highlight=False)


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE if sys.stdout.isatty() else None, pad_edge=False)
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="left" if place < 2 or len(headings) == 3 else "right")
    return table
