"""Parse the command line and a card into a frozen dataclass.

Each field of a script's ``Config`` is an option; ``--eval-only`` and ``--eval_only`` are equivalent. A card
(``--config FILE``) is a YAML file with the same names, which the command line overrides. Scripts whose
``--config`` is a Detectron2 yaml take KEY VALUE pairs after the options instead.

Neither this module nor anything a ``Config`` needs imports PyTorch, so ``--help`` and errors in options,
cards or paths appear within a second. A script reads its options before its heavy imports::

    if __name__ == "__main__":
        OPTIONS = read_options(Config)
    import torch
    ...
    if __name__ == "__main__":
        main(run, *OPTIONS)
"""

import argparse
import dataclasses
import inspect
import json
import os
import re
import runpy
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jsonargparse
import yaml

from msbreg.run.config import Card, PlainLoader, differences, plain, read_yaml
from msbreg.run.errors import UserError, did_you_mean, exit_codes
from msbreg.run.option_types import (
    SEE_HELP,
    Option,
    as_arguments,
    choices_of,
    describe_type,
    element_of,
    flag,
    group_of,
    options_of,
    placeholder,
    unknown_name,
)
from msbreg.run.signals import end_at_signals, exit_at_signals, interrupt_at_signals

C = TypeVar("C")
Assignment = tuple[str, str]  # dotted name with underscores, value as text

EXIT_CODES = (
    "Exit codes: 0 success; 1 the run failed (it diverged, or ran out of memory or disk space); 2 invalid "
    "options, card, checkpoint or data; 75 stopped by Ctrl-C or SIGTERM: run the same command to continue "
    "or start over."
)
WIDTH = 100
_KEY = r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*"


# ---- Scripts


def read_options(config_type: type[C], *, pairs: str | None = None) -> tuple[C, Card]:
    """The settings given on the command line; exits with a message if they are invalid.

    A config may define a method ``check_inputs`` that raises UserError for invalid paths.

    Args:
        pairs: the field that takes KEY VALUE pairs; if None, ``--config`` is a card.
    """
    with exit_codes():
        config, card = parse(config_type, pairs=pairs)
        check: Callable[[], None] | None = getattr(config, "check_inputs", None)
        if check is not None:
            check()
        if _only_check:
            raise _Checked
        end_at_signals()  # until ``main``: the imports take seconds
        return config, card


def main(run: Callable[[C, Card], Any], config: C, card: Card) -> None:
    """Call ``run``; on failure, print one message and exit with the matching code."""
    interrupt_at_signals()  # until the run handles them, from the start of its job
    with exit_codes():
        run(config, card)
        exit_at_signals()


class _Checked(Exception):
    """Ends a script whose options are valid, in place of the script's run."""


_only_check = False


def check_script(script: Path, words: Sequence[str]) -> bool:
    """Read the options of a script as the script would, and check its cards and paths.

    Exits with the script's own message if they are invalid.

    Returns:
        Whether the options were checked: False if the script does not call ``read_options`` first.
    """
    global _only_check
    if not re.search(r"^    OPTIONS = read_options\(", script.read_text(), re.MULTILINE):
        return False
    before, sys.argv, _only_check = sys.argv, [str(script), *words], True
    try:
        runpy.run_path(str(script), run_name="__main__")
    except _Checked:
        return True
    finally:
        sys.argv, _only_check = before, False
    raise AssertionError(f"{script} did not read its options")


def parse(
    config_type: type[C], arguments: Sequence[str] | None = None, *, pairs: str | None = None
) -> tuple[C, Card]:
    """Parse command-line arguments into ``config_type``.

    A config may name in ``first_word`` the field whose value can be given first, without its option.

    Returns:
        The settings, and the card with the overrides on top of it.

    Raises:
        UserError: an option or a key of a card is unknown or has an invalid value.
    """
    argv = list(sys.argv[1:] if arguments is None else arguments)
    if {"--help", "-h"} & set(argv):
        try:
            print(help_text(config_type, sys.modules["__main__"].__doc__, pairs=pairs), flush=True)
        except BrokenPipeError:  # `| head`; keep Python from failing when it closes stdout
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    first: str | None = getattr(config_type, "first_word", None)
    if first is not None and argv and not argv[0].startswith("-"):
        argv[0] = f"--{first}={argv[0]}"
    options = options_of(config_type)
    if pairs is not None:
        given, rest = _read_argv(argv, options, rest=True)
        _check_pairs(rest)
        return _with_pairs(config_type, given, rest, pairs)
    options |= {"config": Option("config", Path, "", required=False)}
    given, _ = _read_argv(argv, options)
    files = [Path(value) for name, value in given if name == "config"]
    given = [(name, value) for name, value in given if name != "config"]
    of_cards: list[Assignment] = []
    for file in files:
        of_card = _read_card(file, options, config_type)
        _build(config_type, of_card, source=file)
        of_cards += of_card
    reference = plain(_build(config_type, of_cards) if files else config_type())
    config = _build(config_type, of_cards + given)
    name = " + ".join(file.stem for file in files) or "defaults"
    return config, Card(name, differences(plain(config), reference))


def read_card(config_type: type[C], file: Path) -> C:
    """The settings in a card; those that it does not name have their defaults.

    Raises:
        UserError: the card is missing, is one of another script, or has an unknown key or an invalid value.
    """
    options = options_of(config_type) | {"config": Option("config", Path, "", required=False)}
    return _build(config_type, _read_card(file, options, config_type), source=file)


def _with_pairs(
    config_type: type[C], given: list[Assignment], argv: Sequence[str], field: str
) -> tuple[C, Card]:
    """The settings, and a card named after the yaml; options and pairs are its overrides."""
    config: Any = dataclasses.replace(_build(config_type, given), **{field: tuple(argv)})  # type: ignore[type-var]
    script = script_of_card(config.config)
    if script is not None and script != _script(config_type):
        raise UserError(_other_script(config.config, script, config_type))
    reference: Any = config_type(config=config.config)  # type: ignore[call-arg]
    set_here = differences(plain(config), plain(reference))
    set_here.pop(field, None)
    return config, Card(
        Path(config.config).stem, set_here | dict(zip(argv[::2], argv[1::2], strict=True))
    )


# ---- Command-line arguments


def _read_argv(
    argv: Sequence[str], options: Mapping[str, Option], *, rest: bool = False
) -> tuple[list[Assignment], list[str]]:
    """Split the arguments into options and, with ``rest``, the arguments that follow them.

    Accepts ``--name VALUE``, ``--name=VALUE``, ``--switch``, ``--list 5 20`` and ``--list 5,20``.
    """
    left = list(argv)
    given: list[Assignment] = []
    while left:
        word = left.pop(0)
        if not word.startswith("--"):
            if rest and not word.startswith("-"):
                return given, [word, *left]
            raise UserError(f"{word!r} does not belong to an option.\n{SEE_HELP}")
        name, equals, value = word[2:].partition("=")
        name = name.replace("-", "_")
        if name not in options:
            raise UserError(f"{unknown_name(flag(name), map(flag, options))}\n{SEE_HELP}")
        kind = options[name].kind
        if equals:
            values = [value]
        elif kind is bool:
            values = [left.pop(0)] if left and left[0].lower() in ("true", "false") else ["true"]
        else:
            most = len(left) if element_of(kind) is not None and not rest else 1
            values = []
            while left and len(values) < most and not left[0].startswith("--"):
                values.append(left.pop(0))
            if not values:
                raise UserError(
                    f"{flag(name)} has no value; expected {describe_type(kind)}.\n{SEE_HELP}"
                )
        if group_of(kind) is not None:
            given += _of_mapping(name, values[0], options)
        else:
            given.append((name, _as_list(values, kind) if element_of(kind) else values[0]))
    return given, []


def _of_mapping(name: str, value: str, options: Mapping[str, Option]) -> list[Assignment]:
    """The settings in ``--group '{one: 1, other: 2}'``; any other value of a group as it is."""
    try:
        content = _CardLoader(value).get_single_data()
    except (yaml.YAMLError, ValueError, OverflowError):
        content = None
    if not isinstance(content, dict) or not content:
        return [(name, value)]
    found = list(_assignments(content, options, f"{name}."))
    for unknown in [each for each, _ in found if each not in options]:
        raise UserError(f"{unknown_name(flag(unknown), map(flag, options))}\n{SEE_HELP}")
    return found


def _as_list(values: Sequence[str], kind: Any) -> str:
    """Arguments as a YAML list: ``5 20``, ``5,20`` and ``[5, 20]`` are equivalent."""
    joined = ",".join(values).strip()
    if joined.startswith("[") or joined in ("null", ""):
        return joined or "[]"
    items = [item.strip() for item in joined.split(",")]
    return f"[{', '.join(map(json.dumps, items) if element_of(kind) is str else items)}]"


def _check_pairs(argv: Sequence[str]) -> None:
    for key in argv[::2]:
        if key.startswith("--"):
            raise UserError(f"{key} must come before the KEY VALUE pairs; found it after {argv[0]}")
        if not re.fullmatch(_KEY, key):
            raise UserError(
                f"{key!r} is not a KEY of the yaml; expected KEY VALUE pairs without '=', such as "
                "SOLVER.MAX_ITER 100"
            )
    if len(argv) % 2:
        raise UserError(
            f"{argv[-1]} has no VALUE; expected KEY VALUE pairs after the options, such as "
            "SOLVER.MAX_ITER 100"
        )


# ---- Cards


class _CardLoader(PlainLoader):
    """YAML that reads 1e-5 as a number; YAML 1.1 reads it as a string."""


_CardLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+"),
    list("-+0123456789."),
)


def _read_card(file: Path, options: Mapping[str, Option], config_type: type) -> list[Assignment]:
    """The settings of a card.

    Raises:
        UserError: the file is missing or not a YAML mapping, is a card of another script, or contains an
            unknown key.
    """
    if not file.is_file():
        what = "is not a regular file" if file.exists() else "does not exist"
        raise UserError(
            f"card {file} {what}; expected a YAML file of settings, such as those in configs/"
        )
    try:
        content = read_yaml(file, _CardLoader)
    except (OSError, yaml.YAMLError, ValueError, OverflowError) as error:
        raise UserError(f"card {file} cannot be read: {error}") from error
    if content is None:
        return []
    if not isinstance(content, dict):
        raise UserError(f"card {file} is not a mapping of names to values")
    found = list(_assignments(content, options, ""))
    unknown = [name for name, _ in found if name not in options or name == "config"]
    if unknown:
        script = script_of_card(file)
        if script is None and {"MODEL", "SOLVER", "_BASE_", "DATASETS"} & set(content):
            script = "transfer/detection.py"
        if script not in (None, _script(config_type)):
            raise UserError(_other_script(file, script, config_type))
        known = [name for name in options if name != "config"]
        raise UserError("\n".join(f"{file}: {unknown_name(name, known)}" for name in unknown))
    return found


def _assignments(
    content: Mapping[Any, Any], options: Mapping[str, Option], prefix: str
) -> Iterator[Assignment]:
    for key, value in content.items():
        name = prefix + str(key).replace("-", "_")
        kind = options[name].kind if name in options else None
        if isinstance(value, dict) and value and group_of(kind) is not None:
            yield from _assignments(value, options, f"{name}.")
        elif isinstance(value, str):
            yield name, _as_list([value], kind) if element_of(kind) else value
        else:
            one = element_of(kind) is not None and not isinstance(value, list) and value is not None
            yield name, json.dumps([value] if one else value, default=str)


def script_of_card(file: Path) -> str | None:
    """The script in a card's line ``# Command: ...``; None if the card has no such line."""
    if not file.is_file():
        return None
    found = re.search(
        r"^# Command: .*?(\w+/\w+\.py)", file.read_text(errors="replace"), re.MULTILINE
    )
    return found[1] if found else None


def _other_script(file: Path, script: str | None, config_type: type) -> str:
    here = _script(config_type)
    return f"{file} is a card for {script}, but this is {here}.\nRun that script, or give another card."


def _script(config_type: Any) -> str:
    """The script of a config class as written in cards, such as ``transfer/knn.py``."""
    return getattr(config_type, "script", Path(sys.argv[0]).name)


# ---- Values


def _build(config_type: type[C], given: Sequence[Assignment], source: Path | None = None) -> C:
    """Build the config; jsonargparse converts and checks the values by the types of the fields."""
    options = options_of(config_type)
    names = {name.partition(".")[0] for name, _ in given}
    for option in options.values():
        if option.required and option.name not in names:
            raise UserError(f"{flag(option.name)} is missing.\n{SEE_HELP}")
    parser = jsonargparse.ArgumentParser(exit_on_error=False, allow_abbrev=False, add_help=False)
    hidden = {f.name for f in dataclasses.fields(config_type) if f.name not in options}  # type: ignore[arg-type]
    parser.add_class_arguments(config_type, None, skip=hidden)
    try:
        namespace = parser.parse_args([f"--{name}={value}" for name, value in given])
        return config_type(**vars(parser.instantiate(namespace)))
    except UserError as error:
        raise UserError(f"{source}: {error}" if source else str(error)) from error
    except (argparse.ArgumentError, ValueError, TypeError) as error:
        raise UserError(_reason(error, given, options, source)) from error


def _reason(
    error: Exception,
    given: Sequence[Assignment],
    options: Mapping[str, Option],
    source: Path | None,
) -> str:
    """The message for an invalid value, quoting it as it was given."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):  # raised by our own check of an optional group
            return f"{source}: {cause}" if source else str(cause)
        cause = cause.__cause__
    if key := re.search(r'Parser key "([\w.]+)"', str(error)):
        name = key[1]
        values = [value for other, value in given if other == name]
        if values and name in options:
            where = f"{source}: {name}" if source else flag(name)
            kind = options[name].kind
            value = values[-1].strip("[]") if element_of(kind) else values[-1]
            wrong = [word for word in re.split("[, ]+", value) if word not in choices_of(kind)]
            similar = did_you_mean(wrong[0], choices_of(kind)) if wrong else ""
            return f"{where} is {value!r}; expected {describe_type(kind)}{similar or '.'}" + (
                "" if source else f"\n{SEE_HELP}"
            )
    return f"{source}: {error}" if source else str(error)


# ---- Help


def help_text(config_type: type, doc: str | None, *, pairs: str | None = None) -> str:
    """The text of ``--help``: the docstring of the script, every option, the exit codes."""
    about = inspect.cleandoc(doc or "").replace("``", "")
    options = {
        name: option
        for name, option in options_of(config_type).items()
        if group_of(option.kind) is None or option.default is None
    }
    first = getattr(config_type, "first_word", None)
    lines = [
        f"usage: python {_script(config_type)} {f'{first.upper()} ' if first else ''}[OPTIONS]"
        + (" [KEY VALUE ...]" if pairs else ""),
        "",
    ]
    lines += [about, "", "Options (hyphens and underscores are equivalent):"]
    if pairs is None:
        card = "YAML file of settings (a card); options override its values"
        options = {"config": Option("config", Path, card, "")} | options
    for option in options.values():
        default = "" if option.required else f"[{as_arguments(option.default)}]"
        doc = option.doc.replace("``", "").rstrip(".")
        text = f"{doc}  {default}".strip() if default != "[]" else doc
        lines.append(f"  {flag(option.name)} {placeholder(option.kind)}")
        lines += textwrap.wrap(text, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    if pairs is not None:
        lines += ["  KEY VALUE ...", "      Override settings of the yaml; must follow all options"]
    lines += ["", "Default values are shown in [brackets].", *textwrap.wrap(EXIT_CODES, WIDTH)]
    return "\n".join(lines)
