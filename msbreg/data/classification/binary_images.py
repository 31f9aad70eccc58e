"""Images in large binary files of fixed-size records, which are read in place: CIFAR and STL-10."""

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np

from msbreg.data.decoding import ImageIOError, UnreadableImage
from msbreg.data.images import LabeledImages
from msbreg.run.files import open_regular


@dataclass(frozen=True)
class BinaryImages(LabeledImages):
    """Images in files of fixed-size records.

    Each image is read with one seek instead of a memory map: the system caches the file in the same way, a
    process needs no state, and a file that is cut while it is in use is an error instead of a crash (SIGBUS).

    Attributes:
        root: folder of the files.
        files: names of the files.
        starts: (F,) number of images in all files before each.
        rows: (N,) index of each image in the concatenation of the files.
        side: height and width of an image; a record ends with its 3 x side x side bytes.
        before: bytes of a record before its pixels.
        by_column: whether a channel is stored column by column.
    """

    root: Path
    files: tuple[str, ...]
    starts: np.ndarray
    rows: np.ndarray
    side: int
    before: int = field(default=0, kw_only=True)
    by_column: bool = field(default=False, kw_only=True)

    @property
    def where(self) -> str:
        return str(self.root)

    def __len__(self) -> int:
        return len(self.rows)

    def image(self, i: int) -> np.ndarray:  # (side, side, 3) uint8 RGB
        file, row = self._place(i)
        size = 3 * self.side * self.side
        try:
            with open_regular(self.root / file) as opened:
                opened.seek(row * (self.before + size) + self.before)
                data = opened.read(size)
        except OSError as error:
            raise ImageIOError(
                f"{self.name(i)} cannot be read: {error.strerror or error}"
            ) from error
        if len(data) < size:
            raise UnreadableImage(f"{self.name(i)} is truncated: the file ends before the image")
        channels = np.frombuffer(data, np.uint8).reshape(3, self.side, self.side)
        return np.ascontiguousarray(channels.transpose((2, 1, 0) if self.by_column else (1, 2, 0)))

    def entry(self, i: int) -> str:
        """``test_batch.bin:7`` for the eighth image of a file."""
        file, row = self._place(i)
        return f"{file}:{row}"

    def name(self, i: int) -> str:
        return str(self.root / self.entry(i))

    def cache_key(self) -> str:
        """sha256 of the absolute path, size and modification time of each file, and of the rows."""
        digest = hashlib.sha256(self.rows.astype("<i8").tobytes())
        for name in self.files:
            file = (self.root / name).absolute()
            try:
                state = file.stat()
                seen = f"{state.st_size} {state.st_mtime_ns}"
            except OSError:  # reported when an image is read
                seen = "missing"
            digest.update(f"{file}\0{seen}\n".encode())
        return digest.hexdigest()

    def select(self, keep: np.ndarray) -> Self:  # (M,)
        return replace(self, rows=self.rows[keep])

    def _place(self, i: int) -> tuple[str, int]:
        row = int(self.rows[i])
        part = int(np.searchsorted(self.starts, row, side="right")) - 1
        return self.files[part], row - int(self.starts[part])
