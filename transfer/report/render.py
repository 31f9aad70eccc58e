"""The collection as ``report.md`` and one self-contained ``report.html``."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from msbreg.config import flat
from msbreg.errors import UserError
from msbreg.record import write_atomically
from transfer.report.collect import Collection, Network, Run, collect, column_title, data_title
from transfer.report.conversions import find_conversions
from transfer.report.figures import THUMBNAIL, thumbnail, training_curves
from transfer.report.files import read_curve, read_neighbours
from transfer.report.headline import headline
from transfer.report.tables import difference_table, per_class_tables, score_table

_TEMPLATES = Path(__file__).parent


def write_report(paths: list[Path], output: Path) -> Path:
    """Write ``output/report.md`` and ``output/report.html`` about all records at or below the paths.

    Returns:
        The HTML file.

    Raises:
        UserError: there is no record, one cannot be read, or the output cannot be written.
    """
    content = describe(collect(paths)) | {"conversions": find_conversions(paths)}
    page, text = output / "report.html", output / "report.md"
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_atomically(text, as_markdown(content).encode())
        write_atomically(page, as_html(content).encode())
    except OSError as error:
        raise UserError(
            f"output folder {output} cannot be written: {error.strerror}; give another --output"
        ) from error
    return page


def describe(collection: Collection) -> dict[str, Any]:
    """All that the templates say, by name."""
    table = score_table(collection.networks)
    headings = [(column_title(c), data_title(c, table.columns)) for c in table.columns]
    return {
        "collection": collection,
        "facts": headline(collection, [f"{title} on {data}" for title, data in headings]),
        "table": table,
        "headings": headings,
        "differences": difference_table(table),
        "pretrainings": [
            _pretraining(run, number) for number, run in enumerate(collection.pretrainings)
        ],
        "neighbours": [shown for network in collection.networks for shown in _neighbours(network)],
        "per_class": per_class_tables(collection.networks),
        "weights": _weights(collection.networks),
        "thumbnail": THUMBNAIL,
    }


def as_html(content: dict[str, Any]) -> str:
    """One page that needs no other file, no network and no script."""
    return _environment(autoescape=True).get_template("report.html.jinja").render(content)


def as_markdown(content: dict[str, Any]) -> str:
    """The same without the pictures."""
    environment = _environment(finalize=_escaped)
    return environment.get_template("report.md.jinja").render(content)


def _environment(**options: Any) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        **options,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"settings": _settings, "duration": _duration, "number": _number}
    environment.filters |= {"without_skipped": _without_skipped, "some": _some, "points": _points}
    return environment


def _escaped(value: Any) -> str:
    """Text that Markdown, its tables and the HTML in it take for nothing but text."""
    if isinstance(value, Markup):  # what a template marked as safe is made of escaped parts
        return value
    text = re.sub(r"\s+", " ", str(value)).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"[\\`*|\[~#]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)


def _settings(values: dict[str, Any]) -> str:
    """``views = 2, optimizer.base_lr = 4.0``, or ``none``."""
    return ", ".join(f"{k} = {json.dumps(v)}" for k, v in flat(values).items()) or "none"


def _without_skipped(data: dict[str, Any]) -> dict[str, Any]:
    """The fingerprints without the list of skipped files, which may be long."""
    return {name: value for name, value in data.items() if not name.startswith("skipped")}


def _some(rows: list[Any], most: int = 16) -> list[Any]:
    """The first, the last, and evenly spaced ones between, at most ``most``."""
    if len(rows) <= most:
        return rows
    return [rows[round(i * (len(rows) - 1) / (most - 1))] for i in range(most)]


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    if hours:
        return f"{hours} h {rest // 60:02d} min"
    return f"{rest // 60} min {rest % 60:02d} s" if rest >= 60 else f"{seconds:.1f} s"


def _points(value: float) -> str:
    """A signed difference, with a minus as wide as the plus."""
    return f"{value:+.1f}".replace("-", "−")


def _number(value: Any) -> str:
    """Thousands apart; four digits of what is no whole number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def _pretraining(run: Run, number: int) -> dict[str, Any]:
    """One pre-training: settings and outcome by name, its curve, its picture."""
    record, config = run.record, run.record["config"]
    results, data = record.get("results", {}), record.get("data", {})
    curve = read_curve(run.folder)
    last: dict[str, Any] = {} if isinstance(curve, str) else curve[-1]
    step = results.get("steps", last.get("step"))
    seen = results.get("views_seen")
    if seen is None and step is not None and {"batch_size", "views"} <= set(config):
        seen = step * config["batch_size"] * config["views"]
    images = f", {data['images']:,} images" if "images" in data else ""
    facts = {
        "method": config.get("method"),
        "architecture": config.get("arch"),
        "data": f"{run.data}{images}",
        "views": config.get("views"),
        "batch size": config.get("batch_size"),
        "epochs": f"{last.get('epoch', 0)} of {config.get('epochs')}",
        "steps": step,
        "views seen": seen,
        "views/s": results.get("views_per_second"),
        "time": _duration(record["seconds"]) if record.get("seconds") else None,
        "peak learning rate": results.get("peak_learning_rate"),
        "seed": config.get("seed"),
    }
    figure = None
    if not isinstance(curve, str):
        figure = Markup(training_curves(curve, config, name=f"curve {number}"))
    return {
        "run": run,
        "title": f"{config.get('method')} {config.get('arch')}, seed {config.get('seed')}",
        "facts": {name: _number(value) for name, value in facts.items() if value is not None},
        "collapse": [w for w in record.get("warnings", []) if "collaps" in w],
        "warnings": [w for w in record.get("warnings", []) if "collaps" not in w],
        "curve": curve,
        "figure": figure,
    }


def _neighbours(network: Network) -> list[dict[str, Any]]:
    """The picture of a network, from its first kNN run on each set of images."""
    chosen: dict[str, Run] = {}
    for run in network.runs:
        if run.kind == "knn":
            chosen.setdefault(run.fingerprints, run)
    return [
        {"network": network.label, "run": run, **_picture(read_neighbours(run.folder))}
        for run in chosen.values()
    ]


def _picture(queries: list[dict[str, Any]] | str) -> dict[str, Any]:
    if isinstance(queries, str):
        return {"missing": queries, "queries": []}
    rows = [
        {
            "class": query["class"],
            "image": thumbnail(Path(query["path"])),
            "path": query["path"],
            "neighbours": [
                {
                    **neighbour,
                    "image": thumbnail(Path(neighbour["path"])),
                    "same": neighbour["class"] == query["class"],
                }
                for neighbour in query["neighbours"][:8]
            ],
        }
        for query in queries
    ]
    shown = [item for row in rows for item in (row, *row["neighbours"])]
    gone = list(dict.fromkeys(item["path"] for item in shown if item["image"] is None))
    files = "1 image file is" if len(gone) == 1 else f"{len(gone)} image files are"
    missing = f"{files} gone or cannot be read: {', '.join(gone[:3])}" if gone else ""
    missing += ", ..." if len(gone) > 3 else ""
    return {"missing": missing, "queries": rows}


def _weights(
    networks: Iterable[Network],
) -> list[tuple[str, list[tuple[dict[str, Any], list[Run]]]]]:
    """For each row of the scores: every distinct set of weights, with the runs on it."""
    out = []
    for network in networks:
        by_weights: dict[str, list[Run]] = {}
        for run in network.runs:
            by_weights.setdefault(run.network["sha256"], []).append(run)
        out.append((network.label, [(runs[0].network, runs) for runs in by_weights.values()]))
    return out
