"""Settings as plain data: what a record stores, and how two runs are compared."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


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
    """Nested settings as one level of dotted names.

    >>> flat({"a": {"b": 1}, "c": 2})
    {'a.b': 1, 'c': 2}
    """
    out: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = value
    return out


def differences(given: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    """The dotted settings of ``given`` that are absent from ``reference`` or have another value there.

    >>> differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}})
    {'a.c': 2}
    """
    before, after = flat(reference), flat(given)
    return {key: value for key, value in after.items() if key not in before or before[key] != value}
