"""The data passport: what a data set contained when it was checked, as one json file.

Its fingerprints are those that records cite, so a passport tells whether a score was measured on these data.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msbreg import __version__
from msbreg.run.files import replacing, writing
from tools.data_checks.checked_split import Split

SCHEMA = 1
_LISTED = 100  # problems of a split; their number is always complete


def passport(data: str, splits: Sequence[Split]) -> dict[str, Any]:
    """The content of a passport."""
    return {
        "schema": SCHEMA,
        "data": data,
        "checked": datetime.now(UTC).isoformat(timespec="seconds"),
        "msbreg": __version__,
        "problems": sum(len(split.problems) for split in splits),
        "splits": [_described(split) for split in splits],
    }


def _described(split: Split) -> dict[str, Any]:
    """``fingerprint`` is null if the split cannot be used as it is."""
    return {
        "layout": split.layout,
        "name": split.name,
        "images": split.images,
        "classes": list(split.classes),
        "labels": {name: split.labels[name] for name in split.classes if name in split.labels}
        or dict(sorted(split.labels.items())),
        "fingerprint": split.fingerprint or None,
        "boxes_fingerprint": split.boxes_fingerprint or None,
        "problem_count": len(split.problems),
        "problems": split.problems[:_LISTED],
        "warnings": split.warnings,
        "notes": split.notes,
    }


def write_passport(path: Path, content: dict[str, Any]) -> None:
    """Write a passport atomically.

    Raises:
        RunFailed: the file cannot be written.
    """
    text = json.dumps(content, indent=1) + "\n"
    with (
        writing(path, "the data passport", instead="give another --passport"),
        replacing(path) as file,
    ):
        file.write(text.encode())
