"""Settings as plain data: what a record stores, and how two runs are compared."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Card:
    """Where the settings come from: the name of a card, and the overrides on top of it by dotted name."""

    name: str = "defaults"
    overrides: dict[str, Any] = field(default_factory=dict)


def plain(value: Any) -> Any:
    """Convert to JSON types: dataclasses to dictionaries, paths to strings, tuples to lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to dotted names.

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
    """The settings of ``given`` that ``reference`` lacks or has with another value, by dotted name.

    >>> differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}})
    {'a.c': 2}
    """
    before, after = flat(reference), flat(given)
    return {key: value for key, value in after.items() if key not in before or before[key] != value}
