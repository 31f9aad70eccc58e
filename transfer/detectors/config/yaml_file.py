"""Detection settings: Detectron2's yaml, read with or without Detectron2.

A file names only what differs from DEFAULTS (or from its ``_BASE_``, a path relative to itself) and
overrides come last, as ``KEY VALUE`` pairs. What does not fit is an error that names the key.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import BASE_KEY, CfgNode

from msbreg.run.errors import UserError
from transfer.detectors.config.defaults import DEFAULTS, VERSION

_EXAMPLES = {"DATASETS.TRAIN": ("voc_2007_trainval",), "DATASETS.TEST": ("voc_2007_test",)}
"""Of values whose default, an empty tuple, would be no example."""


def default_config() -> CfgNode:
    """All of Detectron2's settings at their defaults, not frozen."""
    tree: dict[str, Any] = {}
    for key, value in DEFAULTS.items():
        *sections, name = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    return CfgNode(tree)


def read_config(path: Path | str, overrides: Sequence[str] = ()) -> CfgNode:
    """The settings of a file, then those of the overrides, on top of the defaults; frozen.

    Args:
        path: yaml as for Detectron2; ``_BASE_`` may name one file or several. Values in quotation
            marks are read as Python literals, so ``"(480, 512)"`` is a tuple.
        overrides: key, value, key, value, ..., as on a command line.

    Raises:
        UserError: a file is missing, no yaml, or its own base; a key is unknown; a value is of
            another type than the key's; an override has no value.
    """
    path = Path(path)
    _check_files(path, ())
    try:
        content = CfgNode.load_yaml_with_base(str(path))
    except AssertionError as error:  # fvcore's, where a section takes the place of a value
        raise UserError(f"{path} does not fit its {BASE_KEY}: {error}") from error
    config = default_config()
    version = content.get("VERSION", VERSION)
    if version != VERSION:
        raise UserError(
            f"{path} has VERSION {version!r}; settings of version {VERSION} are read.\n"
            "Bring it up to date with Detectron2 (detectron2.config.upgrade_config)."
        )
    pairs = list(_leaves(content))
    _check_names([key for key, _ in pairs], str(path))
    _merge(config, pairs, str(path))
    if len(overrides) % 2:
        raise UserError(
            f"overrides come as KEY VALUE pairs; the last of these has no value: {list(overrides)}"
        )
    given = list(zip(overrides[::2], overrides[1::2], strict=True))
    _check_names([key for key, _ in given], "the overrides")
    _merge(config, given, "the overrides")
    config.freeze()
    return config


def _check_files(path: Path, opened: tuple[Path, ...]) -> None:
    """That a file and all its bases exist and are yaml mappings.

    Args:
        opened: the files that led here, each by its ``_BASE_``.
    """
    by = f" ({BASE_KEY} of {opened[-1]})" if opened else ""
    if path.resolve() in [file.resolve() for file in opened]:
        raise UserError(f"{path}{by} is its own base")
    if not path.is_file():
        raise UserError(f"{'a folder, no yaml' if path.is_dir() else 'no such file'}: {path}{by}")
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}{by} is no plain yaml: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}{by} holds no settings (a yaml mapping) but {content!r:.60}")
    bases = content.get(BASE_KEY, [])
    for base in bases if isinstance(bases, list) else [bases]:
        # An absolute path stays as it is when joined.
        _check_files(path.parent / Path(str(base)).expanduser(), (*opened, path))


def _leaves(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything that is not a section."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _check_names(keys: Sequence[str], where: str) -> None:
    unknown = [key for key in keys if key not in DEFAULTS]
    if unknown:
        raise UserError(f"{where}: " + "\n".join(_stranger(key) for key in unknown))


def _stranger(key: str) -> str:
    """What to say of an unknown key."""
    inside = [known for known in DEFAULTS if known.startswith(f"{key}.")]
    if inside:
        return f"{key} is a section and takes no value; it holds " + ", ".join(inside[:4])
    # First the same last word in another section (FREEZE_AT under MODEL), then similar spelling.
    last = key.rpartition(".")[2]
    close = [known for known in DEFAULTS if known.rpartition(".")[2] == last]
    close = difflib.get_close_matches(key, close or list(DEFAULTS), n=1, cutoff=0.0)
    return f"{key} is no setting of Detectron2's; the nearest is {close[0]}"


def _merge(config: CfgNode, pairs: Sequence[tuple[str, Any]], where: str) -> None:
    """Set values one by one by yacs's rules, so that an error can name its key."""
    for key, value in pairs:
        # Else yacs would take a key that was left empty, whatever its type.
        if DEFAULTS[key] is not None and value in (None, "None"):
            raise UserError(
                f"{where}: {key} has no value; expected {type(DEFAULTS[key]).__name__}, such as "
                f"{DEFAULTS[key]!r}"
            )
        try:
            config.merge_from_list([key, value])
        except ValueError as error:
            expected = DEFAULTS[key]
            kind = type(config._decode_cfg_value(value)).__name__
            raise UserError(
                f"{where}: {key} is given {value!r}, which reads as {kind}; expected "
                f"{type(expected).__name__}, such as {_EXAMPLES.get(key, expected)!r}"
            ) from error
