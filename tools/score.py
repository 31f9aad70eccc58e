"""Score saved predictions again, without a GPU or a network, or compare two runs image by image.

    python tools/score.py runs/knn                               # scores with 95 % intervals
    python tools/score.py runs/knn runs/random/knn               # is the first better, worse or the same?
    python tools/score.py runs/knn --against runs/random-*/knn   # several seeds of the other network
    python tools/score.py runs/voc runs/moco/voc                 # trials of a run with --trials are seeds
    python tools/score.py runs/detection                         # a run's folder, or its predictions.npz
    python tools/score.py runs/detection --metric voc-area --classes
    python tools/score.py runs/detection --output drawings       # tables, curves, drawn detections
    python tools/score.py results.json --scenes coco_2017_val --data DATA    # anyone's COCO results
    python tools/score.py runs/detection --to-coco results.json  # to submit

Runs of all protocols keep what their scores were computed from, in outcomes.npz. Detections are scored from
predictions.npz; their split must be the one of the predictions, including its annotations. Without --metric,
the run's own metric is computed and compared with its record. Exit code 0: scored; 1: the numbers differ
from the record; 2: a file or an argument is wrong.
"""

import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace

from msbreg.run.errors import EXIT_FAILED, EXIT_USER_ERROR, RunFailed, UserError, exit_codes
from msbreg.run.inputs import check_folder
from tools.tool_parser import ToolParser

METRICS = ("auto", "voc-11-point", "voc-area", "coco")


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Raises:
        UserError: a path does not exist, or the options do not go together.
    """
    parser = ToolParser(__doc__)
    parser.add_argument(
        "predictions", type=Path, help="folder of a run, its predictions.npz, or COCO results JSON"
    )
    parser.add_argument("other", type=Path, nargs="?", help="folder of a run to compare with")
    parser.add_argument(
        "--against",
        type=Path,
        nargs="+",
        help="the same, or folders of several seeds of one network",
    )
    parser.add_argument("--scenes", help="name of the split (default: stored with the predictions)")
    parser.add_argument("--data", type=Path, help="folder of the data, as for the run")
    parser.add_argument(
        "--metric", choices=METRICS, default="auto", help="metric (default: the run's)"
    )
    parser.add_argument(
        "--ties",
        choices=("numpy", "stable"),
        default="numpy",
        help="order of equal scores in the VOC metric: as in Detectron2, or independent of the machine",
    )
    parser.add_argument("--classes", action="store_true", help="print one line per class")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--output", type=Path, help="folder for tables and drawings")
    parser.add_argument("--to-coco", type=Path, help="write COCO results JSON to this file")
    options = parser.parse_args(arguments)
    options.against = [*([options.other] if options.other else []), *(options.against or [])]
    for folder in options.against:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder; expected that of a run to compare with")
    if not options.predictions.exists():
        raise UserError(
            f"{options.predictions} does not exist; expected the folder of a run, its "
            "predictions.npz, or COCO results JSON"
        )
    if options.data is not None:
        check_folder(options.data)
    return options


if __name__ == "__main__":  # options and paths are checked before PyTorch is imported
    with exit_codes():
        read_options()

from msbreg.data.catalog import join_scenes, load_scenes
from msbreg.data.scenes import Prediction, Scenes
from msbreg.run.files import write_atomically
from msbreg.run.record import read_record
from tools.outcome_scores import (
    as_text,
    compared,
    comparison_as_json,
    comparison_as_text,
    read_run,
    read_seeds,
    rescored,
)
from transfer.detectors.results import PER_CLASS, PREDICTIONS, numbers, score
from transfer.drawing.detection_sheets import write_drawings
from transfer.scoring.coco_ap import coco_ap
from transfer.scoring.coco_results import read_coco_results, write_coco_results
from transfer.scoring.predictions import load_predictions
from transfer.scoring.scores import DetectionScores
from transfer.scoring.voc_ap import Ties, VocRules, voc_ap

Scores = dict[str, DetectionScores]


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        options = read_options(arguments)
        if options.against:
            return _compare(options)
        if keeps_outcomes_only(options.predictions):
            return _score_outcomes(options)
        scenes, predictions = read(options)
        scores = scored(scenes, predictions, options.metric, options.ties)
        if options.to_coco is not None:
            write_coco_results(options.to_coco, scenes, predictions)
        if options.output is not None:
            _write(options.output, scenes, predictions, scores)
        record = _recorded(options)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except RunFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED
    found = numbers(scores)
    recorded = {name: value for name, value in record.items() if name in found}
    changed = {name: value for name, value in recorded.items() if found[name] != value}
    if options.json:
        print(json.dumps({"scenes": scenes.name, "numbers": found, "classes": tables(scores)}))
    else:
        print(report(scenes, scores, options.classes))
        if recorded and not changed:
            print("\nThe numbers agree with the run's record.")
    for name, value in changed.items():
        print(f"{name} is {found.get(name)} here, {value} in the run's record", file=sys.stderr)
    return EXIT_FAILED if changed else 0


def keeps_outcomes_only(path: Path) -> bool:
    """Whether a path is the folder of a run, but not of a detector."""
    return path.is_dir() and not (path / PREDICTIONS).exists()


def _score_outcomes(options: argparse.Namespace) -> int:
    """Print the scores of a run from its outcomes."""
    _refuse(options, "metric", "scenes", "data", "output", "to_coco", "classes")
    run = read_run(options.predictions)
    found = rescored(run)
    if options.json:
        print(json.dumps({"scores": [asdict(each) for each in found]}))
    else:
        print(as_text(run, found))
    for each in found:
        if not each.agrees:
            print(
                f"{each.name} is {each.value} here, {each.recorded} in the run's record",
                file=sys.stderr,
            )
    return 0 if all(each.agrees for each in found) else EXIT_FAILED


def _compare(options: argparse.Namespace) -> int:
    """Print the verdicts on a run against another one."""
    _refuse(options, "metric", "scenes", "data", "output", "to_coco", "classes")
    ours = read_seeds(options.predictions)
    theirs = [run for path in options.against for run in read_seeds(path)]
    found = compared(ours, theirs)
    if options.json:
        print(json.dumps({"verdicts": comparison_as_json(found)}))
    else:
        print(comparison_as_text(ours, theirs, found))
    return 0


def _refuse(options: argparse.Namespace, *names: str) -> None:
    """Refuse options that only apply to predictions of a detector."""
    given = [name for name in names if getattr(options, name) not in (None, False, "auto")]
    if given:
        listed = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UserError(
            f"{listed} only appl{'y' if len(given) > 1 else 'ies'} to scoring the predictions of a detector; "
            f"{options.predictions} is scored from its outcomes. Omit {'them' if len(given) > 1 else 'it'}"
        )


def read(options: argparse.Namespace) -> tuple[Scenes, tuple[Prediction, ...]]:
    """The scenes and their predictions.

    Raises:
        UserError: either is missing or malformed, or they do not belong together.
    """
    path, name, look_at_images = options.predictions, options.scenes, options.output is not None
    if path.suffix == ".json":
        if name is None:
            raise UserError(f"{path} does not name its split; add --scenes NAME")
        scenes = load(name, options.data, (), look_at_images)
        return scenes, read_coco_results(path, scenes)
    saved = load_predictions(path / PREDICTIONS if path.is_dir() else path)
    scenes = load(name or saved.scenes, options.data, saved.classes, look_at_images)
    saved.check_split(scenes)
    if scenes.keypoints is not None:  # the run's TEST.KEYPOINT_OKS_SIGMAS
        sigmas = tuple(saved.extra.get("oks_sigmas", ()))
        scenes = replace(scenes, keypoints=replace(scenes.keypoints, sigmas=sigmas))
    return scenes, saved.predictions


def load(name: str, root: Path | None, classes: Sequence[str], look_at_images: bool) -> Scenes:
    """The scenes with this name, or of several names joined by " + "."""
    parts = [
        load_scenes(
            part,
            root,
            classes=classes if classes and part.startswith("voc:") else None,
            look_at_images=look_at_images,
        )
        for part in name.split(" + ")
    ]
    return parts[0] if len(parts) == 1 else join_scenes(parts)


def scored(
    scenes: Scenes, predictions: Sequence[Prediction], metric: str = "auto", ties: Ties = "numpy"
) -> Scores:
    """Scores for ``box``, ``mask``, ``keypoint``; "auto" takes the metric of a run on these scenes."""
    if metric == "coco":
        scores: Scores = {"box": coco_ap(scenes, predictions)}
        if any(prediction.masks is not None for prediction in predictions):
            scores["mask"] = coco_ap(scenes, predictions, "segm")
        if any(prediction.keypoints is not None for prediction in predictions):
            scores["keypoint"] = coco_ap(scenes, predictions, "keypoints")
        return scores
    rules = VocRules.of_year(scenes.year)
    if metric != "auto":
        rules = VocRules("area" if metric == "voc-area" else "11-point")
    elif ties == "numpy" or scenes.category_ids:
        return score(scenes, predictions)
    return {"box": voc_ap(scenes, predictions, replace(rules, ties=ties))}


def report(scenes: Scenes, scores: Scores, classes: bool) -> str:
    """The numbers as text, with one line per class if ``classes`` is set."""
    lines = [f"{scenes.name}: {len(scenes.scenes)} images"]
    for kind, of_kind in scores.items():
        lines += ["", f"{kind}, {of_kind.metric}, percent"]
        shown = of_kind.summary().items()
        lines.append("  ".join(f"{name:>6}" for name, _ in shown))
        lines.append("  ".join(f"{_one_decimal(value):>6}" for _, value in shown))
        if of_kind.absent:
            lines.append(f"classes without objects: {', '.join(of_kind.absent)}")
        if classes:
            width = max(map(len, of_kind.classes))
            lines += ["", f"{'class':{width}}  objects  detections      AP    AP50    AP75"]
            lines += [
                f"{row['class']:{width}}  {row['objects']:7}  {row['detections']:10}"
                + "".join(f"  {_one_decimal(row[n]):>6}" for n in ("AP", "AP50", "AP75"))
                for row in of_kind.table()
            ]
    return "\n".join(lines)


def tables(scores: Scores) -> dict[str, object]:
    """The content of a run's per_class.json."""
    return {k: {"metric": s.metric, "classes": s.table()} for k, s in scores.items()}


def _write(folder: Path, scenes: Scenes, predictions: Sequence[Prediction], scores: Scores) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / PER_CLASS, (json.dumps(tables(scores), indent=1) + "\n").encode())
    write_drawings(folder, scenes, predictions, scores)


def _recorded(options: argparse.Namespace) -> dict[str, object]:
    """Results in the completed run's record next to the predictions; empty if not comparable."""
    path = options.predictions
    record = read_record(path if path.is_dir() else path.parent)
    comparable = path.suffix != ".json" and (options.metric, options.ties) == ("auto", "numpy")
    if record is None or not comparable or record["status"] != "done":
        return {}
    results: dict[str, object] = record["results"]
    return results


def _one_decimal(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else "-"


if __name__ == "__main__":
    sys.exit(main())
