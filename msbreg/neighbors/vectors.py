"""Rows to compare: their lengths, which are checked, and float32 blocks of them on a device.

The rows may be memory-mapped. Float32 rows on the CPU are used in place; anything else is converted a block
at a time.
"""

import math
import warnings
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from msbreg.run.errors import UserError

_ROWS_AT_ONCE = 4096
_ORDINARY = (2.0**-40, 2.0**40)
_SHARE_OF_MEMORY = 0.6  # of a GPU's free memory that the bank may occupy


class Matrix(Protocol):
    """What (N, D) rows must offer: a NumPy array does, and features in several files, read on access."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def ndim(self) -> int: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> np.ndarray: ...


class Vectors:
    """N vectors of dimension D.

    Attributes:
        rows: (N, D), of any floating-point type.
        lengths: (N,) float64, the Euclidean norms, with the relative error of float32 sums.
    """

    def __init__(self, rows: Matrix, name: str, device: torch.device, *, zeros: bool) -> None:
        """Measure the rows.

        Args:
            name: for messages.
            zeros: whether rows may be zero.

        Raises:
            UserError: a row is not finite in float32, or is zero.
        """
        self.rows, self.device = rows, device
        # All rows in one tensor; None if they are in several files.
        self._all = as_tensor(rows) if isinstance(rows, np.ndarray) else None
        self.lengths = self._measured()
        _check(self.lengths, name, zeros=zeros)
        size = 4 * len(rows) * rows.shape[1]
        if device.type == "cuda" and size < _SHARE_OF_MEMORY * torch.cuda.mem_get_info(device)[0]:
            whole = torch.empty(tuple(rows.shape), device=device)
            for start in range(0, len(rows), _ROWS_AT_ONCE):
                whole[start : start + _ROWS_AT_ONCE] = self._rows(start, start + _ROWS_AT_ONCE)
            self._all = whole

    @property
    def longest(self) -> float:
        return float(self.lengths.max(initial=0))

    def __len__(self) -> int:
        return len(self.rows)

    def block(self, start: int, stop: int) -> Tensor:  # (stop - start, D) float32
        """Consecutive rows on the device; on the CPU, a view of float32 rows."""
        return self._rows(start, stop).to(self.device, torch.float32).contiguous()

    def _rows(self, start: int, stop: int) -> Tensor:
        return as_tensor(self.rows[start:stop]) if self._all is None else self._all[start:stop]

    def _measured(self) -> np.ndarray:  # (N,) float64
        parts = [
            _lengths(self._rows(start, start + _ROWS_AT_ONCE))
            for start in range(0, len(self.rows), _ROWS_AT_ONCE)
        ]
        return np.concatenate([np.empty(0), *parts])

    def take(
        self,
        indices: Tensor,  # (...,) int64
    ) -> Tensor:  # (..., D) float32
        """Rows in any order, copied to the device."""
        flat = indices.flatten()
        if self._all is None:
            taken = as_tensor(self.rows[flat.cpu().numpy()])
        else:
            taken = self._all.index_select(0, flat.to(self._all.device))
        return taken.to(self.device, torch.float32).view(*indices.shape, self.rows.shape[1])


def ordinary(lengths: np.ndarray) -> bool:
    """Whether products of vectors of these lengths neither overflow in float32 nor lose bits to underflow."""
    return bool(((lengths > _ORDINARY[0]) & (lengths < _ORDINARY[1])).all())


def common_scale(queries: "Vectors", bank: "Vectors") -> float:
    """1, or a power of two that makes the longest vector shorter than 1, if its square leaves float32."""
    longest = max(queries.longest, bank.longest)
    if not longest or ordinary(np.array([longest])):
        return 1.0
    return 2.0 ** -math.frexp(longest)[1]


def as_tensor(array: np.ndarray) -> Tensor:
    """The array as a tensor that shares its memory where PyTorch can."""
    if any(stride < 0 for stride in array.strides) or not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    with warnings.catch_warnings():
        # A memory-mapped file that is open for reading; nothing here writes to it.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(array)


def _lengths(
    rows: Tensor,  # (N, D)
) -> np.ndarray:  # (N,) float64
    rows = rows.float()
    measured = torch.linalg.vector_norm(rows, dim=1).numpy()
    lengths = measured.astype(np.float64)
    # The squares of very long and very short vectors leave the range of float32.
    extreme = np.flatnonzero(~((measured > _ORDINARY[0]) & (measured < _ORDINARY[1])))
    if len(extreme):
        lengths[extreme] = torch.linalg.vector_norm(rows[extreme].double(), dim=1).numpy()
    return lengths


def _check(lengths: np.ndarray, name: str, *, zeros: bool) -> None:
    zero = 0 if zeros else np.count_nonzero(lengths == 0)
    not_finite = np.count_nonzero(~np.isfinite(lengths))
    if not_finite and not zero and zeros:
        raise UserError(
            f"{name}: {not_finite} of {len(lengths)} features are not finite; the distance needs finite "
            "features. Check, in half precision, that nothing overflowed."
        )
    if zero or not_finite:
        raise UserError(
            f"{name}: {zero} of {len(lengths)} features are zero and {not_finite} are not finite; the cosine "
            "similarity needs finite, non-zero features. Check that the weights of the backbone were loaded "
            "and, in half precision, that nothing overflowed."
        )
