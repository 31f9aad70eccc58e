"""The command line of a script whose ``--config`` is Detectron2's yaml, with KEY VALUE pairs behind it.

As Detectron2's own: options first, then the settings that replace those of the file. What they mean
is for transfer/detectors/config/yaml_file.py; here words are told apart.
"""

import argparse
import dataclasses
import difflib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import jsonargparse

from msbreg.run.config import Card, differences, plain
from msbreg.run.errors import UserError

C = TypeVar("C")
TRAILING = "overrides"
"""The field of a config class that takes the words behind the options."""
_KEY = r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*"


def parse(config_type: type[C], arguments: Sequence[str] | None = None) -> tuple[C, Card]:
    """Read options and KEY VALUE pairs.

    The card is the yaml: its name, and what is set on top of it by options and by pairs.

    Raises:
        UserError: an option is unknown or its value cannot be one, a word stands where none is
            expected, or a pair is not whole.
    """
    options, words = split(config_type, sys.argv[1:] if arguments is None else arguments)
    parser = _parser(config_type)
    try:
        values = dict(vars(parser.instantiate(parser.parse_args(options))))
    except argparse.ArgumentError as error:
        raise UserError(
            f"{_in_words(str(error), config_type)}\n--help shows all options."
        ) from error
    given: Any = config_type(**values | {TRAILING: tuple(words)})
    required = {"config": given.config}
    set_here = differences(plain(given), plain(config_type(**required)))
    set_here.pop(TRAILING, None)
    pairs = dict(zip(words[::2], words[1::2], strict=True))
    return given, Card(Path(given.config).stem, set_here | pairs)


def split(config_type: Any, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The options as jsonargparse wants them, and the words behind them.

    Raises:
        UserError: an option stands behind a KEY, a KEY does not look like one, or has no VALUE.
    """
    switches = {f.name for f in dataclasses.fields(config_type) if f.type is bool}
    words, options = list(arguments), []
    while words and words[0].startswith("-"):
        name, equals, value = words.pop(0).partition("=")
        name = "--" + name.lstrip("-").replace("-", "_") if name.startswith("--") else name
        if name in ("--help", "-h"):
            return [name], []
        if equals:
            options.append(f"{name}={value}")
        elif name[2:] in switches:
            said = words and words[0].lower() in ("true", "false")
            options.append(f"{name}={words.pop(0).lower() if said else 'true'}")
        else:
            options += [name, words.pop(0)] if words else [name]
    _check_pairs(words)
    return options, words


def _check_pairs(words: Sequence[str]) -> None:
    late = [word for word in words[::2] if word.startswith("--")]
    if late:
        raise UserError(
            f"{late[0]} stands behind {words[0]}; give options first, then KEY VALUE pairs"
        )
    for key in words[::2]:
        if not re.fullmatch(_KEY, key):
            raise UserError(
                f"{key!r} stands where a KEY of the yaml is expected, such as SOLVER.MAX_ITER, then "
                "its VALUE (two words, no '=')"
            )
    if len(words) % 2:
        raise UserError(
            f"{words[-1]} has no VALUE; the words behind the options are KEY VALUE pairs, such as "
            "SOLVER.MAX_ITER 100"
        )


_KINDS = {"<class 'int'>": "a whole number", "<class 'bool'>": "true or false"}


def _in_words(said: str, config_type: Any) -> str:
    """What jsonargparse says of an option, in the words of a command line."""
    value = re.fullmatch(
        r'Parser key "(\w+)":\s+Expected an? (.+)\. Got value: (.*)', said, re.DOTALL
    )
    if value:
        name, kind, given = value.groups()
        choices = re.findall(r"'([^']*)'", kind) if "Literal[" in kind else []
        return f"--{name} is {given!r}; expected {' or '.join(choices) or _KINDS.get(kind, kind)}"
    if missing := re.fullmatch(r"the following arguments are required: (\w+)", said):
        return f"--{missing[1]} is missing"
    if unknown := re.fullmatch(r"unrecognized arguments: --([\w.-]+).*", said, re.DOTALL):
        names = [field.name for field in dataclasses.fields(config_type)]
        near = difflib.get_close_matches(unknown[1], names, 1)
        return f"--{unknown[1]} is no option" + (f"; is --{near[0]} meant?" if near else "")
    return said


def _parser(config_type: Any) -> jsonargparse.ArgumentParser:
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    summary = (sys.modules[config_type.__module__].__doc__ or "").strip().partition("\n\n")[0]
    parser = jsonargparse.ArgumentParser(
        description=f"{summary} After the options: KEY VALUE ..., settings on top of the yaml.",
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_class_arguments(config_type, None, skip={TRAILING, "yaml"})
    return parser
