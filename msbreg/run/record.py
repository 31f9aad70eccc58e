"""One JSON record per run: its settings, environment and results.

The record is written at the start with status ``running`` and rewritten at the end with ``done``,
``interrupted`` or ``failed``. Writes are atomic: a reader never sees an incomplete record.
"""

import contextlib
import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Set
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from msbreg.run.config import Card, differences, flat, plain
from msbreg.run.errors import UserError
from msbreg.run.files import write_atomically
from msbreg.run.json_files import NUMBER, Shape, misfits, read_json

SCHEMA = 2
READABLE = (1, 2)  # a record of schema 1 has no "scores"
FILE_NAME = "record.json"
SET_ASIDE = "set-aside"
"""Folder in the output of a suite to which it moves runs that it replaces; reports do not read it."""
# Settings that cannot change the numbers of a run.
HARMLESS = frozenset(
    {"output", "device", "workers", "cache", "finished", "name", "save_seconds", "trust_pickle"}
)
# Settings that select what the protocol is applied to, rather than the protocol itself.
NOT_PROTOCOL = HARMLESS | {"checkpoint", "data", "seed"}
_PACKAGES = (
    *("torch", "torchvision", "numpy", "scikit-learn", "opencv-python-headless"),
    *("pycocotools", "faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs"),
)


def protocol_digest(config: Any, resolved: Mapping[str, Any] | None = None) -> str:
    """Twelve hexadecimal digits, equal for two runs if and only if they follow the same protocol.

    A config class may exclude further fields: those in its ``not_protocol``, and those in its ``harmless``,
    which may also change between an interrupted run and its continuation. Settings in its ``added`` count
    only if they differ from the value there, so that new settings do not change the digests of earlier runs.

    Args:
        resolved: by dotted name, the values that were used in place of settings, such as the default
            transform for null, or the contents of a file for its path.
    """
    ignored = outside_protocol(config)
    settings = {k: v for k, v in flat(plain(config)).items() if not matches(k, ignored)}
    for name, value in (resolved or {}).items():
        settings = {k: v for k, v in settings.items() if not matches(k, {name})}
        settings |= flat({name: plain(value)})
    settings = {
        name: value for name, value in settings.items() if not is_as_before(config, name, value)
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def is_as_before(config: Any, name: str, value: Any) -> bool:
    """Whether a setting was added later and has the value that keeps the earlier behavior."""
    added = getattr(config, "added", {})
    return name in added and plain(added[name]) == value


def changed_settings(
    config: Any, previous: Mapping[str, Any], ignored: Set[str] = frozenset()
) -> str:
    """The settings that differ from those of an earlier record and may change its numbers, for a message.

    Args:
        ignored: further settings that may differ; a group covers all its settings.
    """
    harmless = HARMLESS | getattr(config, "harmless", frozenset()) | ignored
    known = flat(previous["config"])
    changed = differences(plain(config), previous["config"])
    return ", ".join(
        f"{name} = {value!r} here"
        for name, value in changed.items()
        if not matches(name, harmless)
        and not (name not in known and is_as_before(config, name, value))
    )


def outside_protocol(config: Any) -> frozenset[str]:
    """Names of the settings that are not part of the protocol; a group covers all its settings."""
    return (
        NOT_PROTOCOL
        | getattr(config, "not_protocol", frozenset())
        | getattr(config, "harmless", frozenset())
    )


def matches(name: str, names: Set[str]) -> bool:
    """Whether ``names`` contains a dotted name or a group that it belongs to.

    >>> matches("diagnostics.every", {"diagnostics"})
    True
    """
    parts = name.split(".")
    return any(".".join(parts[:end]) in names for end in range(1, len(parts) + 1))


def environment() -> dict[str, Any]:
    """What the results may depend on in addition to the settings: hardware and package versions."""
    import torch  # here, because reading a record does not need it

    packages = {}
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            packages[name] = version(name)
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "packages": packages,
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The commit of the code, with ``+changes`` if files were modified; None outside a repository."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        command = [
            "git",
            "-C",
            str(root),
            "describe",
            "--always",
            "--dirty=+changes",
            "--abbrev=12",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


class Record:
    """The record of one run, in memory and in ``FOLDER/record.json``."""

    def __init__(self, folder: Path, *, kind: str, config: Any, card: Card) -> None:
        self.path = folder / FILE_NAME
        self.content: dict[str, Any] = {
            "schema": SCHEMA,
            "kind": kind,
            "status": "running",
            "card": card.name,
            "overrides": card.overrides,
            "digest": protocol_digest(config),
            "not_protocol": sorted(outside_protocol(config)),
            "config": plain(config),
            "command": shlex.join(sys.argv),
            "started": _now(),
            "environment": environment(),
            "warnings": [],
            "results": {},
            "scores": [],
        }
        self._config = config
        self._clock = time.monotonic()

    def resolve(self, **settings: Any) -> None:
        """Record the values that are used in place of settings, and compute the digest from them.

        Args:
            settings: for example ``transform``, which may be null in the config.
        """
        resolved = self.content.setdefault("resolved", {})
        resolved |= {name: plain(value) for name, value in settings.items()}
        self.content["digest"] = protocol_digest(self._config, resolved)

    def continue_from(self, previous: dict[str, Any]) -> None:
        """Take over the start time, the warnings and the elapsed time of an unfinished run.

        And, in pre-training, whether it was equivalent to a run on one process until then.
        """
        self.content["resumed_from"] = previous["status"]
        self.content["started"] = previous["started"]
        self.content["warnings"] = list(previous["warnings"])
        if "equivalent" in previous:
            self.content["equivalent"] = previous["equivalent"]
        self._clock -= previous["seconds"]

    def write(self, status: str) -> None:
        """Write the file with this status and the elapsed time."""
        self.content["status"] = status
        self.content["written"] = _now()
        self.content["seconds"] = round(time.monotonic() - self._clock, 3)
        write_atomically(self.path, (json.dumps(self.content, indent=2) + "\n").encode())


_REQUIRED: Shape = {
    **dict.fromkeys(("kind", "status", "digest", "card", "command", "started"), str),
    **dict.fromkeys(("config", "environment", "results"), dict),
    "warnings": list,
    "seconds": NUMBER,
}
_OPTIONAL: Shape = {
    **dict.fromkeys(("overrides", "transform", "data"), (dict, type(None))),
    **dict.fromkeys(("engine", "inputs"), dict),
    **dict.fromkeys(("not_protocol", "drawings"), list),
    **dict.fromkeys(("error", "selection", "metric", "written", "device"), str),
    "processes": int,
    "equivalent": (bool, list),
    "network": dict,
}


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record in an output folder, or None if there is none.

    A record contains kind, status, digest, card, command, started (strings), config, environment, results
    (mappings), warnings (a list of strings), seconds (a number) and, since schema 2, scores (a list of
    mappings). Optional entries, such as the network, its data and its transform, are type-checked if
    present.

    Raises:
        UserError: the file is not a valid record.
    """
    path = folder / FILE_NAME
    if not os.path.lexists(path):
        return None
    content = read_json(path)
    schema = content.get("schema") if isinstance(content, dict) else type(content).__name__
    if isinstance(schema, bool) or schema not in READABLE:
        raise UserError(
            f"{path} has schema {str(schema)[:40]!r}; this version reads "
            f"{' and '.join(map(str, READABLE))}.\nMove the folder away, or give another one."
        )
    wrong = misfits(content, _REQUIRED if schema == 1 else {**_REQUIRED, "scores": list}, _OPTIONAL)
    for name, kind in (("warnings", str), ("scores", dict)):
        items = content.get(name)
        if isinstance(items, list) and not all(isinstance(item, kind) for item in items):
            wrong.append(name)
    if wrong:
        raise UserError(
            f"{path} is not a complete record; missing or of the wrong type: "
            f"{', '.join(dict.fromkeys(wrong))}.\nMove the folder away, or give another one."
        )
    return content


def find_records(paths: Iterable[Path]) -> Iterator[tuple[Path, dict[str, Any] | str]]:
    """Yield (folder, record) for every record at or below the paths, sorted by name within each path.

    Runs that a suite has set aside are skipped, unless a path lies inside that folder. A record that cannot
    be read is replaced by a message that says why. Symbolic links to folders are not followed. Records are
    read one at a time.

    Raises:
        UserError: a path does not exist, or no path contains a record.
    """
    paths = list(paths)
    for path in paths:
        if not path.exists():
            raise UserError(
                f"{path} does not exist; expected an output folder, or a folder that contains some"
            )
    seen: set[Path] = set()
    unreadable: list[OSError] = []
    for path in paths:
        for parent, names, _ in os.walk(path, onerror=unreadable.append):
            names[:] = sorted(name for name in names if name != SET_ASIDE)
            folder = Path(parent)
            if folder not in seen and os.path.lexists(folder / FILE_NAME):
                seen.add(folder)
                yield folder, _record_or_reason(folder)
    for error in unreadable:
        yield Path(error.filename), f"{error.filename} cannot be read ({error.strerror})."
    if not seen and not unreadable:
        folders = ", ".join(map(str, paths))
        raise UserError(
            f"no {FILE_NAME} found in {folders} or below; expected the output of finished runs"
        )


def _record_or_reason(folder: Path) -> dict[str, Any] | str:
    try:
        return read_record(folder) or f"{folder / FILE_NAME} does not exist."
    except UserError as error:
        return str(error).partition("\n")[0]


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
