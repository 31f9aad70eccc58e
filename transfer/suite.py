"""Run every protocol on checkpoints and on their untrained twins, and write a report.

The data are one folder that contains data sets by name, any single data set, or the embedded digits. A task
whose record is complete, with the same weights, card and data, is not repeated, so the same command continues
an interrupted suite. A task that fails does not stop the others. The report is updated after each run.
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
from transfer.orchestration.score_summary import (
    print_failures,
    print_not_run,
    print_scores,
)
from transfer.orchestration.smoke import SETTINGS, smoke_config, untrained_checkpoint
from transfer.orchestration.task_graph import Plan, plan_suite
from transfer.orchestration.watch import rounds, watch_config
from transfer.report.render import write_report


def run(config: Config, card: Card = Card()) -> Path:  # noqa: B008 - frozen
    """Run the suite and return the path of the HTML report.

    Raises:
        UserError: the input cannot be used, or another suite is writing to the output folder.
        RunFailed: a task failed, or a network has not learned anything; the others were run.
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
                print_costs(plan, config)
                print_not_run(plan, full=True)
                return page
            reported = _Report(config, output, checkpoints)
            progress = launcher_of(config, Path(__file__).resolve()).launch(
                plan, output, anyway=config.anyway, after_each=reported.write
            )
            if queued := progress.keys("queued"):
                print(f"{len(queued)} jobs are queued; the last one writes {page}")
                return page
            reported.write()
        if distributed.is_main():
            _print_end(config, output, plan, progress, page)
    _fail_if_incomplete(progress)
    return page


def run_one(config: Config, key: str) -> Path:
    """Run one task of the suite in this process, or write the report; launchers start this.

    The launcher has moved earlier runs aside, and holds the lock of the suite.

    Raises:
        UserError: there is no such task.
    """
    output = config.folder.expanduser()
    checkpoints = _checkpoints(config)
    reported = _Report(config, output, checkpoints)
    if key == REPORT:
        return reported.write()
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
    return config.all_checkpoints or (
        untrained_checkpoint(config.folder.expanduser() / "untrained"),
    )


@contextlib.contextmanager
def _locked(config: Config, output: Path) -> Iterator[None]:
    """Hold the lock of the output folder and stay in the process group; ``--plan`` needs neither."""
    if config.plan and config.all_checkpoints:
        yield
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(distributed.kept())
        distributed.start(distributed.pick_device(config.device))
        if distributed.is_main():
            stack.enter_context(output_folder(output))
        distributed.barrier()
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
    """The report of the runs so far, and of the pre-training if its record is next to a checkpoint."""

    def __init__(self, config: Config, output: Path, checkpoints: tuple[Path, ...]) -> None:
        self.output = output
        self.beside = [
            path
            for path in dict.fromkeys([*(c.parent for c in checkpoints), config.watch])
            if path is not None and (path / "record.json").is_file()
        ]

    def write(self) -> Path:
        """Write it in the main process, and return the path of the HTML file."""
        page = self.output / REPORT / "report.html"
        if distributed.is_main():
            below = [path for path in sorted(self.output.iterdir()) if path.is_dir()]
            runs = [path for path in below if path.name not in (REPORT, SET_ASIDE)]
            with_records = [path for path in runs if any(path.rglob("record.json"))]
            if found := list(dict.fromkeys([*with_records, *self.beside])):
                write_report(found, page.parent)
        return page


def _print_end(config: Config, output: Path, plan: Plan, progress: Progress, page: Path) -> None:
    networks = plan.networks
    if config.watch is not None:  # the last epoch; the report has all
        last = [network for network in networks if not network.untrained][-1]
        networks = tuple(n for n in networks if n.untrained or n is last)
    print_scores(output, networks)
    if config.smoke:
        print("smoke test: these scores mean nothing")
    print_not_run(plan, full=False)
    print_failures(progress)
    print(f"report: {page}")


def _fail_if_incomplete(progress: Progress) -> None:
    """Raise RunFailed if a task failed or a network was not evaluated."""
    failed, left = progress.keys("failed"), progress.keys("not run")
    if not failed and not left:
        return
    lines = [f"tasks that failed: {len(failed)}, not run: {len(left)}; see above."]
    for network, reasons in progress.unlearned.items():
        lines.append(f"{network} has not learned anything: {'; '.join(reasons)}")
        lines.append("Give --anyway to evaluate it nevertheless.")
    if failed:
        lines.append("The same command repeats the failed tasks and keeps the others.")
    raise RunFailed("\n".join(lines))


if __name__ == "__main__":
    main(run, *OPTIONS)
