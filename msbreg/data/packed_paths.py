"""``PackedPaths``: a list of relative paths in one block of bytes.

A tuple of 1.28 million strings takes 120 MB, and every worker process that reads it copies the memory pages,
because Python writes reference counts into them. Packed, the same paths take 40 MB that all processes share.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np

NAME_CODEC = ("utf-8", "surrogateescape")
"""How Python represents file names; those that are not valid UTF-8 contain lone surrogates."""


class PackedPaths(Sequence[str]):
    """An immutable sequence of paths; equal to any sequence of the same strings.

    >>> paths = PackedPaths(["n01440764/b.JPEG", "n01443537/a.JPEG"])
    >>> len(paths), paths[-1], paths[:1]
    (2, 'n01443537/a.JPEG', ('n01440764/b.JPEG',))
    >>> paths == ("n01440764/b.JPEG", "n01443537/a.JPEG")
    True
    """

    def __init__(self, paths: Iterable[str] = ()) -> None:
        text, ends = bytearray(), [0]
        for path in paths:
            text += path.encode(*NAME_CODEC)
            ends.append(len(text))
        self._text = bytes(text)
        self._ends = np.array(ends, np.int64)

    @classmethod
    def joined(cls, parts: Sequence["PackedPaths"]) -> "PackedPaths":
        """The paths of all parts, in order."""
        whole = cls()
        starts = np.cumsum([0] + [len(part._text) for part in parts])[:-1]
        ends = [part._ends[1:] + start for part, start in zip(parts, starts, strict=True)]
        whole._text = b"".join(part._text for part in parts)
        whole._ends = np.concatenate([whole._ends, *ends])
        return whole

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        i = range(len(self))[index]
        part = self._text[self._ends[i] : self._ends[i + 1]]
        return part.decode(*NAME_CODEC)

    def __iter__(self) -> Iterator[str]:
        for start, end in itertools.pairwise(self._ends.tolist()):
            yield self._text[start:end].decode(*NAME_CODEC)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PackedPaths):
            return self._text == other._text and np.array_equal(self._ends, other._ends)
        if isinstance(other, Sequence):
            return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        shown = ", ".join(repr(path) for path in self[:3])
        return f"PackedPaths([{shown}{', ...' if len(self) > 3 else ''}])  # {len(self)} paths"

    def select(
        self,
        keep: np.ndarray,  # (M,) int
    ) -> "PackedPaths":
        """The paths at these indices, in that order."""
        indices = np.asarray(keep, np.int64)
        starts, ends = self._ends[:-1][indices], self._ends[1:][indices]
        chosen, text = PackedPaths(), bytearray()
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            text += self._text[start:end]
        chosen._text = bytes(text)
        chosen._ends = np.concatenate([[0], np.cumsum(ends - starts)])
        return chosen
