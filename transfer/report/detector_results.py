"""What detectors leave besides their scores: tables by class, losses, and what they drew."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from transfer.report import words
from transfer.report.by_class import PerClass, per_class_tables
from transfer.report.collect import Collection, Network, columns, data_title
from transfer.report.figures import detector_curves
from transfer.report.parts import data_of
from transfer.report.pictures import LIMIT, Drawing, read_drawing
from transfer.report.run_files import read_curve
from transfer.report.runs import Run

_TITLES = {
    "curves_box.svg": "Precision and recall of boxes",
    "curves_mask.svg": "Precision and recall of masks",
    "detections.png": "Surest hits and misses",
}


@dataclass(frozen=True)
class Shown:
    """One run.

    Attributes:
        label: its network.
        scores: such as ``box AP50 13.3, AP 4.7``.
        facts: name -> words.
        curve: rows of curve.jsonl, or why there are none.
        figure: the curve, drawn.
        first: of its network on these data.
    """

    run: Run
    label: str
    seed: Any
    scores: str
    facts: dict[str, str]
    curve: list[dict[str, Any]] | str
    figure: Markup | None
    drawings: list[Drawing]
    first: bool


@dataclass(frozen=True)
class Detectors:
    """All detectors on the same images."""

    title: str
    classes: list[PerClass]
    runs: list[Shown]

    @property
    def warnings(self) -> dict[str, list[Path]]:
        """What the records warn of, each once, with the folders of the runs."""
        found: dict[str, list[Path]] = {}
        for shown in self.runs:
            for said in shown.run.record.get("warnings", []):
                found.setdefault(str(said), []).append(shown.run.folder)
        return found


def detectors(collection: Collection) -> list[Detectors]:
    """One for each set of images, then one for runs that have not finished, if they have a curve."""
    table = columns(collection.networks)
    titles = {data_of(column): data_title(column, table) for column in table}
    groups: dict[tuple[str, str], list[tuple[Network, Run]]] = {}
    for network in collection.networks:
        for run in network.runs:
            if run.kind == "detection":
                groups.setdefault((run.data, run.fingerprints), []).append((network, run))
    budget = _Budget()
    by_class = [part for part in per_class_tables(collection.networks) if part.kind == "detection"]
    found = [
        Detectors(
            titles.get(key, key[0]),
            [part for part in by_class if part.fingerprints == key[1]],
            _shown(groups[key], budget),
        )
        for key in sorted(groups)
    ]
    begun = [
        _show(run, "", budget, first=False)
        for run in collection.unfinished
        if run.kind == "detection" and (run.folder / "curve.jsonl").is_file()
    ]
    return found + ([Detectors("not finished", [], begun)] if begun else [])


class _Budget:
    """How many characters of drawings the page may still take, and how many drawings it has."""

    def __init__(self) -> None:
        self.left, self.count = LIMIT, 0

    def read(self, path: Path, title: str) -> Drawing:
        """The drawing, or words in place of one that the page has no room for."""
        self.count += 1
        drawing = read_drawing(path, title, name=f"drawing{self.count}")
        size = len(drawing.markup or "")
        if size > self.left:
            room = f"left out, for the drawings of a page are kept below {LIMIT / 1e6:.0f} MB"
            return Drawing(title, None, f"{room}: see {path}.")
        self.left -= size
        return drawing


def _shown(members: list[tuple[Network, Run]], budget: _Budget) -> list[Shown]:
    """The runs in their order; the first of each network takes its room on the page before others."""
    firsts: dict[str, Run] = {}
    for network, run in members:
        firsts.setdefault(network.label, run)
    places = range(len(members))
    leading = [firsts[network.label] is run for network, run in members]
    shown = {}
    for place in sorted(places, key=lambda place: not leading[place]):
        network, run = members[place]
        shown[place] = _show(run, network.label, budget, first=leading[place])
    return [shown[place] for place in places]


def _show(run: Run, label: str, budget: _Budget, *, first: bool) -> Shown:
    record = run.record
    curve = read_curve(run.folder, over="iteration")
    if record["config"].get("eval_only"):
        curve = "Evaluated only: nothing was trained."
    figure = None
    if not isinstance(curve, str):
        budget.count += 1
        figure = Markup(detector_curves(curve, name=f"detector {budget.count}"))
    names = [name for name in record.get("drawings", []) if Path(str(name)).name == name]
    return Shown(
        run=run,
        label=label or str(record.get("card") or run.folder.name),
        seed=record["config"].get("seed"),
        scores=_scores(run) if run.done else "",
        facts=_facts(run, curve),
        curve=curve,
        figure=figure,
        drawings=[budget.read(run.folder / name, _TITLES.get(name, name)) for name in names],
        first=first,
    )


def _scores(run: Run) -> str:
    found: dict[str, list[str]] = {}
    for column, (value, _) in sorted(run.scores().items(), key=lambda item: item[0].metric):
        what, _, number = column.metric.partition("_")
        found.setdefault(what, []).append(f"{number} {value:.1f}")
    return "; ".join(f"{what} {', '.join(numbers)}" for what, numbers in found.items())


def _facts(run: Run, curve: list[dict[str, Any]] | str) -> dict[str, str]:
    record, config = run.record, run.record["config"]
    yaml = config.get("yaml") if isinstance(config.get("yaml"), dict) else {}
    engine = record.get("engine", {})
    facts = {
        "engine": " ".join(str(engine[k]) for k in ("name", "version") if k in engine) or None,
        "card": record.get("card"),
    }
    if config.get("eval_only"):
        facts |= {"trained before, iterations": record.get("network", {}).get("iteration")}
    else:
        done = record.get("results", {}).get("iterations")
        if done is None:
            done = 0 if isinstance(curve, str) else curve[-1]["iteration"]
        planned = yaml.get("SOLVER.MAX_ITER")
        facts |= {
            "iterations": done if planned in (done, None) else f"{done} of {planned}",
            "images a step": yaml.get("SOLVER.IMS_PER_BATCH"),
            "learning rate": yaml.get("SOLVER.BASE_LR"),
        }
    facts["time"] = words.duration(record["seconds"]) if record.get("seconds") else None
    return {name: words.number(value) for name, value in facts.items() if value is not None}
