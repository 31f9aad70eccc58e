"""The collection as ``report.md`` and one self-contained ``report.html``."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from msbreg.run.files import write_atomically, writing
from msbreg.run.inputs import check_output
from transfer.report import words
from transfer.report.by_class import per_class_tables
from transfer.report.collect import Collection, Network, collect
from transfer.report.conversions import find_conversions
from transfer.report.detector_results import detectors
from transfer.report.figures import THUMBNAIL, thumbnail, training_curves
from transfer.report.headline import headline
from transfer.report.parts import evaluated, parts_of
from transfer.report.run_files import read_curve, read_neighbors
from transfer.report.runs import Run
from transfer.report.tables import score_table

_TEMPLATES = Path(__file__).parent


def write_report(paths: list[Path], output: Path) -> Path:
    """Write ``output/report.md`` and ``output/report.html`` about all records at or below the paths.

    Returns:
        The HTML file.

    Raises:
        UserError: there is no record, one cannot be read, or the output is a file.
        RunFailed: the output cannot be written.
    """
    check_output(output)
    content = describe(collect(paths)) | {"conversions": find_conversions(paths)}
    page, text = output / "report.html", output / "report.md"
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    write_atomically(text, as_markdown(content).encode())
    write_atomically(page, as_html(content).encode())
    return page


def describe(collection: Collection) -> dict[str, Any]:
    """All that the templates say, by name."""
    table = score_table(collection.networks)
    return {
        "collection": collection,
        "facts": headline(collection, evaluated(table)),
        "notes": table.notes,
        "parts": parts_of(table),
        "pretrainings": [
            _pretraining(run, number) for number, run in enumerate(collection.pretrainings)
        ],
        "neighbors": [shown for network in collection.networks for shown in _neighbors(network)],
        "per_class": [p for p in per_class_tables(collection.networks) if p.kind == "svm"],
        "detectors": detectors(collection),
        "weights": _weights(collection.networks),
        "thumbnail": THUMBNAIL,
    }


def as_html(content: dict[str, Any]) -> str:
    """One page that needs no other file, no network and no script."""
    return _environment(autoescape=True).get_template("report.html.jinja").render(content)


def as_markdown(content: dict[str, Any]) -> str:
    """The same without the pictures."""
    environment = _environment(finalize=words.escaped)
    return environment.get_template("report.md.jinja").render(content)


def _environment(**options: Any) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        **options,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"settings": words.settings, "duration": words.duration}
    environment.filters |= {"number": words.number, "points": words.points}
    environment.filters |= {"in_short": words.in_short, "some": words.some}
    return environment


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
        "time": words.duration(record["seconds"]) if record.get("seconds") else None,
        "peak learning rate": results.get("peak_learning_rate"),
        "seed": config.get("seed"),
    }
    figure = None
    if not isinstance(curve, str):
        figure = Markup(training_curves(curve, config, name=f"curve {number}"))
    return {
        "run": run,
        "title": f"{config.get('method')} {config.get('arch')}, seed {config.get('seed')}",
        "facts": {name: words.number(value) for name, value in facts.items() if value is not None},
        "collapse": [w for w in record.get("warnings", []) if "collaps" in w],
        "warnings": [w for w in record.get("warnings", []) if "collaps" not in w],
        "curve": curve,
        "figure": figure,
    }


def _neighbors(network: Network) -> list[dict[str, Any]]:
    """The picture of a network, from its first kNN run on each set of images."""
    chosen: dict[str, Run] = {}
    for run in network.runs:
        if run.kind == "knn":
            chosen.setdefault(run.fingerprints, run)
    return [
        {"network": network.label, "run": run, **_picture(read_neighbors(run.folder))}
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
            "neighbors": [
                {
                    **neighbor,
                    "image": thumbnail(Path(neighbor["path"])),
                    "same": neighbor["class"] == query["class"],
                }
                for neighbor in query["neighbors"][:8]
            ],
        }
        for query in queries
    ]
    shown = [item for row in rows for item in (row, *row["neighbors"])]
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
