"""From the command line to a frozen dataclass, and from there to an exit code.

Every entry point ends with ``main(Config, run)``. A config file is a *card*: it states the protocol;
what the command line changes on top of it is kept by name, so that a record can tell the two apart.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import jsonargparse

from msbreg.run.errors import Interrupted, RunFailed, UserError

C = TypeVar("C")

EXIT_FAILED = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: "try again"; the same command continues the run


@dataclass(frozen=True)
class Card:
    """Where the settings come from: the card's name, and what differs from it, by dotted name."""

    name: str = "defaults"
    overrides: dict[str, Any] = field(default_factory=dict)


def plain(value: Any) -> Any:
    """The value in JSON's types: dataclasses become dictionaries, paths strings, tuples lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level of dotted names: ``{"a": {"b": 1}}`` -> ``{"a.b": 1}``."""
    out: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = value
    return out


def differences(given: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    """The dotted settings of ``given`` whose value is another one in ``reference``."""
    before, after = flat(reference), flat(given)
    return {key: value for key, value in after.items() if key not in before or before[key] != value}


def parse(config_type: type[C], arguments: Sequence[str] | None = None) -> tuple[C, Card]:
    """Read the command line into ``config_type``; jsonargparse ends the process on a bad one."""
    parser = _parser(config_type)
    given = sys.argv[1:] if arguments is None else arguments
    namespace = parser.parse_args(_spelled(config_type, given))
    try:
        config = parser.instantiate(namespace)
    except ValueError as error:  # our own checks, wrapped where a setting may also be null
        raise UserError(_reason(error)) from error
    files = [str(file) for file in namespace.get("config") or []]
    card_arguments = [word for file in files for word in ("--config", file)]
    settings = _without_config(config)
    if files:
        card_parser = _parser(config_type)
        base = card_parser.instantiate(card_parser.parse_args(card_arguments))
        reference = _without_config(base)
    else:
        reference = plain(config_type())
    name = " + ".join(Path(file).stem for file in files) or "defaults"
    return config_type(**_fields(config)), Card(name, differences(settings, reference))


def main(
    config_type: type[C],
    run: Callable[[C, Card], Any],
    arguments: Sequence[str] | None = None,
    *,
    parse: Callable[[type[C], Sequence[str] | None], tuple[C, Card]] = parse,
) -> None:
    """Parse, run, and turn what went wrong into one message and an exit code.

    Args:
        parse: reads the command line; another one for a script whose ``--config`` is no card of ours.

    Exit codes: 0 done, 1 a failure of the program (with traceback) or of the run (one message),
    2 wrong input (one message), 75 interrupted and saved: the same command continues.
    """
    try:
        config, card = parse(config_type, arguments)
        run(config, card)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except RunFailed as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_FAILED)
    except Interrupted as stop:
        print(f"interrupted: {stop}", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except KeyboardInterrupt:
        print("interrupted; the same command starts again or continues.", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


def _parser(config_type: type) -> jsonargparse.ArgumentParser:
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    summary = (sys.modules[config_type.__module__].__doc__ or "").strip().partition("\n\n")[0]
    parser = jsonargparse.ArgumentParser(description=summary, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="A YAML file of settings (a card).")
    parser.add_class_arguments(config_type, None)
    return parser


def _spelled(config_type: type, arguments: Sequence[str]) -> list[str]:
    """``--some-name`` as ``--some_name``, and a switch without a value as ``true``."""
    switches = {f"--{f.name}" for f in dataclasses.fields(config_type) if f.type is bool}
    out: list[str] = []
    for number, word in enumerate(arguments):
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            word = "--" + name[2:].replace("-", "_") + equals + value
        out.append(word)
        following = arguments[number + 1 : number + 2]
        if word in switches and (not following or following[0].startswith("--")):
            out.append("true")
    return out


def _reason(error: ValueError) -> str:
    """What was wrong, without the list of types that jsonargparse tried."""
    tried = [line.strip() for line in str(error).splitlines()]
    reasons = [line[2:] for line in tried if line.startswith("- ") and "Expected a <" not in line]
    return "\n".join(reasons) or str(error)


def _fields(namespace: Any) -> dict[str, Any]:
    values = dict(vars(namespace))
    values.pop("config", None)
    return values


def _without_config(namespace: Any) -> dict[str, Any]:
    return {key: plain(value) for key, value in _fields(namespace).items()}
