"""Sections of the report besides scores: training curves, drawings, nearest neighbors, provenance."""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msbreg.backbones.spec import describe_input, normalization_of
from msbreg.run.errors import UserError
from msbreg.run.json_files import Shape, misfits, read_json
from transfer.report import formatting
from transfer.report.collection import Collection, Network, seed_of
from transfer.report.curves import Curve, draw_curve
from transfer.report.embedded_pictures import Budget, Drawing
from transfer.report.runs import Run
from transfer.report.score_tables import data_name

MOST_RUNS = 40  # per section with curves
MOST_NETWORKS = 6  # with nearest neighbors
MOST_SPLITS = 60
MOST_RECORDS = 250  # in the provenance section
_TITLES = {
    "curves_box": "Precision and recall of boxes",
    "curves_mask": "Precision and recall of masks",
    "curves_keypoint": "Precision and recall of keypoints",
    "detections": "Most confident hits and misses beside the truth",
    "segmentation": "Images, true label maps and predictions",
}
_NEAR: Shape = {"path": str, "class": str, "similarity": (int, float)}


@dataclass(frozen=True)
class RunDisplay:
    """A run with its curve and drawings.

    Attributes:
        scores: scores as text, such as ``box AP 4.7, box AP50 13.3``.
        facts: name -> text.
        problems: why the curve or a drawing is not shown.
        first: whether this is the first run of its kind of its network on its data.
    """

    run: Run
    title: str
    scores: str
    facts: dict[str, str]
    curve: Curve | None
    problems: list[str]
    drawings: list[Drawing]
    first: bool


def trainings(collection: Collection) -> tuple[list[RunDisplay], int]:
    """Pre-training runs, and the number of omitted ones."""
    runs, more = formatting.first_items(list(collection.trainings), MOST_RUNS)
    return [_display(run, _title(run), None, first=True) for run in runs], more


def fine_tunings(collection: Collection, budget: Budget) -> tuple[list[RunDisplay], int]:
    """Evaluations with a curve or drawings, and the number of omitted ones.

    The first run of each kind, network and data set is listed before the others, those with drawings
    first, so that their drawings fit into the budget.
    """
    found: list[tuple[Run, str, bool]] = []
    seen = set()
    for network in collection.networks:
        for run in network.runs:
            if run.drawings or os.path.lexists(run.folder / "curve.jsonl"):
                data = run.scores[0].data
                key = (network.label, data, run.kind)
                found.append((run, f"{network.label} on {data_name(data)}", key not in seen))
                seen.add(key)
    found += [
        (run, _title(run), False)
        for run in collection.unfinished
        if run.network is not None and os.path.lexists(run.folder / "curve.jsonl")
    ]
    found.sort(key=lambda item: (not item[2], not item[0].drawings))
    shown, more = formatting.first_items(found, MOST_RUNS)
    return [_display(run, title, budget, first=first) for run, title, first in shown], more


def _title(run: Run) -> str:
    names = (run.facts.get("method"), run.facts.get("architecture"))
    name = " ".join(formatting.cut(n, 60) for n in names if n) or run.kind
    return f"{name}, seed {run.seed}"


def _display(run: Run, title: str, budget: Budget | None, *, first: bool) -> RunDisplay:
    curve, problems = None, []
    if budget is None or os.path.lexists(run.folder / "curve.jsonl"):
        try:
            curve = draw_curve(run.folder, run.numbers, title)
        except UserError as error:
            problems.append(formatting.cut(error))
    drawings = []
    if budget is not None:
        drawings = [
            budget.drawing(run.folder / name, _TITLES.get(Path(name).stem, name), of=title)
            for name in run.drawings
        ]
    problems += [drawing.problem for drawing in drawings if drawing.problem]
    facts = dict(run.facts)
    if curve is not None:
        planned = f" of {formatting.number(run.planned)}" if run.planned is not None else ""
        facts = {f"{curve.over}s": f"{formatting.number(int(curve.last))}{planned}"} | facts
    return RunDisplay(
        run=run,
        title=title,
        scores=", ".join(f"{s.name} {s.value:.1f}" for s in run.scores[:6]),
        facts={formatting.cut(name, 60): formatting.number(value) for name, value in facts.items()},
        curve=curve,
        problems=problems,
        drawings=[drawing for drawing in drawings if drawing.markup],
        first=first,
    )


# ---- Nearest neighbors


@dataclass(frozen=True)
class Neighbors:
    """Nearest neighbors of some queries, for one network on one data set."""

    network: str
    run: Run
    data: str
    queries: list[dict[str, Any]]
    problem: str


def neighbors(networks: Iterable[Network], budget: Budget) -> list[Neighbors]:
    """For the first networks, from the first run on each data set that wrote nearest neighbors."""
    found: list[Neighbors] = []
    for network in networks:
        chosen: dict[str, tuple[Run, Path]] = {}
        for run in network.runs:
            for name in ("neighbors.json", "neighbours.json"):  # the second is of schema 1
                if os.path.lexists(run.folder / name):
                    chosen.setdefault(data_name(run.scores[0].data), (run, run.folder / name))
        for data, (run, path) in chosen.items():
            if len(found) < MOST_NETWORKS:
                found.append(_neighbors(network.label, run, data, path, budget))
    return found


def _neighbors(label: str, run: Run, data: str, path: Path, budget: Budget) -> Neighbors:
    try:
        queries = _queries(path, read_json(path))
    except UserError as error:
        return Neighbors(label, run, data, [], formatting.cut(error))
    rows = [
        {
            "class": query["class"],
            "image": budget.thumbnail(query["path"]),
            "neighbors": [
                {
                    **near,
                    "image": budget.thumbnail(near["path"]),
                    "same": near["class"] == query["class"],
                }
                for near in query["neighbors"]
            ],
        }
        for query in queries
    ]
    items = [item for row in rows for item in (row, *row["neighbors"])]
    gone = sum(item["image"] is None for item in items)
    problem = f"{gone} of {len(items)} images can no longer be read." if gone else ""
    return Neighbors(label, run, data, rows, problem)


def _queries(path: Path, content: Any) -> list[dict[str, Any]]:
    rows = content[:10] if isinstance(content, list) else []
    queries = []
    for row in rows:
        near = row.get("neighbors", row.get("neighbours")) if isinstance(row, dict) else None
        wrong = misfits(row, {"path": str, "class": str})
        if wrong or not isinstance(near, list) or any(misfits(n, _NEAR) for n in near[:8]):
            raise UserError(f"{path} is not a list of queries and their neighbors.")
        found = [{**n, "class": formatting.cut(n["class"], 40)} for n in near[:8]]
        queries.append(
            {"path": row["path"], "class": formatting.cut(row["class"], 40), "neighbors": found}
        )
    if not queries:
        raise UserError(f"{path} is not a list of queries and their neighbors.")
    return queries


# ---- Provenance


@dataclass(frozen=True)
class Passport:
    """A split of a data set: its size, its published size or "–", its fingerprint, its number of runs."""

    data: str
    split: str
    images: int
    published: int | str
    fingerprint: str
    runs: int


def passports(runs: Iterable[Run]) -> tuple[list[Passport], int]:
    """Every split that the runs used, in the order of first use; and the number of omitted ones."""
    counts = Counter(split for run in runs if run.done for split in run.splits)
    found = [
        Passport(
            split.data,
            split.split,
            split.images,
            "–" if split.published is None else split.published,
            split.fingerprint[:16],
            count,
        )
        for split, count in counts.items()
    ]
    return formatting.first_items(found, MOST_SPLITS)


@dataclass(frozen=True)
class Weights:
    """A set of weights and the runs that evaluated it."""

    network: str
    seed: str
    facts: dict[str, str]
    runs: list[Run]


def provenance(networks: Iterable[Network]) -> tuple[list[Weights], int]:
    """Every set of weights with its runs, in the order of the rows; and the number of omitted runs."""
    found: list[Weights] = []
    room, more = MOST_RECORDS, 0
    for network in networks:
        by_weights: dict[str, list[Run]] = {}
        for run in network.runs:
            assert run.network is not None
            by_weights.setdefault(run.network["sha256"], []).append(run)
        for runs in by_weights.values():
            shown = runs[:room]
            room, more = room - len(shown), more + len(runs) - len(shown)
            if shown:
                found.append(Weights(network.label, seed_of(runs[0]), _origin(runs[0]), shown))
    return found, more


def _origin(run: Run) -> dict[str, str]:
    network = run.network
    assert network is not None
    encoder, tensors = network.get("encoder", "unknown encoder"), network.get("tensors", "unknown")
    return {
        "source": formatting.cut(network["source"]),
        "sha256": formatting.cut(network["sha256"], 80),
        "layout": formatting.cut(
            f"{network['family']}; {encoder} of {network['arch']}, {tensors} tensors"
        ),
        "input": formatting.cut(_input(network)),
        "details": formatting.settings(network["details"]),
    }


def _input(network: dict[str, Any]) -> str:
    """What the tensors of a network do not show, as text; records of version 0.1.0 may lack it."""
    parts = []
    if "normalization" in network:
        parts.append(describe_input(normalization_of(network["normalization"])))
    if size := network.get("image_size"):
        parts.append(f"images of {size} pixels")
    if "stride" in network:
        parts.append(f"stride 2 in the {network['stride']} convolutions")
    return "; ".join(parts) or "not recorded"
