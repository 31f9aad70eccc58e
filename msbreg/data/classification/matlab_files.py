"""Lists in MATLAB files of version 5, read by SciPy, which runs no code from them."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from msbreg.run.errors import UserError
from msbreg.run.files import open_regular

T = TypeVar("T", str, int)


def read_matlab(
    file: Path, variable: str, kind: Callable[..., T], *, field: str | None = None
) -> list[T]:
    """The entries of a vector, cell array or struct array of a MATLAB file, as strings or integers.

    Args:
        field: of a struct array.

    Raises:
        UserError: the file cannot be read, or does not contain the variable.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        with open_regular(file) as opened:
            entries = np.atleast_1d(loadmat(opened, squeeze_me=True)[variable])
        return [kind(entry if field is None else entry[field]) for entry in entries]
    except OSError as error:
        raise UserError(
            f"{file} cannot be read: {error.strerror or error}; expected the MATLAB file of the data set"
        ) from error
    except (
        KeyError,
        ValueError,
        TypeError,
        IndexError,
        NotImplementedError,
        MatReadError,
    ) as error:
        what = f"{variable}.{field}" if field else variable
        raise UserError(
            f"{file} is not the data set's MATLAB file ({error}); expected its variable {what}"
        ) from error
