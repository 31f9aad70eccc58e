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
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from msbreg.run.config import Card, flat, plain
from msbreg.run.errors import UserError

SCHEMA = 1
FILE_NAME = "record.json"
# Settings that say where and on what a protocol runs, not which protocol it is.
NOT_PROTOCOL = frozenset(
    {"output", "device", "workers", "checkpoint", "data", "seed", "cache", "finished", "name"}
)
_PACKAGES = (
    *("torch", "torchvision", "numpy", "scikit-learn", "faiss-cpu", "opencv-python-headless"),
    "pycocotools",
)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is either the old one or the new one, whole, whatever happens meanwhile.

    Raises:
        OSError: the write failed (disk full, say); the old file is untouched and nothing is left over.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # The rename itself is durable once the folder is on the disk; some file systems cannot say.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(folder)
    finally:
        os.close(folder)


def protocol_digest(config: Any) -> str:
    """Twelve hexadecimal digits that two runs share exactly if they follow the same protocol.

    A config class may name more of its fields that are no part of it, in ``not_protocol``.
    """
    ignored = left_out(config)
    settings = {k: v for k, v in flat(plain(config)).items() if k not in ignored}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def left_out(config: Any) -> frozenset[str]:
    """Names of the settings that are no part of the protocol."""
    return NOT_PROTOCOL | getattr(config, "not_protocol", frozenset())


def environment() -> dict[str, Any]:
    """What the numbers may depend on besides the settings."""
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
        self._clock = time.monotonic()

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
