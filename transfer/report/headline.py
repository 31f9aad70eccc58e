"""The opening of the report: what was evaluated, when, and on what."""

from collections.abc import Iterable
from typing import Any

from transfer.report.collect import Collection
from transfer.report.runs import Run


def headline(collection: Collection, evaluated: list[str]) -> list[tuple[str, str]]:
    """Name and words of each fact; values that differ between records stand side by side."""
    runs = [*collection.evaluations, *collection.others, *collection.pretrainings]
    runs += [run for run in collection.unfinished if run.kind != "pretrain"]
    environments = [run.record.get("environment", {}) for run in runs]
    packages = {
        name: _distinct(e.get("packages", {}).get(name) for e in environments)
        for name in sorted({p for e in environments for p in e.get("packages", {})})
    }
    commits = _distinct(e.get("commit") or "unknown (no git checkout)" for e in environments)
    if "+changes" in commits:
        commits += "; +changes: files differed from the commit"
    times = sorted(str(r.record[k]) for r in runs for k in ("started", "written") if k in r.record)
    done = len(runs) - len(collection.unfinished)
    return [
        ("Networks", "; ".join(n.label for n in collection.networks) or "none evaluated"),
        ("Scores", "; ".join(evaluated) or "none"),
        ("Records", f"{len(runs)}, of which {done} finished and {len(runs) - done} not"),
        ("When", f"{times[0]} to {times[-1]}" if times else "unknown"),
        ("Devices", _distinct(map(_device, runs))),
        ("Python", _distinct(e.get("python") for e in environments)),
        ("Packages", ", ".join(f"{name} {versions}" for name, versions in packages.items())),
        ("Commit", commits),
    ]


def _device(run: Run) -> str:
    environment = run.record.get("environment", {})
    device = str(run.record.get("device", "unknown"))
    kind = ", ".join(sorted(set(environment.get("gpus") or ()))) if "cuda" in device else ""
    kind = kind or str(environment.get("cpu_capability", ""))
    processes = run.record.get("processes", 1)
    words = f"{device} ({kind}, {environment.get('system', 'unknown system')})"
    return f"{processes} processes on {words}" if processes > 1 else words


def _distinct(values: Iterable[Any]) -> str:
    return " / ".join(dict.fromkeys(str(value) for value in values if value)) or "unknown"
