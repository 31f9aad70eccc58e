"""Run an ablation of MSBReg's paper on any data: Table 6 (and 13), 7, 8 or 11 of arXiv 2207.03552.

The base recipe is that of the embedded digits, or a card of MSBReg (--config), with any option of
pretrain/run.py on top. Each cell, a row and a seed, is a pre-training run of its own in OUTPUT/ROW/seed-S.
The table is written to table.md and table.json after each cell, and printed at the end. If it is interrupted
or killed, run the same command to continue: completed cells are skipped, and the current one resumes.

--evaluate chooses the scores. monitor is the kNN monitor of pre-training after the last epoch: it classifies
held-out training images and costs nothing. knn and linear are accuracies on the test split: the programs
transfer/knn.py and transfer/linear.py are started on the checkpoint of each cell.
"""

import contextlib
import dataclasses
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

ROOT = Path(__file__).resolve().parents[1]
if not __package__:
    sys.path[0] = str(ROOT)

from msbreg.run.config import Card, differences, flat, plain
from msbreg.run.errors import EXIT_INTERRUPTED, Interrupted, RunFailed, UserError, did_you_mean
from msbreg.run.files import output_folder, write_atomically
from msbreg.run.json_files import misfits, read_json
from msbreg.run.option_types import NO_OPTION
from msbreg.run.options import main, read_options
from msbreg.run.record import HARMLESS, is_as_before, matches
from pretrain import recipe
from pretrain.ablation_results import NOTE, completed, entries, markdown, score_of
from pretrain.ablation_tables import TABLES, Row

Evaluation = Literal["monitor", "knn", "linear"]
PROGRAMS = ("knn", "linear")


@dataclass(frozen=True)
class Config(recipe.Config):
    """An ablation: the table and how to score its cells; everything else belongs to the base recipe."""

    script: ClassVar[str] = "pretrain/ablate.py"

    table: Literal["6", "7", "8", "11"] = "8"
    """Number of the table in the paper. 6: collapse without BatchNorm; 7: multi-crop; 8: terms of the loss;
    11: their weights."""
    rows: tuple[str, ...] = ()
    """Rows to run, by number (1 is the first) or by name, such as k4-b-s (empty: all)."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of each row. Differences of a few points between single runs say nothing."""
    evaluate: tuple[Evaluation, ...] = ("monitor",)
    """Scores of a cell: monitor (held-out training images), knn and linear (test split; see above)."""
    evaluation_data: str | None = None
    """Data of knn and linear (null: those of pre-training)."""
    knn_card: Path | None = None
    """Card for transfer/knn.py (null: configs/digits_knn.yaml for the digits, or its defaults)."""
    linear_card: Path | None = None
    """Card for transfer/linear.py (null: configs/digits_linear.yaml for the digits, or its defaults)."""
    output: Path = Path("runs/ablation")
    """Folder for table.md, table.json, and a folder for each row with one for each seed."""
    seed: int = field(default=0, metadata=NO_OPTION)
    finished: Literal["error", "skip"] = field(default="error", metadata=NO_OPTION)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method != "msbreg":
            raise UserError(
                f"method is {self.method}; expected a base recipe of msbreg, whose weights the rows use"
            )
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise UserError(
                f"seeds is {list(self.seeds)}; expected different integers of 0 or more"
            )
        if not self.evaluate or len(set(self.evaluate)) < len(self.evaluate):
            raise UserError(f"evaluate is {list(self.evaluate)}; expected each score at most once")
        cells_of(self)

    def check_inputs(self) -> None:
        """Check the paths, and that the output folder does not contain another table.

        Raises:
            UserError: a path does not exist or cannot be used.
        """
        from msbreg.data.sources import check_source  # imports OpenCV

        super().check_inputs()
        if self.evaluation_data is not None:
            check_source(self.evaluation_data)
        for name in PROGRAMS:
            card = getattr(self, f"{name}_card")
            if card is not None and not card.is_file():
                raise UserError(f"{name}_card {card} does not exist; expected a YAML file")
        if set(self.evaluate) & set(PROGRAMS) and "TORCHELASTIC_RUN_ID" in os.environ:
            raise UserError(
                f"evaluate is {list(self.evaluate)}, but knn and linear do not run under torchrun. Train "
                "with --evaluate monitor, then run the same command with python: completed cells are skipped"
            )
        _check_earlier_table(self)


# ---- The cells: every selected row with every seed


@dataclass(frozen=True)
class Cell:
    """One pre-training run."""

    row: Row
    config: recipe.Config

    @property
    def folder(self) -> Path:
        return self.config.output

    @property
    def cost(self) -> float:
        """Epochs times pixels of the views of an image, in full-size views; for the time left."""
        options = self.config.augment
        local = options.local_views * (options.local_size / options.size) ** 2
        return self.config.epochs * (self.config.views + local)


def folder_of(config: Config, row: Row, seed: int) -> Path:
    """The output folder of a cell."""
    return config.output.expanduser() / row.name / f"seed-{seed}"


def base_recipe(config: Config) -> recipe.Config:
    """The settings of pretrain/run.py alone."""
    names = [f.name for f in dataclasses.fields(recipe.Config)]
    return recipe.Config(**{name: getattr(config, name) for name in names})


def all_rows(config: Config) -> list[Row]:
    """The rows of the table, in the order of the paper."""
    return list(TABLES[config.table].rows(base_recipe(config)))


def cells_of(config: Config) -> list[Cell]:
    """The cells to run: seed by seed, so that a first version of the whole table appears early.

    Raises:
        UserError: a row is unknown, or its settings do not fit the base recipe.
    """
    rows = selected(all_rows(config), config.rows)
    return [Cell(row, config_of_cell(config, row, seed)) for seed in config.seeds for row in rows]


def selected(rows: list[Row], wanted: tuple[str, ...]) -> list[Row]:
    """The wanted rows, by number or name, in the order of the table; all if none are named."""
    names = [row.name for row in rows]
    numbers = {str(number): name for number, name in enumerate(names, 1)}
    chosen = [numbers.get(one, one) for one in wanted]
    for one in chosen:
        if one not in names:
            raise UserError(
                f"rows: {one!r} is unknown{did_you_mean(one, names)}\n"
                f"Expected numbers from 1 to {len(rows)}, or some of: {', '.join(names)}"
            )
    return [row for row in rows if not wanted or row.name in chosen]


def config_of_cell(config: Config, row: Row, seed: int) -> recipe.Config:
    """The settings of one run.

    Raises:
        UserError: they do not fit each other; the message names the row.
    """
    output = folder_of(config, row, seed)
    try:
        changed = with_settings(base_recipe(config), row.settings)
        return dataclasses.replace(changed, seed=seed, output=output, finished="skip")
    except UserError as error:
        raise UserError(f"row {row.name}: {error}") from error


def with_settings(base: recipe.Config, settings: Mapping[str, Any]) -> recipe.Config:
    """A copy with other values, by dotted name.

    >>> with_settings(recipe.Config(), {"views": 2, "augment.size": 32}).augment.size
    32
    """
    changes: dict[str, Any] = {}
    for name, value in settings.items():
        group, _, last = name.rpartition(".")
        if group:
            before = changes.get(group, getattr(base, group))
            changes[group] = dataclasses.replace(before, **{last: value})
        else:
            changes[last] = value
    return dataclasses.replace(base, **changes)


# ---- The table in the output folder

TABLE_FILE = "table.json"


def table_content(config: Config, failures: dict[tuple[str, int], str]) -> dict[str, Any]:
    """The content of table.json."""
    return {
        "table": config.table,
        "title": TABLES[config.table].title,
        "source": "arXiv 2207.03552",
        "note": NOTE,
        "seeds": list(config.seeds),
        "settings": _compared(config),
        "evaluations": (_earlier_table(config) or {}).get("evaluations", {}) | _evaluations(config),
        "rows": list(
            entries(
                TABLES[config.table],
                all_rows(config),
                seeds=config.seeds,
                evaluations=config.evaluate,
                folder_of=functools.partial(folder_of, config),
                failures=failures,
            )
        ),
    }


def _compared(config: Config) -> dict[str, Any]:
    """The settings of the base recipe that must not change between two runs of a table."""
    ignored = HARMLESS | {"seed"} | config.harmless
    settings = flat(plain(base_recipe(config)))
    return {name: value for name, value in settings.items() if not matches(name, ignored)}


def _evaluations(config: Config) -> dict[str, dict[str, Any]]:
    """For each evaluation on the test split, the options that must not change between two runs of a table."""
    return {
        name: plain(
            {
                f"{name}_card": getattr(config, f"{name}_card"),
                "evaluation_data": config.evaluation_data,
            }
        )
        for name in config.evaluate
        if name in PROGRAMS
    }


def _earlier_table(config: Config) -> dict[str, Any] | None:
    """The content of table.json in the output folder; None if there is none.

    Raises:
        UserError: the file is not a table.
    """
    path = config.output.expanduser() / TABLE_FILE
    if not path.is_file():
        return None
    content = read_json(path)
    if misfits(content, {"table": str, "settings": dict, "evaluations": dict}):
        raise UserError(f"{path} is not a table of this program; give another --output")
    assert isinstance(content, dict)
    return content


def _check_earlier_table(config: Config) -> None:
    """Refuse an output folder that contains another table, or this one with other settings."""
    before = _earlier_table(config)
    if before is None:
        return
    changed = {
        name: value
        for name, value in differences(_compared(config), before["settings"]).items()
        if not (name not in before["settings"] and is_as_before(config, name, value))
    }
    for name, options in _evaluations(config).items():
        changed |= differences(options, before["evaluations"].get(name, options))
    if before["table"] != config.table:
        changed = {"table": config.table}
    if changed:
        listed = ", ".join(f"{name} = {value!r} here" for name, value in changed.items())
        raise UserError(
            f"{config.output / TABLE_FILE} is a table with other settings: {listed}.\n"
            "Give the same settings to continue it, or another --output."
        )


if __name__ == "__main__":  # options, cards and paths are checked before PyTorch is imported
    OPTIONS = read_options(Config)

from msbreg.data.sources import EMBEDDED
from msbreg.run import distributed
from msbreg.run.job import log, log_to_terminal
from msbreg.run.progress import duration
from pretrain import run as pretraining


def run(config: Config, card: Card = Card()) -> dict[str, Any]:  # noqa: B008 - frozen
    """Run the cells that are not completed; return the content of table.json.

    Raises:
        UserError: an option contradicts the table, or the output folder is in use.
        RunFailed: cells failed; the others were run.
    """
    log_to_terminal()
    config.check_inputs()
    _check_overrides(config.table, card)
    with contextlib.ExitStack() as stack:
        stack.enter_context(distributed.kept())
        distributed.start(distributed.pick_device(config.device))
        if distributed.is_main():
            stack.enter_context(output_folder(config.output.expanduser()))
        content, failed, cells = _run_cells(config, card)
        if distributed.is_main():
            print(markdown(content), flush=True)
            log.info("table: %s", config.output / "table.md")
    if failed:
        raise RunFailed(
            f"{failed} of {cells} cells failed; {config.output / TABLE_FILE} says why. The same command "
            "tries them again, and --rows leaves rows out."
        )
    return content


def _run_cells(config: Config, card: Card) -> tuple[dict[str, Any], int, int]:
    """Run all cells and write the table after each; also return the numbers of failures and of cells."""
    failures: dict[tuple[str, int], str] = {}
    cells = cells_of(config)
    clock = _Clock(cells)
    for number, cell in enumerate(cells, 1):
        name, seed = cell.row.name, cell.config.seed
        log.info("---- cell %d of %d: %s, seed %d%s", number, len(cells), name, seed, clock.left())
        with clock.timing(cell):
            failure = _run_cell(config, cell, card)
        if failure:
            failures[name, seed] = failure
            log.error("%s, seed %d failed: %s", name, seed, failure)
        if distributed.is_main():
            _write(config, failures)
    return table_content(config, failures), len(failures), len(cells)


def _run_cell(config: Config, cell: Cell, card: Card) -> str:
    """Pre-train and evaluate one cell; why it failed, or an empty string.

    Pre-training runs in this process, so that nothing of it survives if the process is killed, and PyTorch is
    imported once. A diverged or impossible cell does not end the table.
    """
    try:
        pretraining.run(
            cell.config, Card(card.name, _overrides(card) | plain(dict(cell.row.settings)))
        )
    except (UserError, RunFailed) as error:
        return str(error)
    for program in PROGRAMS:
        if program in config.evaluate and score_of(cell.folder, program) is None:
            code = subprocess.run(evaluation_command(config, cell, program), check=False).returncode
            if code == EXIT_INTERRUPTED:
                raise Interrupted(
                    f"during {program} of {cell.folder}. Run the same command to continue."
                )
            if code:
                return f"transfer/{program}.py ended with exit code {code}; see {cell.folder / program}"
    return ""


def _overrides(card: Card) -> dict[str, Any]:
    """The options that belong to pre-training."""
    names = {f.name for f in dataclasses.fields(recipe.Config)}
    return {name: v for name, v in card.overrides.items() if name.partition(".")[0] in names}


def evaluation_command(config: Config, cell: Cell, program: str) -> list[str]:
    """The command that evaluates a cell on the test split.

    It is a program of its own because nothing in pretrain/ depends on transfer/.
    """
    card = getattr(config, f"{program}_card")
    if card is None and (config.evaluation_data or config.data) in EMBEDDED:
        card = ROOT / "configs" / f"digits_{program}.yaml"
    return [
        *(sys.executable, str(ROOT / "transfer" / f"{program}.py")),
        *([f"--config={card}"] if card else []),
        f"--checkpoint={cell.folder / pretraining.CHECKPOINT}",
        f"--data={config.evaluation_data or config.data}",
        f"--output={cell.folder / program}",
        f"--device={config.device}",
        "--finished=skip",
    ]


def _write(config: Config, failures: dict[tuple[str, int], str]) -> None:
    content = table_content(config, failures)
    output = config.output.expanduser()
    write_atomically(output / "table.md", markdown(content).encode())
    write_atomically(output / TABLE_FILE, (json.dumps(content, indent=2) + "\n").encode())


def _check_overrides(number: str, card: Card) -> None:
    """Refuse options that every row of the table sets itself."""
    for name in TABLES[number].fixed:
        if name in card.overrides:
            raise UserError(
                f"--{name} is {card.overrides[name]!r}, but the rows of Table {number} set it. Omit --{name}"
            )


class _Clock:
    """Estimates the time left from the cells that were run, in proportion to their cost."""

    def __init__(self, cells: list[Cell]) -> None:
        self._to_do = {id(cell): cell.cost for cell in cells if not completed(cell.folder)}
        self._seconds = self._done = 0.0

    @contextlib.contextmanager
    def timing(self, cell: Cell) -> Iterator[None]:
        started = time.monotonic()
        yield
        cost = self._to_do.pop(id(cell), None)
        if cost is not None:
            self._seconds += time.monotonic() - started
            self._done += cost

    def left(self) -> str:
        """The time left as the end of a line; empty before the first cell."""
        if not self._done:
            return ""
        return f", about {duration(self._seconds / self._done * sum(self._to_do.values()))} left"


if __name__ == "__main__":
    main(run, *OPTIONS)
