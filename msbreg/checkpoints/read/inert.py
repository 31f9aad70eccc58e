"""Inert records of the objects in a pickle: their names and content, but no code."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pickle import UnpicklingError
from typing import Any

from torch import Tensor

MAX_NAME_LENGTH = 200
# Networks have hundreds of modules on a few levels; modules that contain each other never end.
MAX_MODULES, MAX_DEPTH = 100_000, 100
# Attributes in which mapping classes keep their items: haiku, haiku's frozendict, DotMap.
_WRAPPED = ("_mapping", "_storage", "_map")


@dataclass(eq=False, repr=False, slots=True)
class Inert:
    """Stands in for an object whose class or function was neither imported nor called.

    Attributes:
        name: dotted name of the class or function.
        args: the arguments of the call; keyword arguments last, as one dict.
        state: the argument of ``__setstate__``, or the content of ``__dict__``.
        items: the entries of a mapping.
        elements: the elements of a list, a deque or a set.
        made_by: ``name`` (only referenced), ``class`` (an instance made by ``__new__``) or ``call``.
    """

    name: str
    args: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)
    made_by: str = "name"

    def __repr__(self) -> str:
        return f"<inert {self.name}>"


def printable(text: str) -> str:
    """The text made safe to print: no control characters or line breaks, and limited in length."""
    shown = "".join(c if c.isprintable() else "?" for c in text[:MAX_NAME_LENGTH])
    return shown if len(text) <= MAX_NAME_LENGTH else shown + "..."


def plain(value: Any) -> Any:
    """A copy in which inert records with an evident meaning are plain containers.

    Applied recursively; the first rule that matches is used.

    1. A whole ``nn.Module`` (its state has ``_parameters`` and ``_modules``) becomes a flat dict of
       its parameters and persistent buffers with dotted names, as in its ``state_dict()``.
    2. An OmegaConf container or node (``_metadata``, and ``_content`` or ``_val``) becomes its
       content.
    3. A record with items becomes a dict (AttributeDict, defaultdict, DotMap), a record with
       elements becomes a list (deque, subclasses of list and set).
    4. A call with one mapping becomes that dict (haiku's FlatMapping, Counter), a call of deque its
       list, and a defaultdict without items an empty dict.
    5. A record without arguments whose state is a mapping becomes the mapping that the state wraps
       (``_mapping``, ``_storage``, ``_map``), or else the state itself (Namespace and other
       objects' attributes).
    6. An instance with positional arguments and no state, such as a named tuple, becomes
       ``{"name": the name of the class without its module, "args": [...]}``.

    Other records are kept: function names, paths, enum members, partials. Tensors are shared with
    ``value``; containers are new. An OrderedDict remains one and keeps its ``_metadata``.

    Raises:
        UnpicklingError: modules contain themselves, or containers are nested too deeply.
    """
    try:
        return _plain(value, {})
    except RecursionError as error:
        raise UnpicklingError("its containers are nested too deeply") from error


def _plain(value: Any, done: dict[int, Any]) -> Any:
    """``done``: results by the id of their source, which the argument of ``plain`` keeps alive."""
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, Inert):
        return _plain_record(value, done)
    if isinstance(value, dict):
        result: dict[Any, Any] = {}
        if isinstance(value, OrderedDict):
            result = OrderedDict()
            vars(result).update(vars(value))
        return _fill(value, value, result, done)
    if type(value) is list:
        return _fill(value, value, [], done)
    if type(value) is tuple:
        done[id(value)] = content = tuple(_plain(item, done) for item in value)
        return content
    return value


def _plain_record(record: Inert, done: dict[int, Any]) -> Any:
    state = _attributes(record.state)
    call_of = record.args[0] if record.made_by == "call" and len(record.args) == 1 else None
    if _is_module(state):
        done[id(record)] = flat = dict(_tensors_of(record))
        return flat
    for wrapped in ("_content", "_val"):
        if "_metadata" in state and wrapped in state:
            done[id(record)] = record  # placeholder: a container's state refers to its parent
            done[id(record)] = content = _plain(state[wrapped], done)
            return content
    if record.items:
        return _fill(record, record.items, {}, done)
    if record.elements:
        return _fill(record, record.elements, [], done)
    if isinstance(call_of, Mapping):
        return _fill(record, call_of, {}, done)
    if record.name == "collections.defaultdict" and record.made_by == "call":
        return {}
    if record.name == "collections.deque" and record.made_by == "call":
        inside = record.args[0] if record.args else []
        return _fill(record, inside if type(inside) in (list, tuple) else [], [], done)
    if state and not record.args:
        held = next((state[k] for k in _WRAPPED if isinstance(state.get(k), Mapping)), state)
        return _fill(record, held, {}, done)
    if record.made_by == "class" and record.args and record.state is None:
        args: list[Any] = []
        done[id(record)] = {"name": record.name.rpartition(".")[2], "args": args}
        args.extend(_plain(item, done) for item in record.args)
        return done[id(record)]
    return record


def _fill(source: Any, content: Any, result: Any, done: dict[int, Any]) -> Any:
    """Register the result before filling it, because a container may contain itself."""
    done[id(source)] = result
    if isinstance(result, dict):
        for key, item in content.items():
            result[key] = _plain(item, done)
    else:
        result.extend(_plain(item, done) for item in content)
    return result


def _attributes(state: Any) -> Mapping[Any, Any]:
    """The attributes in a state: a mapping, or a pair of a mapping and the ``__slots__``."""
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], Mapping):
        return {**(state[0] if isinstance(state[0], Mapping) else {}), **state[1]}
    return state if isinstance(state, Mapping) else {}


def _is_module(state: Mapping[Any, Any]) -> bool:
    return all(isinstance(state.get(key), Mapping) for key in ("_parameters", "_modules"))


def _tensors_of(module: Inert) -> Iterator[tuple[str, Tensor]]:
    """The tensors that ``nn.Module.state_dict`` would list, in its order and under its names."""
    pending, modules = [("", 0, module)], 0
    while pending:
        prefix, depth, one = pending.pop()
        state = _attributes(one.state)
        modules += 1
        if modules > MAX_MODULES or depth > MAX_DEPTH:
            raise UnpicklingError("its modules contain each other in a cycle")
        absent = state.get("_non_persistent_buffers_set")
        absent = absent if isinstance(absent, set) else set()
        for kind in ("_parameters", "_buffers"):
            for name, value in _attributes(state.get(kind)).items():
                if isinstance(value, Tensor) and not (kind == "_buffers" and name in absent):
                    yield f"{prefix}{name}", value
        for name, child in reversed(list(state["_modules"].items())):
            if isinstance(child, Inert) and _is_module(_attributes(child.state)):
                pending.append((f"{prefix}{name}.", depth + 1, child))
