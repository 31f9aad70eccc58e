"""One JSON record per run: what was asked, where it ran, what came out.

A record is written with status ``running`` at the start and replaced at the end by ``done``,
``interrupted`` or ``failed``. Every write is atomic: a reader never sees half a record.
"""

import contextlib
import hashlib
import json
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Set
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from msbreg.run.config import Card, flat, plain
from msbreg.run.errors import UserError
from msbreg.run.files import write_atomically

SCHEMA = 1
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


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record in a run's folder, or None where there is none.

    Raises:
        UserError: the file is not a record of this schema.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is not JSON ({error}).\nMove the folder away, or give another."
        ) from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else type(content).__name__
        raise UserError(
            f"{path} has schema {found!r}; expected {SCHEMA}: it is not of this version."
        )
    return content


def find_records(paths: Iterable[Path]) -> list[tuple[Path, dict[str, Any] | str]]:
    """Every record at or below the paths, with its folder, in the order of paths and of names.

    In place of a record that cannot be read stands why.

    Raises:
        UserError: a path does not exist, or there is no record below any.
    """
    paths = list(paths)
    found: dict[Path, dict[str, Any] | str] = {}
    for path in paths:
        if not path.exists():
            raise UserError(
                f"{path} does not exist; expected the folder of a run, or one that holds runs"
            )
        for file in sorted(path.rglob(FILE_NAME)):
            if file.is_file() and file.parent not in found:
                found[file.parent] = _record_or_reason(file.parent)
    if not found:
        places = ", ".join(map(str, paths))
        raise UserError(
            f"no {FILE_NAME} at or below {places}; expected the output of finished runs"
        )
    return list(found.items())


def _record_or_reason(folder: Path) -> dict[str, Any] | str:
    try:
        record = read_record(folder)
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"{folder / FILE_NAME} cannot be read ({error.strerror})."
    return record or f"{folder / FILE_NAME} has gone."


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
