"""From what a file holds to flat state dicts whose keys carry no wrapper tokens."""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor

from msbreg.checkpoints.layouts.row import Entry
from msbreg.checkpoints.read.inert import printable

# Put in by DataParallel and DDP, torch.compile, FSDP and activation checkpointing, at the front of a
# key or, where a sub-module was wrapped, in its middle.
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


def matches(key: str, patterns: tuple[str, ...]) -> bool:
    """Whether one of the shell-style patterns is the whole key."""
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def unwrapped(key: str) -> str:
    """The key without wrapper tokens."""
    return ".".join(part for part in key.split(".") if part not in WRAPPERS)


def entry_of(content: Any, entry: Entry) -> Any:
    """What lies at the end of a path of keys and indices; None where the path breaks off."""
    for step in entry:
        named = isinstance(content, Mapping) and step in content
        numbered = isinstance(content, (list, tuple)) and step in range(len(content))
        if not named and not numbered:
            return None
        content = content[step]
    return content


def state_at(
    content: Any, entries: tuple[Entry, ...], *, nested: bool = False
) -> tuple[dict[str, Any] | None, str]:
    """The state dicts at those places joined into one, and what is wrong with them, if anything.

    Values other than tensors stay, so that they have to be accounted for too.

    Args:
        nested: join the paths of nested mappings by slashes, as haiku writes them.

    Returns:
        None for the state if one of them is not there; two keys that are one without their wrapper
        tokens are the one problem there can be.
    """
    state: dict[str, Any] = {}
    for entry in entries:
        found = entry_of(content, entry)
        if not isinstance(found, Mapping):
            return None, ""
        for key, value in _leaves(found) if nested else found.items():
            bare = unwrapped(str(key))
            if bare in state:
                return state, f"{printable(bare)} once (it is there twice without wrapper tokens)"
            state[bare] = value
    return state, ""


def _leaves(tree: Mapping[Any, Any], path: str = "", depth: int = 3) -> Iterator[tuple[str, Any]]:
    """haiku's trees are two deep, three in the state of moving averages."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and depth:
            yield from _leaves(value, f"{path}{key}/", depth - 1)
        else:
            yield f"{path}{key}", value


def groups(keys: list[str], depth: int = 1) -> dict[str, list[str]]:
    """Keys by their first components, in order of appearance."""
    grouped: dict[str, list[str]] = {}
    for key in keys:
        parts = key.split(".")
        head = ".".join(parts[:depth]) + (".*" if len(parts) > depth else "")
        grouped.setdefault(head, []).append(key)
    return grouped


def overview(content: Any) -> str:
    """One line on what a file holds, for error messages."""
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}, not a dict"
    tensors = [printable(str(k)) for k, value in content.items() if isinstance(value, Tensor)]
    parts = [f"{head} ({len(keys)})" for head, keys in groups(tensors).items()]
    for key, value in content.items():
        if isinstance(value, Mapping):
            inside = list(groups([printable(unwrapped(str(k))) for k in value]))
            more = ", ..." if len(inside) > 4 else ""
            parts.append(f"{printable(str(key))} with {', '.join(inside[:4])}{more}")
        elif not isinstance(value, Tensor):
            parts.append(printable(str(key)))
    return "; ".join(parts[:8]) + ("; ..." if len(parts) > 8 else "") if parts else "nothing"
