"""Certificates of conversions, as tools/convert_to_d2.py leaves them beside its files."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msbreg.checkpoints.load import file_sha256

PATTERN = "*.certificate.json"


@dataclass(frozen=True)
class Row:
    """What one reader found on images of one size.

    Attributes:
        reader: library and version.
        tensors: in its network, all equal to the file's.
        size: height x width.
        errors: largest difference of each stage over its largest value.
    """

    reader: str
    tensors: int
    size: str
    errors: dict[str, str]


@dataclass(frozen=True)
class Conversion:
    """One written file.

    Attributes:
        path: of the certificate.
        title: target and file.
        facts: name -> words.
        settings: in the target's words.
        passed: whether the file computes what its source does.
        state: empty, or why the certificate is not about the file that is there now.
        stages: names of the columns.
        rows: per reader and size.
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
    """Every certificate at or below the paths, or why it cannot be read."""
    files = dict.fromkeys(file for path in paths for file in sorted(path.rglob(PATTERN)))
    return [_read(file) for file in files]


def _read(path: Path) -> Conversion | str:
    try:
        content = json.loads(path.read_text())
        return _conversion(path, content)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        return f"{path} cannot be read ({error})."
    except (KeyError, TypeError, ValueError, AttributeError):
        return f"{path} is not as tools/convert_to_d2.py writes it."


def _conversion(path: Path, content: dict[str, Any]) -> Conversion:
    source = content["source"]
    rows = tuple(
        Row(
            reading["reader"],
            reading["tensors"],
            size,
            {stage: f"{error['relative']:.1e}" for stage, error in stages.items()},
        )
        for reading in content["readings"]
        for size, stages in reading["errors"].items()
    )
    height_by_width = " and ".join(f"{height}x{width}" for height, width in content["sizes"])
    return Conversion(
        path=path,
        title=f"{content['target']}: {content['file']}",
        facts={
            "source": f"{source['source']} (sha256 {source['sha256'][:12]}), {source['encoder']}",
            "network": f"{source['arch']}, {source['tensors']} tensors",
            "images": f"{height_by_width}, uint8 RGB",
            "allowed": f"{content['tolerance']:.0e}",
            "written": f"{content['date']}, PyTorch {content['versions']['torch']}",
        },
        settings=content["settings"],
        passed=content["passed"] is True,
        state=_state(path.with_name(content["file"]), content["sha256"]),
        stages=tuple(rows[0].errors) if rows else (),
        rows=rows,
    )


def _state(path: Path, sha256s: dict[str, str]) -> str:
    """Whether the files are the ones of the certificate."""
    for name, sha256 in sha256s.items():
        file = path / name if path.is_dir() else path
        if not file.is_file():
            return f"{file} is not there any more."
        if file_sha256(file) != sha256:
            return f"{file} is not the file that was certified: its sha256 is another one."
    return ""
