"""What tools/score.py does with runs that keep outcomes: their scores again, and comparisons of two runs."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from msbreg.run.errors import UserError
from msbreg.run.json_files import read_json
from msbreg.run.record import read_record
from transfer.finetuning.trials import FILE as TRIALS
from transfer.scoring.scores import Score, score_from_dict
from transfer.verdicts.comparison import Verdict, compare, interval_of, judge
from transfer.verdicts.outcomes import FILE, Outcomes, load_outcomes, outcomes_of
from transfer.verdicts.weighted_scores import recorded_value

ROUNDING = 1e-9
"""Relative difference of sums in another order."""


@dataclass(frozen=True)
class Run:
    """A completed run with the outcomes of its scores."""

    folder: Path
    record: dict[str, Any]
    scores: tuple[Score, ...]
    outcomes: tuple[Outcomes, ...]

    def same_score(self, outcomes: Outcomes) -> Outcomes | None:
        """The outcomes of the score with the same name and rules."""
        identity = (outcomes.score, outcomes.rules)
        return next((o for o in self.outcomes if (o.score, o.rules) == identity), None)


def read_run(folder: Path) -> Run:
    """Read the record and the outcomes of a completed run.

    Raises:
        UserError: the folder has no record or no outcomes, they are damaged, or the run is not completed.
    """
    record = read_record(folder)
    if record is None:
        raise UserError(
            f"{folder} has no record.json; expected the folder of a run of transfer/, its predictions.npz, "
            "or COCO results JSON"
        )
    if record["status"] != "done":
        raise UserError(
            f"{folder} contains a run that is {record['status']}; expected a completed run. Repeat its "
            "command to continue it"
        )
    outcomes = load_outcomes(folder)
    if not outcomes:
        raise UserError(
            f"{folder} has no {FILE}: it is a run of {record['kind']} without scores of test images, or of "
            "an earlier version. Repeat the run in a new --output to score and compare it image by image"
        )
    scores = tuple(map(score_from_dict, record.get("scores", [])))
    return Run(folder, record, scores, outcomes)


def read_seeds(folder: Path) -> list[Run]:
    """The run in a folder, or the trials of a run with ``--trials``.

    Raises:
        UserError: like ``read_run``, or the list of trials is damaged.
    """
    path = folder / TRIALS
    if not path.is_file():
        return [read_run(folder)]
    content = read_json(path)
    names = content.get("folders") if isinstance(content, dict) else None
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise UserError(f"{path} does not list the folders of trials; repeat the run with --trials")
    return [read_run(folder / name) for name in names]


# ---- One run


@dataclass(frozen=True)
class Rescored:
    """A score of a record, computed again; None if its outcomes are missing or it has no value."""

    name: str
    recorded: float | None
    value: float | None
    low: float | None
    high: float | None

    @property
    def agrees(self) -> bool:
        if self.recorded is None or self.value is None:
            return self.recorded is self.value is None
        return math.isclose(self.recorded, self.value, rel_tol=ROUNDING, abs_tol=ROUNDING)


def rescored(run: Run) -> list[Rescored]:
    """Every score of the record from its outcomes, with its 95 % interval over test images."""
    found = []
    for score in run.scores:
        recorded = None if math.isnan(score.value) else score.value
        outcomes = outcomes_of(score, run.outcomes)
        if outcomes is None:
            found.append(Rescored(score.name, recorded, None, None, None))
            continue
        low, high = interval_of(outcomes) if outcomes.count > 1 else (None, None)
        found.append(Rescored(score.name, recorded, recorded_value(outcomes), low, high))
    return found


def as_text(run: Run, found: Sequence[Rescored]) -> str:
    """A table of the scores."""
    first = run.outcomes[0]
    width = max(len("score"), *(len(each.name) for each in found))
    where = " ".join(filter(None, (first.data.name, first.data.split)))
    lines = [
        f"{run.folder}: {run.record['kind']} on {where}, {first.count:,} test images",
        "",
        f"{'score':{width}}   value    95 % interval  in the record",
    ]
    for each in found:
        interval = "-" if each.low is None else f"{each.low:.2f} to {each.high:.2f}"
        told = "the same" if each.agrees else _number(each.recorded)
        lines.append(f"{each.name:{width}}  {_number(each.value):>6}  {interval:>15}  {told}")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


# ---- Two networks


@dataclass(frozen=True)
class Judged:
    """The verdict on one score of ours."""

    name: str
    verdict: Verdict


def compared(ours: Sequence[Run], theirs: Sequence[Run]) -> list[Judged]:
    """Verdicts on the scores that all runs have, corrected for their number.

    Args:
        ours, theirs: one run each, or several seeds of one network.

    Raises:
        UserError: the runs have no score in common, or were scored on different images.
    """
    comparisons, names = [], []
    runs = [*ours, *theirs]
    for score in ours[0].scores:
        first = outcomes_of(score, ours[0].outcomes)
        found = [] if first is None else [run.same_score(first) for run in runs]
        known = [each for each in found if each is not None]
        if len(known) == len(runs):
            names.append(score.name)
            parts = known[: len(ours)], known[len(ours) :]
            comparisons.append(compare(*parts, higher_is_better=score.higher_is_better))
    if not comparisons:
        listed = [f"{run.folder}: {_scores_of(run)}" for run in runs]
        raise UserError(
            "the runs have no score with the same name and rules; expected runs of the same protocol.\n"
            + "\n".join(listed)
        )
    return [Judged(n, v) for n, v in zip(names, judge(comparisons), strict=True)]


def _scores_of(run: Run) -> str:
    return "; ".join(f"{each.score} ({each.rules})" for each in run.outcomes)


def comparison_as_text(ours: Sequence[Run], theirs: Sequence[Run], found: Sequence[Judged]) -> str:
    """A table of the verdicts, and what they rest on."""
    verdict, data = found[0].verdict, ours[0].outcomes[0].data
    width = max(len("score"), *(len(each.name) for each in found))
    where = " ".join(filter(None, (data.name, data.split)))
    lines = [
        " against ".join(", ".join(str(run.folder) for run in runs) for runs in (ours, theirs)),
        f"{verdict.units:,} test images of {where}; {_basis(verdict.seeds)}",
        "",
        f"{'score':{width}}  difference    95 % interval  p, corrected  verdict",
    ]
    for each in found:
        v = each.verdict
        lines.append(
            f"{each.name:{width}}  {v.difference:+10.2f}  {f'{v.low:+.2f} to {v.high:+.2f}':>15}  "
            f"{v.p_adjusted:12.2g}  {v.word}"
        )
    if len({run.record["digest"] for run in (*ours, *theirs)}) > 1:
        lines += [
            "",
            "The runs have different digests: their settings differ beyond the rules of the scores.",
        ]
    return "\n".join(lines)


def _basis(seeds: tuple[int, int]) -> str:
    if seeds == (1, 1):
        return "one seed each: the intervals cover the choice of test images, not that of the seed"
    return (
        f"{seeds[0]} and {seeds[1]} seeds: the intervals cover the choice of test images and, where there "
        "are several, that of the seeds"
    )


def comparison_as_json(found: Sequence[Judged]) -> dict[str, Any]:
    """The verdicts by the name of the score."""
    return {each.name: asdict(each.verdict) for each in found}
