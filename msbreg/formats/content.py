"""From what a file holds to flat state dicts whose keys carry no wrapper tokens."""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor

from msbreg.errors import UserError
from msbreg.formats.row import Entry

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


def state_at(content: Any, entries: tuple[Entry, ...]) -> dict[str, Any] | None:
    """The state dicts at those places joined into one; None if one of them is not there.

    Values other than tensors stay, so that they have to be accounted for too.

    Raises:
        UserError: two keys are one without their wrapper tokens, or the file is flattened by FSDP.
    """
    state: dict[str, Any] = {}
    for entry in entries:
        found = entry_of(content, entry)
        if not isinstance(found, Mapping):
            return None
        for key, value in _flat(found):
            bare = unwrapped(key)
            if bare.endswith("_flat_param"):
                raise UserError(
                    f"{key} is a flattened parameter of FSDP: its tensors cannot be told apart.\n"
                    "Save the full state dict (StateDictType.FULL_STATE_DICT) and give that file."
                )
            if bare in state:
                raise UserError(f"{bare} is in the file twice, once as {key}; expected it once")
            state[bare] = value
    return state


def _flat(mapping: Mapping[Any, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Nested trees (haiku's) joined by slashes, as haiku itself writes paths."""
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{key}/")
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
    tensors = [str(key) for key, value in content.items() if isinstance(value, Tensor)]
    parts = [f"{head} ({len(keys)})" for head, keys in groups(tensors).items()]
    for key, value in content.items():
        if isinstance(value, Mapping):
            inside = list(groups([unwrapped(str(k)) for k in value]))
            parts.append(f"{key} with {', '.join(inside[:4])}{', ...' if len(inside) > 4 else ''}")
        elif not isinstance(value, Tensor):
            parts.append(str(key))
    return "; ".join(parts[:8]) + ("; ..." if len(parts) > 8 else "") if parts else "nothing"
