"""Reader of Detectron2's yaml files that does not need Detectron2.

A file contains only what differs from DEFAULTS, or from its ``_BASE_`` (a path relative to the file).
Overrides, as ``KEY VALUE`` pairs, come last. Errors name the key. A file cannot run code, and the cost of
reading it is bounded (``MAX_BYTES`` and others).
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import BASE_KEY, CfgNode

from msbreg.run.config import PlainLoader, read_yaml
from msbreg.run.errors import UserError
from transfer.detectors.config.defaults import DEFAULTS, VERSION

_EXAMPLES = {"DATASETS.TRAIN": ("voc_2007_trainval",), "DATASETS.TEST": ("voc_2007_test",)}
"""Examples for keys whose default, an empty tuple, is not a helpful one."""
ARCHITECTURE = "MODEL.META_ARCHITECTURE"


def default_config() -> CfgNode:
    """All of Detectron2's settings at their defaults; not frozen."""
    tree: dict[str, Any] = {}
    for key, value in DEFAULTS.items():
        *sections, name = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    return CfgNode(tree)


def read_config(path: Path | str, overrides: Sequence[str] = ()) -> CfgNode:
    """The defaults, updated by a file and then by the overrides; frozen.

    Args:
        path: yaml file as for Detectron2; ``_BASE_`` may name one file or several. Values in quotation
            marks are read as Python literals, so ``"(480, 512)"`` is a tuple.
        overrides: key, value, key, value, ..., as on the command line.

    Raises:
        UserError: a file is missing, not plain yaml, its own base, or too large; a key is unknown; a value
            has the wrong type; an override has no value.
    """
    path = Path(path)
    content = _Reader().content(path, ())
    config = default_config()
    version = content.get("VERSION", VERSION)
    if version != VERSION:
        raise UserError(
            f"{path} has VERSION {_shown(version)}; only settings of version {VERSION} are supported.\n"
            "Upgrade it with Detectron2 (detectron2.config.upgrade_config)."
        )
    pairs = list(_leaves(content))
    _check_names([key for key, _ in pairs], str(path))
    _check_plain(pairs, str(path))
    _merge(config, pairs, str(path))
    if len(overrides) % 2:
        raise UserError(
            f"overrides are KEY VALUE pairs; the last of these has no value: {list(overrides)}"
        )
    given = list(zip(overrides[::2], overrides[1::2], strict=True))
    _check_names([key for key, _ in given], "the overrides")
    _merge(config, given, "the overrides")
    config.freeze()
    return config


# ---- Reading a file and its bases, within limits that no real config reaches


MAX_FILES = 30  # Detectron2's longest chain has 4
_PYTHON = "tag:yaml.org,2002:python/"


@dataclass(frozen=True)
class _Code:
    """A value that is Python code (``!!python/...``), which is never run."""

    tag: str
    line: int


class _Loader(PlainLoader):
    """Reads Python code as ``_Code``."""


def _kept_code(loader: Any, suffix: str, node: Any) -> _Code:
    return _Code(f"!!python/{suffix}", node.start_mark.line + 1)


_Loader.add_multi_constructor(_PYTHON, _kept_code)


class _Reader:
    """Reads a file and its bases, each file once."""

    def __init__(self) -> None:
        self._done: dict[Path, dict[str, Any]] = {}

    def content(self, path: Path, opened: tuple[Path, ...]) -> dict[str, Any]:
        """The settings of a file on top of those of its bases, merged like fvcore does.

        Args:
            opened: the chain of files whose ``_BASE_`` led to this one.

        Raises:
            UserError: a file is missing, not plain yaml, or its own base, or there are too many.
        """
        by = f" ({BASE_KEY} of {opened[-1]})" if opened else ""
        try:
            resolved = path.resolve()
            is_file = path.is_file()
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a loop of links
            raise UserError(f"no such file: {_shown(str(path))}{by}: {error}") from error
        if resolved in [file.resolve() for file in opened]:
            raise UserError(f"{path}{by} is its own base")
        if not is_file:
            state = "a folder, expected a yaml file" if path.is_dir() else "no such file"
            raise UserError(f"{state}: {path}{by}")
        if resolved not in self._done:
            if len(opened) >= MAX_FILES or len(self._done) >= MAX_FILES:
                raise UserError(f"{path}{by}: more than {MAX_FILES} files by {BASE_KEY}")
            own = _read(path, by)
            bases = own.pop(BASE_KEY, [])
            merged: dict[str, Any] = {}
            for base in bases if isinstance(bases, list) else [bases]:
                if not isinstance(base, str):
                    raise UserError(f"{path}: {BASE_KEY} is {_shown(base)}; expected a file name")
                # Joining does not change an absolute path.
                file = path.parent / Path(base).expanduser()
                _overlay(merged, self.content(file, (*opened, path)), path)
            _overlay(merged, own, path)
            self._done[resolved] = merged
        return self._done[resolved]


def _read(path: Path, by: str) -> dict[str, Any]:
    """Read the mapping in one file."""
    try:
        content = read_yaml(path, _Loader)
    except OSError as error:
        raise UserError(f"{path}{by} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # UserError is a ValueError; others come from invalid numbers, such as 0b or 5,000 digits.
        raise UserError(f"{path}{by} is not plain yaml: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}{by} is not a yaml mapping of settings, but {_shown(content)}")
    return content


def _overlay(below: dict[str, Any], above: Mapping[str, Any], path: Path) -> None:
    """Merge the settings of ``above`` into ``below``, section by section."""
    for key, value in above.items():
        if isinstance(value, dict):
            inner = below.setdefault(key, {})
            if not isinstance(inner, dict):
                raise UserError(
                    f"{path} contradicts its {BASE_KEY}: {_shown(key)} is a section here and a value "
                    "there"
                )
            _overlay(inner, value, path)
        else:
            below[key] = value


def _shown(value: Any) -> str:
    """A value for a message, abbreviated if it is long."""
    if isinstance(value, dict | list | tuple | set):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 200:
        return f"an integer of {value.bit_length()} bits"
    return repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}..."


# ---- Keys and values


def _code_in(value: Any) -> _Code | None:
    """The first Python code in a value."""
    if isinstance(value, list):
        return next(filter(None, map(_code_in, value)), None)
    return value if isinstance(value, _Code) else None


def _check_plain(pairs: Sequence[tuple[str, Any]], where: str) -> None:
    """Check that no value is Python code; an unsupported architecture is reported first."""
    code = [(key, found) for key, value in pairs if (found := _code_in(value)) is not None]
    if not code:
        return
    lines = [
        f"{key} (line {found.line}) is Python code, {found.tag}, which is never run; write the value itself"
        for key, found in code
    ]
    architecture = dict(pairs).get(ARCHITECTURE, DEFAULTS[ARCHITECTURE])
    if architecture != DEFAULTS[ARCHITECTURE]:
        lines.insert(
            0,
            f"{ARCHITECTURE} is {_shown(architecture)}, which is not supported; supported: "
            f"{DEFAULTS[ARCHITECTURE]!r}",
        )
    raise UserError(f"{where} cannot be used:\n  " + "\n  ".join(lines))


def _leaves(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of each setting."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _check_names(keys: Sequence[str], where: str) -> None:
    unknown = [key for key in keys if key not in DEFAULTS]
    if unknown:
        more = f"\n... and {len(unknown) - 10} more" if len(unknown) > 10 else ""
        raise UserError(f"{where}: " + "\n".join(map(_unknown_key, unknown[:10])) + more)


def _unknown_key(key: str) -> str:
    """The error message for an unknown key."""
    inside = [known for known in DEFAULTS if known.startswith(f"{key}.")]
    if inside:
        return f"{key} is a section and takes no value; its keys are " + ", ".join(inside[:4])
    # Prefer keys with the same name in another section (FREEZE_AT under MODEL) to similar spellings.
    last = key.rpartition(".")[2]
    close = [known for known in DEFAULTS if known.rpartition(".")[2] == last]
    close = difflib.get_close_matches(key[:100], close or list(DEFAULTS), n=1, cutoff=0.0)
    return f"{_shown(key)[1:-1]} is not a Detectron2 setting; did you mean {close[0]}?"


def _merge(config: CfgNode, pairs: Sequence[tuple[str, Any]], where: str) -> None:
    """Set values one by one with yacs's rules, so that an error can name the key."""
    for key, value in pairs:
        # yacs accepts an empty value for a key of any type.
        if DEFAULTS[key] is not None and value in (None, "None"):
            raise UserError(
                f"{where}: {key} has no value; expected {type(DEFAULTS[key]).__name__}, such as "
                f"{DEFAULTS[key]!r}"
            )
        try:
            config.merge_from_list([key, value])
        except (ValueError, RecursionError, MemoryError) as error:
            expected = DEFAULTS[key]
            raise UserError(
                f"{where}: {key} is {_shown(value)}{_kind(config, value)}; expected "
                f"{type(expected).__name__}, such as {_EXAMPLES.get(key, expected)!r}"
            ) from error


def _kind(config: CfgNode, value: Any) -> str:
    """The type that yacs reads a value as."""
    try:
        return f", which reads as {type(config._decode_cfg_value(value)).__name__}"
    except (ValueError, RecursionError, MemoryError):  # nested too deeply for Python's parser
        return ""
