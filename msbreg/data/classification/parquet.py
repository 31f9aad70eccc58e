"""Images in Parquet or Arrow files, the formats of Hugging Face ``datasets``. Needs the extra ``hub``.

    ROOT/data/train-00000-of-00257.parquet     a repository of the hub, as downloaded
    ROOT/train/0000.parquet                    its converted branch
    ROOT/train/data-00000-of-00005.arrow       written by Dataset.save_to_disk

Rows are read by index, in the order that the caller asks for; there is no streaming and no shuffle buffer.
Arrow files are mapped into memory, and any image is read directly. In a Parquet file, the smallest readable
unit is a row group (100 images in the files that ``datasets`` writes), so a shuffled order reads each group
many times. For training, convert a data set once: ``load_dataset(...).save_to_disk(ROOT)``.

This module uses pyarrow alone. ``datasets`` would first copy everything into its own cache, brings pandas,
fsspec and a network client, and decodes images in its own way.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import numpy as np

from msbreg.data.classification.file_lists import NoSplit, WrongLayout, check_labels
from msbreg.data.decoding import ImageIOError, UnreadableImage, decode_image
from msbreg.data.folder import file_size, is_image
from msbreg.data.images import LabeledImages
from msbreg.run.errors import UserError

_NAMES = {
    "image": ("image", "img", "jpg", "png"),
    "label": ("label", "labels", "cls", "fine_label"),
}
_FEATURES = {"image": "Image", "label": "ClassLabel"}  # types in the metadata of ``datasets``
_SHARD = re.compile(r"(.+?)-\d{5}-of-\d{5}(-[0-9a-f]+)?")
_MOST_SPLITS = 32
_CACHED_BYTES = 2**27  # row groups kept in memory, at least two


@dataclass(frozen=True)
class TableImages(LabeledImages):
    """Encoded images in the rows of Parquet or Arrow files.

    Attributes:
        files: the files of the split, in order.
        starts: (F,) number of rows in all files before each.
        column: name of the image column.
        rows: (N,) index of each image in the concatenation of the files.
    """

    files: tuple[Path, ...]
    starts: np.ndarray
    column: str
    rows: np.ndarray
    _shards: _Shards = field(repr=False, compare=False)

    @property
    def where(self) -> str:
        return str(self.files[0].parent)

    def __len__(self) -> int:
        return len(self.rows)

    def image(self, i: int) -> np.ndarray:  # (H, W, 3) uint8 RGB
        part, row = self._place(i)
        try:
            data = self._shards[part].encoded(row)
        except OSError as error:  # pyarrow's errors about damaged files are of this type, too
            raise ImageIOError(f"{self.name(i)} cannot be read: {error}") from error
        if not data:
            raise UnreadableImage(f"{self.name(i)} contains no bytes of an image, at most a path")
        return decode_image(data, self.name(i))

    def entry(self, i: int) -> str:
        """``train-00000-of-00257.parquet:7`` for the eighth row of a file."""
        part, row = self._place(i)
        return f"{self.files[part].name}:{row}"

    def name(self, i: int) -> str:
        part, row = self._place(i)
        return f"{self.files[part]}:{row}"

    def cache_key(self) -> str:
        """sha256 of the absolute path, size and modification time of each file, and of the rows."""
        digest = hashlib.sha256(self.rows.astype("<i8").tobytes())
        for file in self.files:
            try:
                state = file.stat()
                seen = f"{state.st_size} {state.st_mtime_ns}"
            except OSError:  # reported when an image is read
                seen = "missing"
            digest.update(f"{file.absolute()}\0{seen}\n".encode())
        return digest.hexdigest()

    def select(self, keep: np.ndarray) -> Self:  # (M,)
        return replace(self, rows=self.rows[keep])

    def _place(self, i: int) -> tuple[int, int]:
        row = int(self.rows[i])
        part = int(np.searchsorted(self.starts, row, side="right")) - 1
        return part, row - int(self.starts[part])


def open_parquet(root: Path, split: str) -> TableImages:
    """Images of one split in Parquet or Arrow files; labels are optional.

    Raises:
        WrongLayout: there are no such files.
        UserError: pyarrow is not installed, the split does not exist, one of its files is missing or has no
            image column, or a label is out of range.
    """
    splits = _split_files(root)
    if not splits:
        raise WrongLayout(
            f"{root} contains no .parquet or .arrow files, neither itself nor below it"
        )
    if split not in splits:
        raise NoSplit(f"{root} has no split {split!r}; expected one of: {', '.join(splits)}")
    files = splits[split]
    _check_shards(files, root, split)
    shards = _Shards(files)
    columns = [_image_and_label(shards, file, part) for part, file in enumerate(files)]
    if len(set(columns)) > 1:
        raise UserError(
            f"{root}: the files of the split {split} have different columns or class names; expected "
            "the same in all of them"
        )
    image, label, names = columns[0]
    shards.column = image
    counts = [shards[part].count for part in range(len(files))]
    if not sum(counts):
        raise UserError(
            f"{root}: the files of the split {split} have no rows; expected one row per image"
        )
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    if label is not None:
        stored = [shards[part].integers(label) for part in range(len(files))]
        labels, classes = _checked_labels(np.concatenate(stored), names, f"{root}, split {split}")
    return TableImages(
        labels=labels,
        classes=classes,
        fingerprint=_fingerprint(shards, labels),
        files=tuple(files),
        starts=np.cumsum([0, *counts])[:-1],
        column=image,
        rows=np.arange(sum(counts)),
        _shards=shards,
    )


def _checked_labels(
    labels: np.ndarray,  # (N,)
    names: tuple[str, ...],
    where: str,
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Labels and class names; without names in the file, the classes are the numbers up to the largest label.

    The test splits of the hub have the label -1 everywhere, which means that there are none.
    """
    if (labels == -1).all():
        return None, ()
    classes = names or tuple(map(str, range(int(labels.max()) + 1)))
    check_labels(labels, classes, where)
    return labels, classes


def _fingerprint(shards: _Shards, labels: np.ndarray | None) -> str:
    """sha256 of the names and sizes of the files, what identifies their images, and the labels."""
    digest = hashlib.sha256()
    for part, file in enumerate(shards.files):
        digest.update(f"{file.name}\0{file_size(file)}\n".encode())
        digest.update(shards[part].identity())
    if labels is not None:
        digest.update(labels.astype("<i8").tobytes())
    return digest.hexdigest()


def parquet_splits(root: Path) -> tuple[str, ...]:
    """The splits below ROOT; empty if there are no Parquet or Arrow files."""
    return tuple(_split_files(root))


def _split_files(root: Path) -> dict[str, list[Path]]:
    """Split -> its files in order, from ``data/SPLIT-*``, ``SPLIT-*`` and ``SPLIT/*``."""
    found: dict[str, list[Path]] = {}
    for folder in (root, root / "data", *_table_folders(root)):
        for file in _tables(folder):
            shard = _SHARD.fullmatch(file.stem)
            whole = shard[1] if shard else file.stem
            name = whole if folder in (root, root / "data") else folder.name
            found.setdefault(name, []).append(file)
    return {name: found[name] for name in sorted(found)}


def _table_folders(root: Path) -> list[Path]:
    """The folders of splits: few, and with neither images nor folders beside the tables."""
    if not root.is_dir():
        return []
    folders = [e for e in root.iterdir() if e.is_dir() and e.name[0] != "." and e.name != "data"]
    if len(folders) > _MOST_SPLITS:
        return []  # classes, whose files need not be listed
    return [
        folder
        for folder in sorted(folders)
        if _tables(folder) and not any(e.is_dir() or is_image(e) for e in folder.iterdir())
    ]


def _tables(folder: Path) -> list[Path]:
    files = [*folder.glob("*.parquet"), *folder.glob("*.arrow")]
    # Files named cache-* are intermediate results of ``datasets``.
    return sorted(file for file in files if not file.name.startswith((".", "cache-")))


def _check_shards(files: Sequence[Path], root: Path, split: str) -> None:
    """Check that all of the files 00000-of-00005 to 00004-of-00005 are there."""
    totals = {int(m[1]) for file in files if (m := re.search(r"-of-(\d{5})", file.name))}
    if totals and totals != {len(files)}:
        raise UserError(
            f"{root}: the split {split} has {len(files)} files, but their names say "
            f"{' and '.join(map(str, sorted(totals)))}; download the missing ones, or remove the others"
        )


def _image_and_label(
    shards: _Shards, file: Path, part: int
) -> tuple[str, str | None, tuple[str, ...]]:
    """Names of the image and label columns, and the class names.

    They come from the metadata of ``datasets``, or from the usual names of columns.
    """
    schema = shards[part].schema
    features = _hub_features(schema, file)
    chosen: dict[str, str] = {}
    for kind, names in _NAMES.items():
        typed = [n for n, f in features.items() if f.get("_type") == _FEATURES[kind]]
        known = [name for name in names if name in (typed or schema.names)]
        candidates = typed if len(typed) == 1 else known
        if candidates:
            chosen[kind] = candidates[0]
        elif kind == "image" or typed:
            raise UserError(
                f"{file} has the columns {', '.join(schema.names)}; expected one {kind} column, named "
                f"{' or '.join(names)}"
            )
    label = chosen.get("label")
    if label is not None and not str(schema.field(label).type).startswith(("int", "uint")):
        raise UserError(
            f"{file}: the column {label} contains {schema.field(label).type}; expected integers, 0 to C - 1"
        )
    return chosen["image"], label, tuple(features.get(label or "", {}).get("names") or ())


def _hub_features(schema: Any, file: Path) -> dict[str, dict[str, Any]]:
    """Column -> its type, as ``datasets`` stores it in the schema; empty for other files."""
    stored = (schema.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(stored)["info"]["features"] if stored else {}
        return {name: value for name, value in features.items() if isinstance(value, dict)}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: its metadata 'huggingface' cannot be read: {error}") from error


# ---- Files


class _Shards:
    """The files of a split, opened on first use in each process and never pickled."""

    def __init__(self, files: Sequence[Path], column: str = "") -> None:
        self.files, self.column = tuple(files), column
        self._lock = threading.Lock()
        self._open: dict[int, _ArrowFile | _ParquetFile] = {}

    def __getitem__(self, part: int) -> _ArrowFile | _ParquetFile:
        with self._lock:
            if part not in self._open:
                self._open[part] = _open_file(self.files[part])
            shard = self._open[part]
            shard.column = self.column
            return shard

    def __reduce__(self) -> tuple[Any, ...]:
        return _Shards, (self.files, self.column)


def _open_file(file: Path) -> _ArrowFile | _ParquetFile:
    arrow = _pyarrow()
    try:
        return (_ParquetFile if file.suffix == ".parquet" else _ArrowFile)(file)
    except (OSError, arrow.ArrowException) as error:
        raise UserError(
            f"{file} cannot be read: {error}; expected a complete {file.suffix[1:]} file. Download it again"
        ) from error


def _pyarrow() -> ModuleType:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            "Parquet and Arrow files need pyarrow, which is not installed; run in the clone: "
            "pip install -e '.[hub]'"
        ) from error
    return pyarrow


class _ArrowFile:
    """A memory-mapped file in Arrow's stream format, which ``datasets`` writes, or in its file format."""

    def __init__(self, file: Path) -> None:
        arrow = _pyarrow()
        mapped = arrow.memory_map(str(file))
        try:
            self._table = arrow.ipc.open_stream(mapped).read_all()
        except arrow.ArrowInvalid:
            mapped.seek(0)
            self._table = arrow.ipc.open_file(mapped).read_all()
        self.schema, self.count, self.column = self._table.schema, self._table.num_rows, ""

    def integers(self, column: str) -> np.ndarray:  # (count,)
        return _integers(self._table.column(column))

    def identity(self) -> bytes:
        """The sizes of all images: the mapped file is not read for it, except their offsets."""
        import pyarrow.compute as compute

        column = self._table.column(self.column)
        sizes = compute.binary_length(
            compute.struct_field(column, "bytes") if _is_struct(column.type) else column
        )
        return np.asarray(sizes.fill_null(-1)).astype("<i8").tobytes()

    def encoded(self, row: int) -> bytes:
        return _encoded(self._table.column(self.column)[row])


class _ParquetFile:
    """A Parquet file, read by row group; the latest groups stay in memory."""

    def __init__(self, file: Path) -> None:
        # The workers of the protocols are the parallelism, and Arrow's threads do not survive a fork.
        self._file = _pyarrow().parquet.ParquetFile(file, memory_map=True, pre_buffer=False)
        metadata = self._file.metadata
        groups = [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]
        self.schema, self.count, self.column = self._file.schema_arrow, metadata.num_rows, ""
        self._starts = np.cumsum([0, *groups])
        self._lock = threading.Lock()
        self._recent: OrderedDict[int, Any] = OrderedDict()

    def integers(self, column: str) -> np.ndarray:  # (count,)
        return _integers(self._file.read(columns=[column], use_threads=False).column(column))

    def identity(self) -> bytes:
        """Sizes and offsets of all column chunks, from the footer."""
        metadata = self._file.metadata
        groups = [metadata.row_group(g).to_dict() for g in range(metadata.num_row_groups)]
        return json.dumps(groups, default=str).encode()

    def encoded(self, row: int) -> bytes:
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        return _encoded(self._group(group)[row - int(self._starts[group])])

    def _group(self, group: int) -> Any:
        with self._lock:  # threads that need the same group wait for one read
            if group not in self._recent:
                table = self._file.read_row_group(group, columns=[self.column], use_threads=False)
                self._recent[group] = table.column(self.column)
                while len(self._recent) > 2 and self._cached_bytes() > _CACHED_BYTES:
                    self._recent.popitem(last=False)
            self._recent.move_to_end(group)
            return self._recent[group]

    def _cached_bytes(self) -> int:
        return sum(column.nbytes for column in self._recent.values())


def _integers(column: Any) -> np.ndarray:
    """A label column as int64; a missing label becomes -1."""
    return np.asarray(column.fill_null(-1)).astype(np.int64)


def _is_struct(kind: Any) -> bool:
    return str(kind).startswith("struct")


def _encoded(value: Any) -> bytes:
    """The bytes of an image: the field ``bytes`` of a struct, or a binary value."""
    content = value.as_py()
    if isinstance(content, dict):
        content = content.get("bytes")
    return content or b""
