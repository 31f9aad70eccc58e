"""Features of one split on disk: memory-mapped shards and a manifest, in a folder of the feature cache.

    CACHE/KEY/manifest.json             what was extracted from what, and the checksums of all shards
    CACHE/KEY/00000.features.npy        (rows, D) float32, or uint16 that contains bfloat16
    CACHE/KEY/00000.contents.npy        (rows,) uint64 hashes of the decoded images
    CACHE/KEY/00000.json                checksums of a shard, until the manifest contains them

A shard is complete once its checksums exist. Several processes, or a run after a killed one, therefore
extract only what is missing.
"""

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from msbreg.run.errors import UserError
from msbreg.run.files import replacing, write_atomically
from msbreg.run.json_files import read_json

MANIFEST = "manifest.json"
DTYPES = {"float32": np.dtype(np.float32), "bf16": np.dtype(np.uint16)}
SHARDS, FEWEST_ROWS, MOST_ROWS = 64, 256, 8192

Shard = tuple[np.ndarray, np.ndarray]
"""(rows, D) float32 features and (rows,) uint64 hashes of the images."""


def rows_per_shard(images: int) -> int:
    """Rows of each shard but the last: a 64th of the images, in multiples of 256 from 256 to 8192.

    >>> rows_per_shard(1_797), rows_per_shard(50_000), rows_per_shard(1_281_167)
    (256, 1024, 8192)
    """
    share = -(-images // SHARDS)
    return min(MOST_ROWS, max(FEWEST_ROWS, -(-share // FEWEST_ROWS) * FEWEST_ROWS))


class Rows:
    """A (N, D) array in shards, as float32. Slices and integer arrays of rows are read on access.

    ``np.asarray`` loads all rows.
    """

    ndim = 2
    dtype = np.dtype(np.float32)

    def __init__(
        self,
        shards: Sequence[np.ndarray],  # each (rows, D); all but the last have equally many rows
    ) -> None:
        self._shards = tuple(shards)
        self._each = len(shards[0])
        self.shape = (sum(map(len, shards)), shards[0].shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:  # (M, D) float32
        if isinstance(rows, slice):
            first, end, step = rows.indices(len(self))
            if step != 1:
                return self[np.arange(first, end, step)]
            parts = list(self._parts(first, max(first, end)))
            return parts[0] if len(parts) == 1 else np.concatenate([self._none(), *parts])
        rows = np.asarray(rows)
        if rows.dtype == bool:
            rows = np.flatnonzero(rows)
        found = np.empty((len(rows), self.shape[1]), np.float32)
        shard, place = np.divmod(np.where(rows < 0, rows + len(self), rows), self._each)
        for number in np.unique(shard):
            chosen = shard == number
            found[chosen] = _float32(self._shards[number][place[chosen]])
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or np.float32, copy=bool(copy))

    def _parts(self, first: int, end: int) -> Iterator[np.ndarray]:
        for number in range(first // self._each, -(-end // self._each)):
            start = number * self._each
            yield _float32(self._shards[number][max(first - start, 0) : end - start])

    def _none(self) -> np.ndarray:
        return np.empty((0, self.shape[1]), np.float32)


@dataclass(frozen=True)
class FeatureStore:
    """The shards of one split in a folder.

    Attributes:
        folder: made for this split only; its name identifies what was extracted from what.
        images: number of rows.
        width: dimension of the features.
        dtype: ``float32`` or ``bf16``, which takes half the space.
        about: what was extracted from what, for people who look into the manifest.
    """

    folder: Path
    images: int
    width: int
    dtype: str
    about: dict[str, Any]

    def ranges(self) -> list[range]:
        """The rows of each shard."""
        each = rows_per_shard(self.images)
        return [
            range(first, min(first + each, self.images)) for first in range(0, self.images, each)
        ]

    def write(self, shard: int, content: Shard) -> None:
        """Store a shard.

        Raises:
            OSError: it cannot be written; it is then missing as before.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        features, contents = content
        stored = features if self.dtype == "float32" else _bfloat16(features)
        for path, array in zip(self._paths(shard), (stored, contents), strict=True):
            with replacing(path) as file:
                np.save(file, array)
        with replacing(self._checksums(shard)) as file:
            file.write(json.dumps([_checksum(path) for path in self._paths(shard)]).encode())

    def missing(self) -> tuple[list[int], dict[int, str]]:
        """The shards that are not stored, and what is wrong with those that are stored but damaged."""
        known = self._known_checksums()
        missing, damaged = [], {}
        for shard, rows in enumerate(self.ranges()):
            if shard not in known:
                missing.append(shard)
            elif problem := self._problem(shard, len(rows), known[shard]):
                damaged[shard] = problem
        return missing, damaged

    def complete(self) -> None:
        """Write the manifest. All shards must have been stored."""
        known = self._known_checksums()
        content = {
            "format": 4,
            **self.about,
            "images": self.images,
            "width": self.width,
            "dtype": self.dtype,
            "rows_per_shard": rows_per_shard(self.images),
            "shards": [known[shard] for shard in range(len(self.ranges()))],
        }
        write_atomically(self.folder / MANIFEST, json.dumps(content, indent=1).encode())
        for shard in known:
            self._checksums(shard).unlink(missing_ok=True)

    def open(self, unstored: Mapping[int, Shard] | None = None) -> tuple[Rows, np.ndarray]:
        """The features, memory-mapped, and the (N,) hashes of the images.

        Args:
            unstored: shards in memory that could not be written.
        """
        unstored = unstored or {}
        shards = [
            unstored[shard] if shard in unstored else self._load(shard)
            for shard in range(len(self.ranges()))
        ]
        return Rows([x for x, _ in shards]), np.concatenate([contents for _, contents in shards])

    def _load(self, shard: int) -> Shard:
        features, contents = self._paths(shard)
        return np.load(features, mmap_mode="r"), np.load(contents)

    def _paths(self, shard: int) -> tuple[Path, Path]:
        return (
            self.folder / f"{shard:05d}.features.npy",
            self.folder / f"{shard:05d}.contents.npy",
        )

    def _checksums(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}.json"

    def _known_checksums(self) -> dict[int, list[int]]:
        """Shard -> checksums of its files, from the manifest and from files that are newer."""
        manifest = _json(self.folder / MANIFEST)
        listed = manifest.get("shards") if isinstance(manifest, dict) else None
        known = dict(enumerate(listed)) if isinstance(listed, list) else {}
        for shard in range(len(self.ranges())):
            if (newer := _json(self._checksums(shard))) is not None:
                known[shard] = newer
        return known

    def _problem(self, shard: int, rows: int, checksums: Any) -> str:
        """What is wrong with a stored shard; empty if nothing is."""
        shapes = ((rows, self.width), (rows,))
        dtypes = (DTYPES[self.dtype], np.dtype(np.uint64))
        try:
            if [_checksum(path) for path in self._paths(shard)] != checksums:
                return "the checksums differ"
            for path, shape, dtype in zip(self._paths(shard), shapes, dtypes, strict=True):
                array = np.load(path, mmap_mode="r")
                if array.shape != shape or array.dtype != dtype:
                    return f"{array.dtype} of shape {array.shape}, expected {dtype} of {shape}"
        except (OSError, ValueError, EOFError) as error:
            return str(error) or type(error).__name__
        return ""


def _json(path: Path) -> Any:
    """The content of a JSON file; None if it is missing or damaged."""
    try:
        return read_json(path)
    except (UserError, OSError):  # missing, or extracted again
        return None


def _checksum(path: Path) -> int:
    value = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
    return value


def _bfloat16(values: np.ndarray) -> np.ndarray:  # uint16
    """Round float32 to the nearest bfloat16, ties to even, stored as uint16."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _float32(stored: np.ndarray) -> np.ndarray:
    if stored.dtype == np.uint16:
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored
