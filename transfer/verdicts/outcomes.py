"""What a score was computed from, for each test image, on disk.

An accuracy is a mean over test images, an mIoU a quotient of sums over them, an average precision a function
of their ranking. ``Outcomes`` keep the terms of each image (the *unit* that is resampled), so that the score
can be computed again on other samples of the images, with ``weighted_scores``, and two networks can be
compared image by image.

Kinds, with N units:

=================  =========================================================================================
mean               hits (N,): correct predictions out of ``trials`` for each image
mean of groups     hits (N,), groups (N,): the mean of the groups' means, such as of classes
ratio              numerator, denominator (N,): the quotient of their sums
mean of ratios     image, column, numerator, denominator (E,): the mean over columns of quotients of sums
rankings           ranks, labels (N, C): the mean over columns of the interpolated average precision
detections         matches of detections with objects, see ``transfer/scoring/match_flags.py``
=================  =========================================================================================
"""

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from msbreg.data.packed_paths import NAME_CODEC
from msbreg.run.errors import UserError
from msbreg.run.files import format_bytes, open_regular, write_atomically
from transfer.scoring.match_flags import Curve
from transfer.scoring.predictions import packed
from transfer.scoring.scores import DataId, Score

FILE = "outcomes.npz"
FORMAT = 1
MOST = 10**8
"""Units, classes and other sizes that a file may claim."""
LARGEST = 2**31
"""Bytes of all arrays of a file; a file that claims more is not read."""

Kind = Literal["mean", "mean of groups", "ratio", "mean of ratios", "rankings", "detections"]


@dataclass(frozen=True)
class Outcomes:
    """What one score was computed from.

    Attributes:
        score, rules, data: of the ``Score``.
        units: ``digest_of_units``: which images, in which order. Two networks are compared image by image
            only if it is equal.
        count: number N of units.
        kind: how the score is computed from the arrays.
        arrays: by name, see the kinds above.
        settings: numbers and names that the kind needs in addition, as JSON types.
    """

    score: str
    rules: str
    data: DataId
    units: str
    count: int
    kind: Kind
    arrays: Mapping[str, np.ndarray] = field(repr=False)
    settings: Mapping[str, Any] = field(default_factory=dict)


def digest_of_units(names: Iterable[str | int]) -> str:
    """SHA-256 of the names of the units, in order.

    >>> digest_of_units(["a.png", "b.png"]) == digest_of_units(["b.png", "a.png"])
    False
    """
    digest = hashlib.sha256()
    for name in names:
        digest.update(json.dumps(name).encode(*NAME_CODEC) + b"\n")
    return digest.hexdigest()


# ---- Files


def save_outcomes(folder: Path, outcomes: Sequence[Outcomes]) -> None:
    """Write ``outcomes.npz`` atomically; arrays that several scores share are stored once.

    Raises:
        RunFailed: the file cannot be written; an existing one is unchanged.
    """
    arrays: dict[str, np.ndarray] = {}
    entries = []
    for each in outcomes:
        stored = {name: _key(array) for name, array in each.arrays.items()}
        arrays |= {stored[name]: array for name, array in each.arrays.items()}
        entry = {name: getattr(each, name) for name in _FIELDS} | {"arrays": stored}
        entries.append(entry | {"data": asdict(each.data), "settings": dict(each.settings)})
    header = json.dumps({"format": FORMAT, "outcomes": entries}, allow_nan=False).encode()
    content = {"header": np.frombuffer(header, np.uint8)} | arrays
    write_atomically(folder / FILE, packed(content))


_FIELDS = ("score", "rules", "units", "count", "kind")


def _key(array: np.ndarray) -> str:
    """A name that only equal arrays share."""
    digest = hashlib.sha256(f"{array.dtype} {array.shape} ".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:32]


def load_outcomes(folder: Path) -> tuple[Outcomes, ...]:
    """The outcomes of a run's scores; empty if the run wrote none.

    Raises:
        UserError: the file is damaged, or has another format.
    """
    path = folder / FILE
    if not path.is_file():
        return ()
    try:
        arrays = _read(path)
        header = json.loads(arrays["header"].tobytes())
        if header["format"] != FORMAT:
            raise UserError(f"{path} has format {header['format']!r}; this version reads {FORMAT}.")
        return tuple(_outcomes(entry, arrays) for entry in header["outcomes"])
    except UserError:
        raise
    # RuntimeError: the archive is encrypted or (NotImplementedError) has an unsupported version.
    except (*_DAMAGED, RuntimeError) as error:
        raise UserError(
            f"{path} is not a valid file of outcomes ({type(error).__name__}: {error}).\n"
            "Repeat the evaluation in a new --output, or remove the file."
        ) from error


_DAMAGED = (
    *(OSError, EOFError, ValueError, KeyError, TypeError, AttributeError),
    *(zipfile.BadZipFile, zlib.error, RecursionError),
)


def _read(path: Path) -> dict[str, np.ndarray]:
    with open_regular(path) as file:
        content = io.BytesIO(file.read())
    with zipfile.ZipFile(content) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > LARGEST:
        raise ValueError(f"its arrays have {format_bytes(size)}")
    content.seek(0)
    with np.load(content, allow_pickle=False) as loaded:
        return {name: loaded[name] for name in loaded.files}


def _outcomes(entry: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Outcomes:
    """One entry of the header with its arrays.

    Raises:
        KeyError, TypeError, ValueError: it is incomplete, or its arrays do not fit together.
    """
    fields = {name: entry[name] for name in _FIELDS}
    texts = [fields[name] for name in ("score", "rules", "units")]
    if not all(isinstance(text, str) for text in texts) or fields["kind"] not in get_args(Kind):
        raise ValueError(f"unknown kind {fields['kind']!r} or names {texts!r}")
    _whole("the number of units", fields["count"], 1)
    own = {name: arrays[key] for name, key in entry["arrays"].items()}
    result = Outcomes(
        **fields, data=DataId(**entry["data"]), arrays=own, settings=dict(entry["settings"])
    )
    check_arrays(result)
    return result


def outcomes_of(score: Score, outcomes: Sequence[Outcomes]) -> Outcomes | None:
    """What a score was computed from, among the outcomes of its run; None if it is not there."""
    identity = (score.name, score.rules, score.data)
    return next((o for o in outcomes if (o.score, o.rules, o.data) == identity), None)


# ---- Checks


def check_arrays(outcomes: Outcomes) -> None:
    """Check that the arrays of a kind are there, have numbers, and fit together.

    Raises:
        KeyError, TypeError, ValueError: they do not.
    """
    arrays, settings, count = outcomes.arrays, outcomes.settings, outcomes.count
    for name, array in arrays.items():
        if array.dtype.kind not in "buif" or not np.isfinite(array).all():
            raise ValueError(f"{name} has values that are not finite numbers")
    match outcomes.kind:
        case "mean":
            _lengths(arrays, ("hits",), count)
            _whole("trials", settings["trials"], 1)
        case "mean of groups":
            _lengths(arrays, ("hits", "groups"), count)
            _whole("groups", settings["groups"], 1)
            _indices(arrays["groups"], settings["groups"])
        case "ratio":
            _lengths(arrays, ("numerator", "denominator"), count)
            if not 0 < settings["scale"] < np.inf or type(settings["root"]) is not bool:
                raise ValueError(f"scale and root are {settings['scale']}, {settings['root']}")
        case "mean of ratios":
            entries = ("image", "column", "numerator", "denominator")
            _lengths(arrays, entries, len(arrays["image"]))
            _whole("columns", settings["columns"], 1)
            _indices(arrays["image"], count)
            _indices(arrays["column"], settings["columns"])
        case "rankings":
            _lengths(arrays, ("ranks", "labels"), count, dimensions=2)
            if arrays["ranks"].shape != arrays["labels"].shape:
                raise ValueError("ranks and labels have different shapes")
            if settings["curve"] not in ("area", "11-point in integers"):
                raise ValueError(f"unknown curve {settings['curve']!r}")
        case "detections":
            _check_detections(arrays, settings, count)


def _check_detections(
    arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any], count: int
) -> None:
    _lengths(arrays, ("image", "hit", "ignored"), len(arrays["image"]))
    _lengths(arrays, ("object_image", "object_class", "objects"), len(arrays["objects"]))
    classes = len(arrays["detections"])
    if arrays["detections"].sum() != len(arrays["image"]) or settings["classes"] != classes:
        raise ValueError("the numbers of detections by class do not add up")
    if settings["curve"] not in get_args(Curve):
        raise ValueError(f"unknown curve {settings['curve']!r}")
    _whole("zeros", settings["zeros"], 0)
    for name in ("chosen_classes", "chosen_thresholds"):
        if not len(settings[name]):
            raise ValueError(f"{name} is empty")
    for name, end in (("image", count), ("object_image", count), ("object_class", classes)):
        _indices(arrays[name], end)
    _indices(np.array(settings["chosen_classes"], np.int64), classes)
    _indices(np.array(settings["chosen_thresholds"], np.int64), settings["thresholds"])


def _lengths(
    arrays: Mapping[str, np.ndarray], names: Sequence[str], length: int, *, dimensions: int = 1
) -> None:
    for name in names:
        if arrays[name].ndim != dimensions or len(arrays[name]) != length:
            raise ValueError(f"{name} has the shape {arrays[name].shape}; expected {length} rows")


def _indices(indices: np.ndarray, end: int) -> None:
    if len(indices) and not (
        indices.dtype.kind in "ui" and indices.min() >= 0 and indices.max() < end
    ):
        raise ValueError(f"indices are not all in 0..{end - 1}")


def _whole(name: str, value: Any, least: int) -> None:
    """Check that a size is a whole number for which there is enough memory."""
    if type(value) is not int or not least <= value <= MOST:
        raise ValueError(f"{name} is {str(value)[:30]}; expected {least} to {MOST:,}")
