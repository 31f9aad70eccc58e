"""Run every protocol on checkpoints and on their untrained twins, and write a report.

The data are one folder that contains data sets by name, any single data set, or the embedded digits. A task
whose record is complete, with the same weights, card and data, is not repeated, so the same command continues
an interrupted suite. A task that fails does not stop the others, except under torchrun. The report is updated
after each run; if it cannot be written, the runs go on, and the suite fails at its end.
"""

import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from msbreg.run.config import Card
from msbreg.run.errors import RunFailed, UserError
from msbreg.run.options import main, read_options
from transfer.orchestration.suite_config import DEFAULT_CHECKPOINT, Config

if __name__ == "__main__":  # options, cards and paths are checked before PyTorch is imported
    OPTIONS = read_options(Config)

import contextlib
import traceback
from collections.abc import Iterator

from msbreg.run import distributed
from msbreg.run.files import output_folder
from msbreg.run.job import log, log_to_terminal
from msbreg.run.record import SET_ASIDE
from transfer.orchestration.execution import Progress, look_at_verdict, why_not_run
from transfer.orchestration.launchers.choice import launcher_of
from transfer.orchestration.launchers.launcher import REPORT
from transfer.orchestration.planning.plan_table import print_costs
from transfer.orchestration.protocols import GATE
from transfer.orchestration.score_summary import print_failures, print_not_run, print_scores
from transfer.orchestration.smoke import SETTINGS, smoke_config, untrained_checkpoint
from transfer.orchestration.task_graph import Plan, plan_suite
from transfer.orchestration.task_state import forget_data
from transfer.orchestration.watch import rounds, watch_config
from transfer.report.render import write_report


def run(config: Config, card: Card = Card()) -> Path:  # noqa: B008 - frozen
    """Run the suite and return the path of the HTML report.

    Raises:
        UserError: the input cannot be used, or another suite is writing to the output folder.
        RunFailed: a task failed, a network has not learned anything, or the report cannot be written; all
            that could run was run. Under torchrun, the first failed task ends the suite.
    """
    log_to_terminal()
    config.check_inputs()
    if config.smoke:
        config = smoke_config(config)
    if config.watch is not None:
        config = watch_config(config)
    if config.task is not None:
        return run_one(config, config.task)
    output = config.folder.expanduser()
    page = output / REPORT / "report.html"
    with _locked(config, output):
        for checkpoints in rounds(config) if config.watch is not None else [_checkpoints(config)]:
            _announce(config, checkpoints)
            plan = plan_suite(config, checkpoints, SETTINGS if config.smoke else None)
            if config.plan:
                distributed.from_main(lambda: _print_plan(config, plan))  # noqa: B023 - at once
                return page
            forget_data()  # a watched run: minutes may have passed
            reported = _Report(config, output, checkpoints)
            progress = launcher_of(config, Path(__file__).resolve()).launch(
                plan, output, anyway=config.anyway, after_each=reported.update
            )
            if queued := progress.keys("queued"):
                print(f"{len(queued)} jobs are queued; the last one writes {page}")
                return page
            reported.update()
        if distributed.is_main():
            _print_end(config, output, plan, progress)
            if not reported.problem:
                print(f"report: {page}")
    _fail_if_incomplete(progress, reported.problem, output, anyway=config.anyway)
    return page


def run_one(config: Config, key: str) -> Path:
    """Run one task of the suite in this process, or write the report; launchers start this.

    The launcher has moved earlier runs aside, and holds the lock of the suite.

    Raises:
        UserError: there is no such task.
        RunFailed: the report cannot be written.
    """
    output = config.folder.expanduser()
    checkpoints = _checkpoints(config)
    if key == REPORT:
        return _Report(config, output, checkpoints).write()
    plan = plan_suite(config, checkpoints, SETTINGS if config.smoke else None)
    tasks = {task.key: task for task in plan.tasks}
    if key not in tasks:
        raise UserError(f"task is {key}; expected {REPORT} or one of: {', '.join(tasks)}")
    progress = Progress()
    for gate in plan.tasks:
        if gate.script == GATE and gate.key != key:
            look_at_verdict(gate, progress, anyway=config.anyway)
    if reason := why_not_run(tasks[key], plan, progress, anyway=config.anyway):
        log.warning("%s is not run: %s", key, reason)
    else:
        tasks[key].run()
    return tasks[key].folder


def _checkpoints(config: Config) -> tuple[Path, ...]:
    folder = config.folder.expanduser() / "untrained"
    return config.all_checkpoints or (
        distributed.from_main(lambda: untrained_checkpoint(folder)),  # one process writes it
    )


@contextlib.contextmanager
def _locked(config: Config, output: Path) -> Iterator[None]:
    """Stay in the process group, and hold the lock of the output folder, unless nothing is written there."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(distributed.kept())
        distributed.start(distributed.pick_device(config.device))

        def lock() -> None:
            stack.enter_context(output_folder(output))

        if not (config.plan and config.all_checkpoints):
            distributed.from_main(lock)  # if it fails, all processes hear why
        yield


def _announce(config: Config, checkpoints: tuple[Path, ...]) -> None:
    names = ", ".join(map(str, checkpoints))
    log.info("suite of %s on %s", names, ", ".join(config.data) or "digits")
    if config.smoke:
        log.warning("SMOKE TEST: the settings are tiny, so the scores mean nothing")
    elif not config.data and checkpoints != (DEFAULT_CHECKPOINT,):
        log.warning(
            "no --data was given: %s is evaluated on the EMBEDDED DIGITS, not on data of your own. "
            "Use --data FOLDER, or --data digits to silence this warning",
            names,
        )


class _Report:
    """The report of the runs so far, and of the pre-training if its record is next to a checkpoint.

    Attributes:
        problem: why it could not be written the last time; empty if it was.
    """

    def __init__(self, config: Config, output: Path, checkpoints: tuple[Path, ...]) -> None:
        self.output = output
        self.problem = ""
        places = [*(path.parent for path in checkpoints), *filter(None, [config.watch])]
        self.beside = [
            path
            for path in dict.fromkeys(place.expanduser() for place in places)
            if (path / "record.json").is_file()
        ]

    def write(self) -> Path:
        """Write it, and return the path of the HTML file.

        Raises:
            UserError, RunFailed: it cannot be written.
        """
        page = self.output / REPORT / "report.html"
        below = [path for path in sorted(self.output.iterdir()) if path.is_dir()]
        runs = [path for path in below if path.name not in (REPORT, SET_ASIDE)]
        with_records = [path for path in runs if any(path.rglob("record.json"))]
        if found := list(dict.fromkeys([*with_records, *self.beside])):
            write_report(found, page.parent)
        return page

    def update(self) -> None:
        """Write it in the main process; a failure is logged, and kept as ``problem`` in all processes.

        It must not end hours of evaluation: the report can be written again from the records.
        """
        self.problem = distributed.from_main(self._try)

    def _try(self) -> str:
        try:
            self.write()
        except (UserError, RunFailed) as error:
            problem = str(error)
        except Exception as error:  # noqa: BLE001 - of any kind: the runs can still go on
            log.error("%s", traceback.format_exc())
            problem = f"{type(error).__name__}: {error}"
        else:
            return ""
        log.error("the report cannot be written: %s", problem)
        return problem


def _print_plan(config: Config, plan: Plan) -> None:
    print_costs(plan, config)
    print_not_run(plan, full=True)


def _print_end(config: Config, output: Path, plan: Plan, progress: Progress) -> None:
    networks = plan.networks
    if config.watch is not None:  # the last epoch; the report has all
        last = [network for network in networks if not network.untrained][-1]
        networks = tuple(n for n in networks if n.untrained or n is last)
    print_scores(output, networks)
    if config.smoke:
        print("smoke test: these scores mean nothing")
    print_not_run(plan, full=False)
    print_failures(progress)


def _fail_if_incomplete(progress: Progress, problem: str, output: Path, *, anyway: bool) -> None:
    """Raise RunFailed if a task failed, a network was not evaluated, or the report has a problem."""
    failed, left = progress.keys("failed"), progress.keys("not run")
    lines = []
    if failed or left:
        lines.append(f"tasks that failed: {len(failed)}, not run: {len(left)}; see above.")
    for network, reasons in progress.unlearned.items() if left and not anyway else ():
        lines.append(f"{network} has not learned anything: {'; '.join(reasons)}")
        lines.append("Give --anyway to evaluate it nevertheless.")
    if failed:
        lines.append("The same command repeats the failed tasks and keeps the others.")
    if problem:
        lines.append(f"the report in {output / REPORT} cannot be written: {problem}")
        lines.append("The runs are kept: the same command writes it again without repeating them.")
    if lines:
        raise RunFailed("\n".join(lines))


if __name__ == "__main__":
    main(run, *OPTIONS)
