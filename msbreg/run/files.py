"""Files of a run: written whole or not at all, locked, and never through a link that someone planted.

Every temporary file has a name that only this program makes, so that what a killed run leaves behind can
be removed without touching a file of the user's.
"""

import contextlib
import errno
import fcntl
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from msbreg.run.errors import RunFailed, UserError

log = logging.getLogger("msbreg")

LOCK = ".lock"
RESERVED = 64 * 1024
"""Bytes set aside during a run, so that its last record can be written on a full disk."""
_TEMPORARY = re.compile(r"\..+\.\d+\.msbreg-tmp")
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def temporary_name(path: Path) -> Path:
    """A name beside ``path`` for a file that is not complete yet."""
    return path.with_name(f".{path.name}.{os.getpid()}.msbreg-tmp")


def remove_temporary_files(folder: Path) -> None:
    """Remove what killed runs left in a folder, by name; the caller holds the folder's lock."""
    for path in folder.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is either the old one or the new one, whole, whatever happens meanwhile.

    Raises:
        RunFailed: the write failed (disk full, say); the old file is untouched and nothing is left over.
    """
    kept = "the previous file is untouched" if path.exists() else "nothing was written"
    with writing(path, in_bytes(len(content)), kept=kept), replacing(path) as file:
        file.write(content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """An open file whose content replaces ``path`` at the end, unless an error is raised before.

    Raises:
        OSError: the write failed; the old file is untouched and nothing is left over.
    """
    temporary = temporary_name(path)
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # The rename itself is durable once the folder is on the disk; some file systems cannot say.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def writing(
    path: Path, what: str = "", *, kept: str = "", instead: str = "give another --output"
) -> Iterator[None]:
    """Turn an error of the file system into a failure of the run that names the file.

    Args:
        what: size or contents, in brackets behind the path.
        kept: what is safe nevertheless.
        instead: what to do where no space can be freed.

    Raises:
        RunFailed: a write in here failed.
    """
    try:
        yield
    except OSError as error:
        raise RunFailed(
            f"cannot write {path}"
            + (f" ({what})" if what else "")
            + f": {error.strerror or error}"
            + (f"; {kept}.\n" if kept else ".\n")
            + remedy(error, instead)
        ) from error


def remedy(error: OSError, instead: str = "give another --output") -> str:
    """What to do about a failed write."""
    if error.errno in _NO_SPACE:
        return f"Free some space, or {instead}; the same command continues."
    return f"Make the folder writable, or {instead}."


def in_bytes(count: int) -> str:
    """A size in the largest unit that it fills.

    >>> in_bytes(578), in_bytes(2048), in_bytes(3 * 2**19)
    ('578 bytes', '2.0 KiB', '1.5 MiB')
    """
    if count < 2**10:
        return f"{count} bytes"
    return f"{count / 2**10:.1f} KiB" if count < 2**20 else f"{count / 2**20:.1f} MiB"


def is_full(error: BaseException) -> bool:
    """Whether a disk or a quota is full, or a file as large as it may get."""
    return isinstance(error, OSError) and error.errno in _NO_SPACE


def open_beside(path: Path, flags: int) -> int:
    """Open a file of ours, creating it; a symbolic link in its place is refused, a pipe never waited for.

    Raises:
        UserError: it is a link, or cannot be opened.
    """
    try:
        return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if path.is_symlink():
            raise UserError(
                f"{path} is a symbolic link, which is not followed; remove it, or give another --output"
            ) from error
        raise UserError(
            f"output folder {path.parent} cannot be written: {error.strerror}; give another --output"
        ) from error


@contextlib.contextmanager
def output_folder(folder: Path) -> Iterator[bool]:
    """Make a run's folder and hold its lock; yields whether the folder is new.

    The system releases the lock when the process and its workers have ended. A new folder in which
    nothing is left but the lock is removed again, with the parents that were made for it.

    Raises:
        UserError: it cannot be written, or another run holds it.
    """
    made: list[Path] = []
    while True:
        made = _make(folder) or made
        file = open_beside(folder / LOCK, os.O_RDWR)
        try:
            _lock(file, folder)
            if _is_at(file, folder / LOCK):
                break
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # a run that ended meanwhile took the folder away: make it again
    try:
        remove_temporary_files(folder)
        yield bool(made)
    finally:
        if made and folder.is_dir() and [path.name for path in folder.iterdir()] == [LOCK]:
            (folder / LOCK).unlink()
            with contextlib.suppress(OSError):  # another run may be using it by now
                for path in reversed(made):
                    path.rmdir()
        os.close(file)


def _make(folder: Path) -> list[Path]:
    """Make a folder; returns those that were not there before, the outermost first."""
    missing = [path for path in (*reversed(folder.parents), folder) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"output folder {folder} cannot be written: {error.strerror}; give another --output"
        ) from error
    return missing


def _lock(file: int, folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(
            f"another run is writing to {folder}; wait for it, or give another --output"
        ) from error
    except OSError as error:  # a file system without locks
        log.warning("%s cannot be locked (%s)", folder, error.strerror)


def _is_at(file: int, path: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        there = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(file))


@contextlib.contextmanager
def reserved_space(folder: Path) -> Iterator[Path]:
    """Set some bytes aside; yields the file to remove once they are needed.

    Raises:
        RunFailed: there is not even that much space.
    """
    path = temporary_name(folder / "reserve")
    try:
        with writing(folder, in_bytes(RESERVED), kept="nothing was started"):
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            try:
                os.posix_fallocate(file, 0, RESERVED)
            finally:
                os.close(file)
        yield path
    finally:
        path.unlink(missing_ok=True)
