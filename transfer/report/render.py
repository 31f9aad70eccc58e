"""Render a collection of runs: a self-contained page, Markdown, and files for programs and papers."""

import base64
import functools
import hashlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from msbreg.run.files import write_atomically, writing
from msbreg.run.inputs import check_output
from transfer.report import formatting, verdict_memory
from transfer.report.class_bars import class_bars
from transfer.report.collection import Collection, collect
from transfer.report.conversions import find_conversions
from transfer.report.embedded_pictures import THUMBNAIL, Budget
from transfer.report.epoch_curves import epoch_curves
from transfer.report.exports.csv_file import as_csv
from transfer.report.exports.file_names import FILES
from transfer.report.exports.json_file import as_json
from transfer.report.exports.tex_file import as_tex
from transfer.report.leaderboard import leaderboard
from transfer.report.overview.board_references import references
from transfer.report.overview.gates import gates
from transfer.report.overview.headline import headline, warnings
from transfer.report.overview.main_scores import summarize
from transfer.report.overview.overview_chart import overview
from transfer.report.overview.published_beside import (
    baselines,
    published_rows,
    tables_of_the_paper,
)
from transfer.report.run_sections import (
    fine_tunings,
    neighbors,
    passports,
    provenance,
    trainings,
)
from transfer.report.runs import Run
from transfer.report.score_tables import score_tables
from transfer.report.verdict_memory import Memory
from transfer.report.verdict_section import verdict_section

_TEMPLATES = Path(__file__).parent / "templates"
_MOST = 100  # messages, and unfinished runs
# The id of a section is also the name of its template. Shown if its variable, if any, is not empty.
_SECTIONS = {
    "summary": "Summary",
    "overview": "Overview",
    "verdicts": "Verdicts",
    "scores": "Scores",
    "leaderboard": "Leaderboards",
    "classes": "Classes",
    "epochs": "Epochs",
    "papers": "Published tables",
    "pretraining": "Pre-training",
    "neighbors": "Nearest neighbors",
    "predictions": "Training and predictions",
    "conversion": "Conversion",
    "problems": "Problems",
    "provenance": "Provenance",
}
_DRAWINGS = (2_400_000, 24)  # characters on the page, files to decode
_THUMBNAILS = (1_200_000, 600)


def write_report(paths: list[Path], output: Path, formats: Sequence[str] = tuple(FILES)) -> Path:
    """Write a report of all records in the paths or below, one file of ``output`` for each format.

    Unreadable files are listed in the report. The page is at most 6 MB; the report states what it omits.

    Args:
        formats: some of the keys of ``FORMATS``; files of other formats are left as they are.

    Returns:
        The path of the first file: ``output/report.html`` by default.

    Raises:
        UserError: there is no readable record, a path does not exist, or the output is a file.
        RunFailed: the output cannot be written.
    """
    check_output(output)
    memory = Memory(output / verdict_memory.FILE_NAME)
    content = describe(collect(paths), paths, memory)
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    memory.save()
    for name in reversed(formats):  # the page last: what it links to is there
        write_atomically(output / FILES[name], FORMATS[name](content))
    return output / FILES[formats[0]]


def describe(
    collection: Collection, paths: Iterable[Path], memory: Memory | None = None
) -> dict[str, Any]:
    """The content of all formats. Truncated lists are pairs (items, number of omitted items).

    Args:
        memory: comparisons of earlier reports, which are not computed again; new ones are added.
    """
    tables, notes = score_tables(collection.networks)
    verdicts = verdict_section(collection.networks, memory or Memory(), tables=tables)
    summary = summarize(collection.networks, tables, verdicts.words)
    conversions = find_conversions(paths)
    published = baselines(collection.networks)
    paper_tables, unread_ablations = tables_of_the_paper(collection, paths)
    unread = [
        *collection.unread,
        *unread_ablations,
        *(problem for run in collection.evaluations for problem in run.problems),
    ]
    content: dict[str, Any] = {
        "when": when(collection),
        "headline": headline(collection, summary, tables, conversions, verdicts.words, published),
        "summary": summary,
        "gates": gates(collection),
        "published_rows": published_rows(summary, published),
        "overview": overview(summary, published),
        "facts": environment(collection),
        "tables": tables,
        "notes": notes,
        "others": collection.others,
        "warnings": formatting.first_items(
            warnings(collection, summary, tables, conversions), _MOST
        ),
        "unread": formatting.first_items(unread, _MOST),
        "unfinished": formatting.first_items(list(collection.unfinished), _MOST),
        "trainings": trainings(collection),
        "neighbors": neighbors(collection.networks, Budget(*_THUMBNAILS)),
        "fine_tunings": fine_tunings(collection, Budget(*_DRAWINGS)),
        "conversions": conversions,
        "passports": passports(collection.evaluations),
        "weights": provenance(collection.networks),
        "networks": collection.networks,
        "leaderboard": leaderboard(
            tables,
            collection.networks,
            verdicts.words,
            references(collection.networks),
        ),
        "verdicts": verdicts,
        "paper_tables": paper_tables,
        "class_bars": class_bars(collection.networks),
        "epoch_curves": epoch_curves(collection.networks),
        "thumbnail": THUMBNAIL,
    }
    return content | {"sections": _sections(content)}


def _sections(content: dict[str, Any]) -> dict[str, str]:
    """Id -> title of the sections that have content."""
    empty = {
        "summary": not (content["summary"].columns or content["gates"]),
        "overview": content["overview"] is None,
        "verdicts": not (content["verdicts"].tables or content["verdicts"].not_comparable),
        "leaderboard": not content["leaderboard"].boards,
        "classes": not content["class_bars"][0],
        "epochs": not content["epoch_curves"][0],
        "papers": not content["paper_tables"],
        "pretraining": not content["trainings"][0],
        "neighbors": not content["neighbors"],
        "predictions": not content["fine_tunings"][0],
        "conversion": not content["conversions"],
        "problems": not any(content[n][0] for n in ("warnings", "unread", "unfinished")),
    }
    return {id: title for id, title in _SECTIONS.items() if not empty.get(id)}


def _all_runs(collection: Collection) -> list[Run]:
    runs = [*collection.evaluations, *collection.others, *collection.trainings]
    return runs + [run for run in collection.unfinished if run not in collection.trainings]


def when(collection: Collection) -> str:
    """How many records the report was generated from, and when they were written."""
    runs = _all_runs(collection)
    done = sum(run.done for run in runs)
    times = sorted(time for run in runs for time in (run.started, run.written))
    first, last = (times[0][:16], times[-1][:16]) if times else ("unknown", "unknown")
    unfinished = f", {len(runs) - done} not finished" if len(runs) > done else ""
    return (
        f"Generated from {len(runs)} records of {first.replace('T', ' ')} to "
        f"{last.replace('T', ' ')}{unfinished}. Only finished runs have scores."
    )


def environment(collection: Collection) -> list[tuple[str, str]]:
    """(name, text) of what the runs share: networks, devices, packages. Values that differ are listed."""
    runs = _all_runs(collection)
    environments = list({id(run.environment): run.environment for run in runs}.values())
    packages = {
        name: _distinct(e.get("packages", {}).get(name) for e in environments)
        for name in sorted({p for e in environments for p in e.get("packages", {})})[:20]
    }
    commits = _distinct(e.get("commit") or "unknown (no git checkout)" for e in environments)
    if "+changes" in commits:
        commits += "; +changes: the working tree differed from the commit"
    times = sorted(time for run in runs for time in (run.started, run.written))
    done = sum(run.done for run in runs)
    labels, more = formatting.first_items([network.label for network in collection.networks], 20)
    return [
        ("Networks", ("; ".join(labels) or "none evaluated") + (f"; {more} more" if more else "")),
        ("Records", f"{len(runs)}: {done} finished, {len(runs) - done} not finished"),
        ("When", f"{times[0]} to {times[-1]}" if times else "unknown"),
        ("Devices", _distinct(map(_device, runs))),
        ("Python", _distinct(e.get("python") for e in environments)),
        ("Packages", ", ".join(f"{name} {versions}" for name, versions in packages.items())),
        ("Commit", commits),
    ]


def _device(run: Run) -> str:
    environment = run.environment
    kind = ""
    if "cuda" in run.device:
        kind = ", ".join(sorted({str(gpu) for gpu in environment.get("gpus", ())})[:4])
    kind = kind or environment.get("cpu_capability", "")
    device = f"{run.device} ({kind}, {environment.get('system', 'unknown system')})"
    return f"{run.processes} processes on {device}" if run.processes > 1 else device


def _distinct(values: Iterable[Any]) -> str:
    found, more = formatting.first_items(
        list(dict.fromkeys(str(value) for value in values if value)), 6
    )
    text = formatting.cut(" / ".join(found)) or "unknown"
    return f"{text} and {more} more" if more else text


# ---- Templates


def as_html(content: dict[str, Any]) -> str:
    """A page that needs no other files and no network; its only script sorts tables."""
    script = Markup((_TEMPLATES / "sort.js").read_text())
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = _template("page.html.jinja", autoescape=True)
    return template.render(content, script=script, script_digest=f"sha256-{digest}")


def as_markdown(content: dict[str, Any]) -> str:
    """The same content without pictures."""
    return _template("text.md.jinja", finalize=formatting.escaped).render(content)


def _runs_of(items: Iterable[Any], attribute: str) -> list[tuple[Any, list[Any]]]:
    """Neighbors with an equal attribute together, in their order (Jinja's groupby sorts)."""
    grouped = itertools.groupby(items, key=lambda item: getattr(item, attribute))
    return [(value, list(group)) for value, group in grouped]


FORMATS: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "html": lambda content: as_html(content).encode(errors="replace"),
    "md": lambda content: as_markdown(content).encode(errors="replace"),
    "csv": as_csv,
    "json": as_json,
    "tex": as_tex,
}
"""Format -> the file's bytes from the content of a report. ``FILES`` has the names of the files."""


@functools.cache  # the suite writes the report after every protocol
def _template(name: str, **options: Any) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        **options,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "settings": formatting.settings,
        "kind": formatting.kind,
        "duration": formatting.duration,
        "number": formatting.number,
        "points": formatting.points,
        "runs": _runs_of,
    }
    return environment.get_template(name)
