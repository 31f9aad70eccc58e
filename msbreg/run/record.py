"""One JSON record per run: what was asked, where it ran, what came out.

A record is written with status ``running`` at the start and replaced at the end by ``done``,
``interrupted`` or ``failed``. Every write is atomic: a reader never sees half a record.
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

from msbreg.run.config import Card, flat, plain
from msbreg.run.errors import UserError
from msbreg.run.files import write_atomically
from msbreg.run.json_files import NUMBER, Shape, misfits, read_json

SCHEMA = 2
READABLE = (1, 2)  # a record of schema 1 has no "scores"
FILE_NAME = "record.json"
# Settings that cannot change the numbers of a run.
HARMLESS = frozenset(
    {"output", "device", "workers", "cache", "finished", "name", "save_seconds", "trust_pickle"}
)
# Settings that say on what a protocol runs, not which protocol it is.
NOT_PROTOCOL = HARMLESS | {"checkpoint", "data", "seed"}
_PACKAGES = (
    *("torch", "torchvision", "numpy", "scikit-learn", "faiss-cpu", "opencv-python-headless"),
    "pycocotools",
)


def protocol_digest(config: Any, resolved: Mapping[str, Any] | None = None) -> str:
    """Twelve hexadecimal digits that two runs share exactly if they follow the same protocol.

    A config class may name more of its fields that are no part of it: in ``not_protocol``, and in
    ``harmless`` those that may also change between an interrupted run and its continuation.

    Args:
        resolved: by dotted name, what was really used in place of a setting (a transform for null, the
            contents of a file for its path).
    """
    ignored = left_out(config)
    settings = {k: v for k, v in flat(plain(config)).items() if not matches(k, ignored)}
    for name, value in (resolved or {}).items():
        settings = {k: v for k, v in settings.items() if not matches(k, {name})}
        settings |= flat({name: plain(value)})
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def left_out(config: Any) -> frozenset[str]:
    """Names of the settings that are no part of the protocol; a group's name covers all in it."""
    return (
        NOT_PROTOCOL
        | getattr(config, "not_protocol", frozenset())
        | getattr(config, "harmless", frozenset())
    )


def matches(name: str, names: Set[str]) -> bool:
    """Whether a dotted name, or a group that it is in, is among the names.

    >>> matches("diagnostics.every", {"diagnostics"})
    True
    """
    parts = name.split(".")
    return any(".".join(parts[:end]) in names for end in range(1, len(parts) + 1))


def environment() -> dict[str, Any]:
    """What the numbers may depend on besides the settings."""
    import torch  # here: reading a record needs none

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
    """The commit of the code, with ``+changes`` when files differ from it; None outside git."""
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
            "not_protocol": sorted(left_out(config)),
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
        """State what is really used in place of settings; the digest is of these values.

        Args:
            settings: such as ``transform``, which may be null in the config.
        """
        resolved = self.content.setdefault("resolved", {})
        resolved |= {name: plain(value) for name, value in settings.items()}
        self.content["digest"] = protocol_digest(self._config, resolved)

    def continue_from(self, previous: dict[str, Any]) -> None:
        """Keep the beginning, the warnings and the time of the unfinished run before this one."""
        self.content["resumed_from"] = previous["status"]
        self.content["started"] = previous["started"]
        self.content["warnings"] = list(previous["warnings"])
        self._clock -= previous["seconds"]

    def write(self, status: str) -> None:
        """Replace the file, with the status and the seconds so far."""
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
    "network": dict,
}


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record in a run's folder, or None where there is none.

    It has kind, status, digest, card, command, started (text), config, environment, results
    (mappings), warnings (a list of text), seconds (a number) and, from schema 2 on, scores (a list of
    mappings). The entries of an evaluated network, its data and its transform have their types where
    they exist.

    Raises:
        UserError: the file is not such a record.
    """
    path = folder / FILE_NAME
    if not os.path.lexists(path):
        return None
    content = read_json(path)
    schema = content.get("schema") if isinstance(content, dict) else type(content).__name__
    if isinstance(schema, bool) or schema not in READABLE:
        raise UserError(
            f"{path} has schema {str(schema)[:40]!r}; this version reads "
            f"{' and '.join(map(str, READABLE))}.\nMove the folder away, or give another."
        )
    wrong = misfits(content, _REQUIRED if schema == 1 else {**_REQUIRED, "scores": list}, _OPTIONAL)
    for name, kind in (("warnings", str), ("scores", dict)):
        items = content.get(name)
        if isinstance(items, list) and not all(isinstance(item, kind) for item in items):
            wrong.append(name)
    if wrong:
        raise UserError(
            f"{path} is not a complete record: {', '.join(dict.fromkeys(wrong))} is missing or has "
            "another type.\nMove the folder away, or give another."
        )
    return content


def find_records(paths: Iterable[Path]) -> Iterator[tuple[Path, dict[str, Any] | str]]:
    """Every record at or below the paths with its folder, in the order of paths and of names.

    A record that cannot be read is replaced by a message that says why. Symbolic links to folders
    below the paths are not followed. One record is read at a time.

    Raises:
        UserError: a path does not exist, or there is no record below any.
    """
    paths = list(paths)
    for path in paths:
        if not path.exists():
            raise UserError(
                f"{path} does not exist; expected the folder of a run, or one that contains runs"
            )
    seen: set[Path] = set()
    closed: list[OSError] = []
    for path in paths:
        for parent, names, _ in os.walk(path, onerror=closed.append):
            names.sort()
            folder = Path(parent)
            if folder not in seen and os.path.lexists(folder / FILE_NAME):
                seen.add(folder)
                yield folder, _record_or_reason(folder)
    for error in closed:
        yield Path(error.filename), f"{error.filename} cannot be read ({error.strerror})."
    if not seen and not closed:
        places = ", ".join(map(str, paths))
        raise UserError(
            f"no {FILE_NAME} at or below {places}; expected the output of finished runs"
        )


def _record_or_reason(folder: Path) -> dict[str, Any] | str:
    try:
        return read_record(folder) or f"{folder / FILE_NAME} does not exist."
    except UserError as error:
        return str(error).partition("\n")[0]


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
