"""Settings as plain data: parsed from yaml, stored in records, and compared between runs."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from msbreg.run.errors import UserError


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


# ---- Plain yaml, within limits that no real file of settings reaches


MAX_BYTES = 2**20
MAX_NODES = 20_000  # keys, values and sections, with aliases expanded
MAX_DEPTH = 20


class PlainLoader(yaml.SafeLoader):
    """Loader of plain yaml with limited depth. Dates are read as strings."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - the base class's attribute without one entry
        first: [(tag, regex) for tag, regex in entries if tag != "tag:yaml.org,2002:timestamp"]
        for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: Any, index: Any) -> Any:  # the base class's name
        self.depth = getattr(self, "depth", 0) + 1
        if self.depth > 2 * MAX_DEPTH:
            line = self.peek_event().start_mark.line + 1
            raise UserError(f"line {line}: nested deeper than {MAX_DEPTH} levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def read_yaml(file: Path, loader: type[PlainLoader] = PlainLoader) -> Any:
    """The content of a yaml file.

    Raises:
        OSError: the file cannot be read.
        yaml.YAMLError, ValueError, OverflowError: it is not plain yaml (``UserError`` is a ValueError; others
            come from invalid numbers, such as 0b or 5,000 digits), or exceeds the limits.
    """
    with open(file, "rb") as opened:
        raw = opened.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise UserError(f"larger than {MAX_BYTES} bytes")
    parser = loader(raw.decode())
    try:
        root = parser.get_single_node()
        if root is None:
            return None
        _count(root, {}, set())
        return parser.construct_document(root)
    finally:
        parser.dispose()


def _count(node: Any, counted: dict[int, int], open_: set[int]) -> int:
    """Number of nodes in this subtree, with aliases expanded.

    Args:
        counted: results for nodes that were counted before, by id.
        open_: ids of the nodes on the path from the root.

    Raises:
        UserError: more than MAX_NODES, or a node contains itself.
    """
    if id(node) in open_:
        raise UserError(f"line {node.start_mark.line + 1}: contains itself through an alias")
    if id(node) not in counted:
        children = [] if isinstance(node, yaml.ScalarNode) else node.value
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in children for child in pair]
        inner = open_ | {id(node)}
        total = 1 + sum(_count(child, counted, inner) for child in children)
        if total > MAX_NODES:
            raise UserError(
                f"line {node.start_mark.line + 1}: more than {MAX_NODES} values after expanding "
                "aliases"
            )
        counted[id(node)] = total
    return counted[id(node)]
