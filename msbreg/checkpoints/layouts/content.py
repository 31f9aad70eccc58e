"""Flat state dicts from the content of a file, with keys free of wrapper tokens."""

import re
from collections.abc import Iterator, Mapping
from fnmatch import translate
from functools import cache
from typing import Any

from torch import Tensor

from msbreg.checkpoints.layouts.row import Entry
from msbreg.checkpoints.read.inert import printable
from msbreg.run.errors import UserError

# Added by DataParallel and DDP, torch.compile, FSDP and activation checkpointing: at the start of a key,
# or in its middle if a submodule was wrapped.
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


MOST_KEYS = 20_000
"""Of one state dict: a ResNet-200 has 1,218 tensors, and the largest training files some 5,000 keys."""


def matches(key: str, patterns: tuple[str, ...]) -> bool:
    """Whether one of the shell-style patterns matches the whole key."""
    return bool(patterns) and _compiled(patterns).match(key) is not None


@cache
def _compiled(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(translate, patterns)))


def unwrapped(key: str) -> str:
    """The key without wrapper tokens."""
    return ".".join(part for part in key.split(".") if part not in WRAPPERS)


def entry_of(content: Any, entry: Entry) -> Any:
    """The value at a path of keys and indices; None if there is none."""
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

    Values other than tensors are kept, so that they are accounted for as well.

    Args:
        nested: join the paths of nested mappings by slashes, as haiku writes them.

    Returns:
        None for the state if one of them is absent. The only possible problem: two keys that differ
        by wrapper tokens alone.

    Raises:
        UserError: there are more than MOST_KEYS keys.
    """
    state: dict[str, Any] = {}
    for entry in entries:
        found = entry_of(content, entry)
        if not isinstance(found, Mapping):
            return None, ""
        for key, value in _leaves(found) if nested else found.items():
            bare = unwrapped(str(key))
            if bare in state:
                return state, f"{printable(bare)} once (it occurs twice without wrapper tokens)"
            state[bare] = value
            if len(state) > MOST_KEYS:
                where = ".".join(map(str, entry)) or "the top level"
                raise UserError(
                    f"a state dict ({where}) has more than {MOST_KEYS:,} keys; expected the tensors of "
                    "a ResNet and its heads. Save the network alone."
                )
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
