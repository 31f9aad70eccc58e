"""The options that a config class has, and how the type of an option reads in help and messages."""

import ast
import dataclasses
import functools
import inspect
import itertools
import json
import textwrap
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msbreg.run.errors import did_you_mean

NO_OPTION = {"option": False}
"""Metadata of a field that is not an option."""
SEE_HELP = "Run with --help to list all options."


@dataclass(frozen=True)
class Option:
    """One option: its dotted name, type, documentation and default."""

    name: str
    kind: Any
    doc: str
    default: Any = None
    required: bool = False


def options_of(config_type: type, prefix: str = "") -> dict[str, Option]:
    """Every option of a config class by dotted name; a group is also an option."""
    kinds, docs = typing.get_type_hints(config_type), field_docs(config_type)
    found: dict[str, Option] = {}
    for field in dataclasses.fields(config_type):
        if field.metadata.get("option", True):
            name, kind = prefix + field.name, kinds[field.name]
            default = field.default
            if field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
            required = default is dataclasses.MISSING
            found[name] = Option(name, kind, docs.get(field.name, ""), default, required)
            if (group := group_of(kind)) is not None:
                found |= options_of(group, f"{name}.")
    return found


def flag(name: str) -> str:
    """An option as written on the command line: ``eval_only`` -> ``--eval-only``."""
    return "--" + name.replace("_", "-")


def unknown_name(name: str, known: Iterable[str]) -> str:
    """The message for an unknown option or key, with a suggestion if one is similar."""
    return f"{name} is unknown{did_you_mean(name, known) or '.'}"


# ---- Types


def alternatives(kind: Any) -> tuple[Any, ...]:
    """The types of a union except None; for any other type, that type alone."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return tuple(k for k in typing.get_args(kind) if k is not type(None))
    return (kind,)


def group_of(kind: Any) -> type | None:
    """The dataclass of a group of settings, which may be optional; None if it is not a group."""
    for one in alternatives(kind):
        if isinstance(one, type) and dataclasses.is_dataclass(one):
            return one
    return None


def element_of(kind: Any) -> Any:
    """The element type of a list; None if the type is not a list."""
    for one in alternatives(kind):
        if typing.get_origin(one) is tuple:
            return typing.get_args(one)[0]
    return None


def choices_of(kind: Any) -> tuple[str, ...]:
    """The values of a Literal, or of the elements of a list of them; empty for any other type."""
    found: list[str] = []
    for one in (*alternatives(kind), element_of(kind)):
        if typing.get_origin(one) is typing.Literal:
            found += map(str, typing.get_args(one))
    return tuple(found)


def describe_type(kind: Any) -> str:
    """Describe a type for a message.

    >>> describe_type(int | None)
    'an integer, or null'
    >>> describe_type(tuple[float, ...])
    'numbers, separated by spaces or commas'
    >>> describe_type(tuple[float, float])
    '2 numbers, separated by spaces or commas, such as 0.5 1'
    """
    names = {int: "an integer", float: "a number", bool: "true or false", Path: "a path"}
    parts = []
    for one in alternatives(kind):
        if typing.get_origin(one) is typing.Literal:
            parts.append(" or ".join(map(str, typing.get_args(one))))
        elif typing.get_origin(one) is tuple:
            parts.append(_describe_list(typing.get_args(one)))
        elif dataclasses.is_dataclass(one):
            parts.append("a mapping of " + ", ".join(f.name for f in dataclasses.fields(one)))
        else:
            parts.append(names.get(one, "text"))
    return " or ".join(parts) + (", or null" if type(None) in typing.get_args(kind) else "")


def _describe_list(elements: tuple[Any, ...]) -> str:
    """Describe a list by the arguments of its tuple type: ``(int, ...)`` or ``(float, float)``."""
    if choices := choices_of(elements[0]):
        return f"one or more of {', '.join(choices)}, separated by spaces or commas"
    several = {int: "integers", float: "numbers"}.get(elements[0], "strings")
    if ... in elements:
        return f"{several}, separated by spaces or commas"
    count = len(elements)
    example = " ".join(f"{number / count:g}" for number in range(1, count + 1))
    shown = f", such as {example}" if elements[0] is float else ""
    return f"{count} {several}, separated by spaces or commas{shown}"


def placeholder(kind: Any) -> str:
    for one in alternatives(kind):
        if typing.get_origin(one) is typing.Literal:
            return "{" + ",".join(map(str, typing.get_args(one))) + "}"
        if (element := element_of(one)) is not None:
            return f"{placeholder(element)} ..."
        if dataclasses.is_dataclass(one):
            return "{" + ", ".join(f"{field.name}: ..." for field in dataclasses.fields(one)) + "}"
        return {int: "N", float: "X", bool: "{true,false}", Path: "PATH"}.get(one, "TEXT")
    raise AssertionError("a union has at least one type")


def as_arguments(default: Any) -> str:
    """A default value as it would be typed on the command line."""
    if isinstance(default, tuple):
        return " ".join(map(str, default))
    if default is None or isinstance(default, bool):
        return json.dumps(default)
    return str(default)


@functools.cache
def field_docs(config_type: type) -> dict[str, str]:
    """The docstrings below the fields of a dataclass and its bases."""
    docs: dict[str, str] = {}
    for base in reversed(config_type.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for field, text in itertools.pairwise(tree.body):
            match field, text:
                case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(doc))):
                    docs[name] = " ".join(doc.split())
    return docs
