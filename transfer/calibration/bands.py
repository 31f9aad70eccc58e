"""Bands: published scores of published checkpoints, with tolerances. Imports no PyTorch.

The table is ``transfer/published/bands.csv``. Its hashes are those that the authors publish: the first digits
of the SHA-256 in the file names of torchvision, and of the MD5 in MoCo's README. Other authors publish none;
their files are recognized by file name and layout, which proves less.
"""

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from msbreg.run.errors import UserError, did_you_mean

BANDS = Path(__file__).resolve().parents[1] / "published" / "bands.csv"
HASHES = ("sha256", "md5")


@dataclass(frozen=True)
class Band:
    """The published score of a checkpoint under a protocol.

    Attributes:
        model: name of the checkpoint, such as ``moco-v2-800``.
        file: name of the published file.
        family: layout of the file (see ``tools/inspect_checkpoint.py --list``); empty accepts any.
        hash_kind: ``sha256``, ``md5``, or empty if the authors publish no hash.
        hash: its first hexadecimal digits.
        protocol: ``knn``, ``linear``, ``svm`` or ``detection``.
        card: card of the protocol, ``configs/CARD.yaml``.
        score: name of the score, such as ``20-NN top-1``.
        images: number of test images.
        value: published score.
        tolerance: half of the width of the band, in the units of the score.
        tolerance_source: where the tolerance comes from.
        source: where the score is published.
    """

    model: str
    file: str
    family: str
    hash_kind: str
    hash: str
    protocol: str
    card: str
    score: str
    images: int
    value: float
    tolerance: float
    tolerance_source: str
    source: str


def read_bands(path: Path = BANDS) -> tuple[Band, ...]:
    """All bands of a table.

    Raises:
        UserError: the file cannot be read, lacks a column, or has an invalid number or kind of hash.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"the bands {path} cannot be read: {error}") from error
    names = [field.name for field in fields(Band)]
    if not rows or list(rows[0]) != names:
        raise UserError(f"{path} does not have the columns of a table of bands: {', '.join(names)}")
    return tuple(_band(row, f"{path}:{line}") for line, row in enumerate(rows, 2))


def _band(row: dict[str, str], where: str) -> Band:
    if None in row.values() or None in row or row["hash_kind"] not in ("", *HASHES):
        raise UserError(
            f"{where} is not a band; expected all columns, and {', '.join(HASHES)} or no hash"
        )
    try:
        numbers = int(row["images"]), float(row["value"]), float(row["tolerance"])
    except ValueError as error:
        raise UserError(
            f"{where}: images, value and tolerance must be numbers ({error})"
        ) from error
    images, value, tolerance = numbers
    if images < 1 or tolerance <= 0 or value != value:
        raise UserError(f"{where}: images and tolerance must be above 0")
    texts = {
        name: text for name, text in row.items() if name not in ("images", "value", "tolerance")
    }
    return Band(**texts, images=images, value=value, tolerance=tolerance)


@dataclass(frozen=True)
class Identified:
    """The bands of a file under a protocol, and how the file was recognized, as a sentence."""

    bands: tuple[Band, ...]
    how: str


def identify_checkpoint(
    checkpoint: Path, bands: Sequence[Band], *, protocol: str, model: str | None = None
) -> Identified:
    """The bands of a checkpoint under a protocol: by published hash, by file name, or as stated.

    Args:
        model: name in the table, for a file that was renamed. A published hash must still match.

    Raises:
        UserError: the file is not in the table, or has no band of this protocol; the message lists the known
            ones.
    """
    digests = _digests(checkpoint, {band.hash_kind for band in bands} - {""})

    def same_hash(band: Band) -> bool:
        return bool(band.hash) and digests[band.hash_kind].startswith(band.hash)

    by_hash = [band for band in bands if same_hash(band)]
    if model is not None:
        found = [band for band in bands if band.model == model]
        if not found:
            known = sorted({band.model for band in bands})
            raise UserError(
                f"model {model!r} is not in the table{did_you_mean(model, known)}\n{listing(bands)}"
            )
        if found[0].hash and not same_hash(found[0]):
            raise UserError(
                f"{checkpoint} is not {model}: its {found[0].hash_kind} starts with "
                f"{digests[found[0].hash_kind][:8]}, the published one with {found[0].hash}"
            )
        how = f"{model} as stated by --model"
    elif by_hash:
        found, how = by_hash, f"{by_hash[0].model} by its published {by_hash[0].hash_kind}"
    else:
        found = [band for band in bands if not band.hash and band.file == checkpoint.name]
        how = "its file name; the authors publish no hash"
    models = sorted({band.model for band in found})
    if not found:
        raise UserError(
            f"{checkpoint} is not a checkpoint with a published band: neither its hash nor its file name is "
            f"in the table. Give --model if the file was renamed.\n{listing(bands)}"
        )
    if len(models) > 1:
        raise UserError(
            f"the file name {checkpoint.name} is that of {' and '.join(models)}; give one of them with "
            "--model"
        )
    if model is None and not by_hash:
        how = f"{models[0]} by {how}"
    of_protocol = tuple(band for band in found if band.protocol == protocol)
    if not of_protocol:
        others = sorted({band.protocol for band in found})
        raise UserError(
            f"{models[0]} has no band of {protocol}, only of {', '.join(others)}.\n{listing(bands)}"
        )
    return Identified(of_protocol, how)


def _digests(file: Path, kinds: set[str]) -> dict[str, str]:
    digests = {}
    for kind in kinds:
        with open(file, "rb") as opened:
            digests[kind] = hashlib.file_digest(opened, kind).hexdigest()
    return digests


def listing(bands: Sequence[Band]) -> str:
    """The known checkpoints with their bands, one line per checkpoint and protocol."""
    lines: dict[tuple[str, str, str], list[str]] = {}
    for band in bands:
        key = band.model, band.protocol, band.file
        lines.setdefault(key, []).append(f"{band.score} {band.value:g} ± {band.tolerance:g}")
    return "known checkpoints:\n" + "\n".join(
        f"  {model:20} {protocol:10} {', '.join(scores)}  ({file})"
        for (model, protocol, file), scores in lines.items()
    )
