"""Read untrusted JSON within bounds, and check its types.

An output folder may come from another machine or another program, so its files are read only through
``read_json`` and ``read_json_lines``. Their results are safe to traverse recursively, to compare, to average
and to encode as UTF-8: at most ``DEPTH`` levels, no NaN or infinity (converted to None), no integer of more
than 25 digits, no lone surrogate and no NUL.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from msbreg.run.errors import UserError
from msbreg.run.files import open_regular

LIMIT = 16_000_000  # bytes of a file
DEPTH = 50
_DIGITS = 25  # of an integer; 64-bit seeds have 20

Shape = Mapping[str, Any]
"""Name -> a type, a tuple of types, or the shape of a nested mapping."""
NUMBER = (int, float)


def read_bytes(path: Path, limit: int = LIMIT) -> bytes:
    """The content of a regular file.

    Raises:
        UserError: the file cannot be opened or read, or is larger than ``limit`` bytes.
    """
    try:
        with open_regular(path) as file:
            content = file.read(limit + 1)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist.") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL or a lone surrogate in the name
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read ({reason}).") from error
    if len(content) > limit:
        raise UserError(f"{path} is larger than {limit / 1e6:.0f} MB.")
    return content


def read_json(path: Path, limit: int = LIMIT) -> Any:
    """The value in a JSON file.

    Raises:
        UserError: the file cannot be read, is not JSON, or exceeds the limits of this module.
    """
    content = read_bytes(path, limit)
    try:
        return parse_json(content)
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}).") from error


def read_json_lines(path: Path, limit: int = LIMIT) -> list[Any]:
    """The values in a file with one JSON value per line; an incomplete last line is ignored.

    Raises:
        UserError: the file cannot be read, a line is not JSON, or it exceeds the limits of this module.
    """
    return parse_json_lines(path, read_bytes(path, limit))


def parse_json_lines(path: Path, content: bytes) -> list[Any]:
    """The values in the content of a file with one JSON value per line, as in ``read_json_lines``.

    Raises:
        UserError: a line is not JSON, or exceeds the limits of this module; the message names the path.
    """
    *lines, rest = content.split(b"\n")
    values = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                values.append(parse_json(line))
            except ValueError as error:
                raise UserError(f"{path} is not valid JSON (line {number}: {error}).") from error
    if rest.strip():
        try:
            values.append(parse_json(rest))
        except ValueError as error:
            if not values:
                raise UserError(f"{path} is not valid JSON ({error}).") from error
    return values


def parse_json(content: bytes) -> Any:
    """The value of one JSON text.

    >>> parse_json(b'{"loss": NaN, "top1": 61.5}')
    {'loss': None, 'top1': 61.5}

    Raises:
        ValueError: it is not JSON, or exceeds the limits of this module.
    """
    try:
        text = content.decode("utf-8-sig")
        value = _DECODER.decode(text)
    except RecursionError as error:
        raise ValueError(f"nested deeper than {DEPTH} levels") from error
    _check_depth(value)
    if "\\u" in text:  # the UTF-8 decoder rejects these characters, but not their escapes
        try:
            plain = json.dumps(value, ensure_ascii=False)
            plain.encode()
        except UnicodeEncodeError as error:
            raise ValueError("a lone surrogate in a string") from error
        if "\\u0000" in plain:
            raise ValueError("a NUL character in a string")
    return value


def _integer(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def _finite(digits: str) -> float | None:
    value = float(digits)
    return value if math.isfinite(value) else None


_DECODER = json.JSONDecoder(
    parse_int=_integer, parse_float=_finite, parse_constant=lambda _: None, strict=True
)


def _check_depth(value: Any) -> None:
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(DEPTH):
        level = [
            item
            for parent in level
            for item in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(item, (dict, list))
        ]
    if level:
        raise ValueError(f"nested deeper than {DEPTH} levels")


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a parsed value is a finite number; booleans are not numbers."""
    return isinstance(value, NUMBER) and not isinstance(value, bool) and math.isfinite(value)


def misfits(value: Any, required: Shape, optional: Shape | None = None) -> list[str]:
    """Dotted names of the entries that are missing or have the wrong type.

    >>> misfits({"a": 1, "b": {}}, {"a": str, "b": {"c": int}}, optional={"d": list})
    ['a', 'b.c']
    """
    if not isinstance(value, dict):
        return ["a mapping"]
    return [*_misfits(value, required, "", True), *_misfits(value, optional or {}, "", False)]


def _misfits(value: dict[str, Any], shape: Shape, prefix: str, needed: bool) -> list[str]:
    wrong = []
    for name, expected in shape.items():
        if name not in value:
            wrong += [prefix + name] if needed else []
            continue
        found = value[name]
        if isinstance(expected, Mapping):
            if isinstance(found, dict):
                wrong += _misfits(found, expected, f"{prefix}{name}.", needed)
            else:
                wrong.append(prefix + name)
        else:
            types = expected if isinstance(expected, tuple) else (expected,)
            # For Python, a bool is an int.
            if not isinstance(found, types) or (isinstance(found, bool) and bool not in types):
                wrong.append(prefix + name)
    return wrong
