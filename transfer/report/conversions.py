"""Certificates of conversions, which tools/convert_to_d2.py writes next to its files."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msbreg.run.errors import UserError
from msbreg.run.files import open_regular
from msbreg.run.json_files import NUMBER, Shape, is_number, misfits, read_json
from transfer.report import formatting

SUFFIX = ".certificate.json"
MOST = 40  # certificates on a page
_CERTIFICATE: Shape = {
    **dict.fromkeys(("target", "file", "date"), str),
    "source": {**dict.fromkeys(("source", "sha256", "encoder", "arch"), str), "tensors": int},
    "versions": {"torch": str},
    "sizes": list,
    "readings": list,
    "settings": dict,
    "sha256": dict,
    "tolerance": NUMBER,
    "passed": bool,
}
_READING: Shape = {"reader": str, "tensors": int, "errors": dict}


@dataclass(frozen=True)
class Row:
    """Result of one reader on images of one size.

    Attributes:
        reader: library and version.
        tensors: number of tensors in its network, all equal to the file's.
        size: height x width.
        errors: for each stage, the largest difference relative to the largest value.
    """

    reader: str
    tensors: int
    size: str
    errors: dict[str, str]


@dataclass(frozen=True)
class Conversion:
    """One converted file.

    Attributes:
        path: path of the certificate.
        facts: name -> text.
        settings: settings to use, under the target toolbox's names.
        passed: whether the outputs of the file equal those of its source within the tolerance.
        state: empty, or why the certificate does not apply to the current file.
        stages: names of the columns.
    """

    path: Path
    title: str
    facts: dict[str, str]
    settings: dict[str, Any]
    passed: bool
    state: str
    stages: tuple[str, ...]
    rows: tuple[Row, ...]


def find_conversions(paths: Iterable[Path]) -> list[Conversion | str]:
    """Every certificate in the folders or below; an error message for each that cannot be read."""
    files = dict.fromkeys(
        Path(parent, name)
        for path in paths
        for parent, folders, names in os.walk(path)
        for name in sorted([*folders, *names])
        if name.endswith(SUFFIX)
    )
    found: list[Conversion | str] = []
    for file in list(files)[:MOST]:
        try:
            found.append(_conversion(file, read_json(file)))
        except UserError as error:
            found.append(formatting.cut(error))
    if len(files) > MOST:
        found.append(f"Not shown: {len(files) - MOST} more certificates.")
    return found


def _conversion(path: Path, content: Any) -> Conversion:
    wrong = misfits(content, _CERTIFICATE)
    if not wrong:
        wrong += [f"readings.{n}" for r in content["readings"] for n in misfits(r, _READING)]
    if wrong:
        raise UserError(
            f"{path} is not a certificate of tools/convert_to_d2.py; missing or of the wrong type: "
            f"{', '.join(wrong)}."
        )
    source = content["source"]
    rows = tuple(
        Row(reading["reader"], reading["tensors"], size, _errors(path, stages))
        for reading in content["readings"]
        for size, stages in reading["errors"].items()
    )
    stages = tuple(rows[0].errors) if rows else ()
    return Conversion(
        path=path,
        title=formatting.cut(f"{content['target']}: {content['file']}", 120),
        facts={
            "source": f"{source['source']} (sha256 {source['sha256'][:12]}), {source['encoder']}",
            "network": f"{source['arch']}, {source['tensors']} tensors",
            "images": " and ".join(
                "x".join(map(str, _pair(path, size))) for size in content["sizes"]
            )
            + ", uint8 RGB",
            "allowed": f"{content['tolerance']:.0e}",
            "written": f"{content['date']}, PyTorch {content['versions']['torch']}",
        },
        settings=content["settings"],
        passed=content["passed"],
        state=_state(path, content["file"], content["sha256"]),
        stages=stages,
        rows=tuple(row for row in rows if tuple(row.errors) == stages)[:20],
    )


def _pair(path: Path, size: Any) -> list[Any]:
    if not isinstance(size, list) or not all(map(is_number, size)):
        raise UserError(f"{path} is not a certificate of tools/convert_to_d2.py: sizes.")
    return size


def _errors(path: Path, stages: Any) -> dict[str, str]:
    shown = {}
    for stage, error in stages.items() if isinstance(stages, dict) else [("errors", None)]:
        if not isinstance(error, dict) or not is_number(error.get("relative")):
            raise UserError(
                f"{path} is not a certificate of tools/convert_to_d2.py: the error of "
                f"{stage[:40]!r} is not a number."
            )
        shown[stage] = f"{error['relative']:.1e}"
    return shown


def _state(path: Path, name: str, sha256s: dict[str, Any]) -> str:
    """Why the files are not those of the certificate; empty if they are."""
    target = path.parent / os.path.basename(name)
    for part, sha256 in sha256s.items():
        file = target / os.path.basename(part) if target.is_dir() else target
        try:
            with open_regular(file) as content:
                found = hashlib.file_digest(content, "sha256").hexdigest()
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            return formatting.cut(
                f"{file} cannot be read ({getattr(error, 'strerror', None) or error})."
            )
        if found != sha256:
            return f"{file} is not the file that was certified: its sha256 differs."
    return ""
