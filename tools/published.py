"""List published scores with their sources and with what to know before comparing them.

    python tools/published.py                                 # the tasks and how many numbers there are
    python tools/published.py --task "ImageNet kNN"           # every published number of a task
    python tools/published.py --method swav --json            # as JSON
    python tools/published.py --table 5                       # a table of the MSBReg paper

The numbers and their notes are in transfer/published/published.csv and remarks.csv.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from msbreg.run.errors import UserError, did_you_mean, exit_codes
from tools.tool_parser import ToolParser
from transfer.published import PublishedNumber, ablation_paper_tables, as_text, paper_tables
from transfer.published import published_numbers as all_numbers
from transfer.published.paper_table import Marks, PaperTable, footnote_lines
from transfer.published.published_tasks import NOT_SCORES, TASKS


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Raises:
        UserError: the options do not go together.
    """
    parser = ToolParser(__doc__)
    parser.add_argument("--task", help="only tasks whose name contains this")
    parser.add_argument("--method", help="only methods whose name contains this")
    parser.add_argument("--table", help="print this table of the MSBReg paper: 1 to 8 or 10 to 12")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    options = parser.parse_args(arguments)
    if options.table and (options.task or options.method):
        raise UserError(
            "--table prints a whole table; omit --task and --method, or give them without --table"
        )
    return options


def selected(task: str | None, method: str | None) -> list[PublishedNumber]:
    """The numbers whose task and method contain these texts, in any case.

    Raises:
        UserError: there are none.

    >>> [number.printed for number in selected("places205", "obow")]
    ['56.8']
    """
    found = [
        number
        for number in all_numbers()
        if (task or "").lower() in number.task.lower()
        and (method or "").lower() in number.method.lower()
    ]
    if not found:
        for name, wanted in (("task", task), ("method", method)):
            known = list(dict.fromkeys(getattr(number, name) for number in all_numbers()))
            if wanted and not any(wanted.lower() in one.lower() for one in known):
                raise UserError(
                    f"no published number has the {name} {wanted!r}{did_you_mean(wanted, known) or '.'}\n"
                    f"Expected a part of: {', '.join(known)}"
                )
        raise UserError(f"no method that contains {method!r} has a number for {task!r}")
    return found


def table_of_paper(number: str) -> PaperTable:
    """A table of the MSBReg paper.

    Raises:
        UserError: it has no results, or does not exist.
    """
    tables = [*paper_tables([], every=True), *ablation_paper_tables([], every=True)]
    by_number = {table.number: table for table in tables}
    if number not in by_number:
        known = ", ".join(sorted(by_number, key=int))
        raise UserError(
            f"table is {number}; expected one of {known}. Table 9 lists settings, and Table 13 repeats "
            "Table 6"
        )
    return by_number[number]


def lines_of(numbers: Sequence[PublishedNumber]) -> Iterator[str]:
    """The numbers by task and metric, each group with its footnotes."""
    tasks = list(dict.fromkeys(number.task for number in numbers))
    groups: dict[tuple[str, str], list[PublishedNumber]] = {}
    for number in sorted(numbers, key=lambda number: tasks.index(number.task)):
        groups.setdefault((number.task, number.metric), []).append(number)
    for (task, metric), group in groups.items():
        marks = Marks()
        rows = [_cells(number, marks) for number in group]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        about = TASKS[task].unstated if task in TASKS else f"Not comparable: {NOT_SCORES[task]}"
        yield f"{task}, {metric}"
        for row in rows:
            padded = (text.ljust(width) for text, width in zip(row, widths, strict=True))
            yield ("  " + "  ".join(padded)).rstrip()
        yield from footnote_lines(marks.footnotes, indent="  ")
        yield from [f"  {about}."] if about else []
        yield ""


def _cells(number: PublishedNumber, marks: Marks) -> list[str]:
    copied = f"Copied from {number.copied_from}" if number.copied_from else ""
    found = marks.of([copied, *number.notes])
    return [
        number.printed,
        number.method,
        number.variant,
        number.backbone,
        f"{number.epochs} epochs" if number.epochs else "",
        f"batch {number.batch_size}" if number.batch_size else "",
        f"{number.source}, {number.table}",
        f"[{','.join(found)}]" if found else "",
    ]


def summary() -> Iterator[str]:
    """The tasks, with the number of published numbers of each."""
    counts = Counter(number.task for number in all_numbers())
    yield f"{counts.total()} published numbers. List those of a task with --task, of a method with --method:"
    yield from (f"  {count:4}  {task}" for task, count in counts.items())


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and print the numbers."""
    with exit_codes():
        options = read_options(arguments)
        if options.table:
            table = table_of_paper(options.table)
            content: Any = dataclasses.asdict(table)
            lines = iter(as_text(table))
        else:
            numbers = selected(options.task, options.method)
            content = [dataclasses.asdict(number) for number in numbers]
            lines = lines_of(numbers) if options.task or options.method else summary()
        print(
            json.dumps(content, indent=1, ensure_ascii=False) if options.json else "\n".join(lines)
        )


if __name__ == "__main__":
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:  # `| head`; keep Python from failing when it closes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
