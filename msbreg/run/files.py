"""Atomic writes, reads that never block, the lock of an output folder, and reserved disk space.

Files are written completely or not at all, and never through a symbolic link. Temporary files have names
that only this program uses, so those of killed runs can be removed without touching the user's files.
"""

import contextlib
import errno
import fcntl
import io
import logging
import os
import platform
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from msbreg.run.errors import RunFailed, UserError

log = logging.getLogger("msbreg")

LOCK = ".lock"
RESERVED = 64 * 1024
"""Bytes reserved during a run, so that the final record can be written even if the disk is full."""
_TEMPORARY = re.compile(r"\..+\.\d+\.msbreg-tmp")
_OWNER = re.compile(rb"process \d+ on [\w.-]*\n")
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def temporary_name(path: Path) -> Path:
    """A temporary name in the folder of ``path``, for a file that is not complete yet."""
    return path.with_name(f".{path.name}.{os.getpid()}.msbreg-tmp")


def remove_temporary_files(folder: Path) -> None:
    """Remove the temporary files of killed runs; the caller must hold the lock of the folder."""
    for path in folder.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file by ``content``; readers always see either the old or the new file, complete.

    Raises:
        RunFailed: the write failed, for example because the disk is full. The old file is untouched and
            no temporary file remains.
    """
    kept = "the previous file is untouched" if path.exists() else "nothing was written"
    with writing(path, format_bytes(len(content)), kept=kept), replacing(path) as file:
        file.write(content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Yield an open file that replaces ``path`` on exit, unless the body raises.

    Raises:
        OSError: the write failed. The old file is untouched and no temporary file remains.
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
    # The rename is durable only after the folder is synced, which some file systems do not support.
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
    """Turn an OSError into RunFailed with the path and a remedy.

    Args:
        what: size or contents of the file, shown in parentheses after the path.
        kept: what is preserved in spite of the failure.
        instead: the alternative to freeing disk space.

    Raises:
        RunFailed: a write in the body failed.
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
        return f"Free some space, or {instead}, then run the same command to continue."
    return f"Make the folder writable, or {instead}."


def format_bytes(count: int) -> str:
    """Format a size in bytes, KiB or MiB.

    >>> format_bytes(578), format_bytes(2048), format_bytes(3 * 2**19)
    ('578 bytes', '2.0 KiB', '1.5 MiB')
    """
    if count < 2**10:
        return f"{count} bytes"
    return f"{count / 2**10:.1f} KiB" if count < 2**20 else f"{count / 2**20:.1f} MiB"


def is_full(error: BaseException) -> bool:
    """Whether an error means that the disk or quota is full, or a file reached its maximum size."""
    return isinstance(error, OSError) and error.errno in _NO_SPACE


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file for reading, like ``open(path, "rb")``, but never block on a pipe or a device.

    Raises:
        OSError: there is no such file, it is not a regular file, or it cannot be opened.
        ValueError: the name contains a NUL or a lone surrogate.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file")
    return os.fdopen(descriptor, "rb")


def open_no_follow(path: Path, flags: int) -> int:
    """Open a file of the run, creating it if necessary; rejects symbolic links, never blocks on a pipe.

    Raises:
        UserError: the path is a symbolic link, or cannot be opened.
    """
    try:
        return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if path.is_symlink():
            raise UserError(
                f"{path} is a symbolic link; expected a regular file. Remove it, or give another --output"
            ) from error
        raise UserError(
            f"output folder {path.parent} cannot be written: {error.strerror}; give another --output"
        ) from error


@contextlib.contextmanager
def output_folder(folder: Path) -> Iterator[bool]:
    """Create the output folder and lock it; yield whether the folder is new.

    The system releases the lock when the process ends, even if it is killed: its workers do not hold it. If
    a new folder contains nothing but the lock file on exit, it is removed, along with the parent folders
    that were created for it.

    Raises:
        UserError: the folder is not writable, or another run is using it.
    """
    made: list[Path] = []
    while True:
        made = _make(folder) or made
        file = open_no_follow(folder / LOCK, os.O_RDWR)
        try:
            _lock(file, folder)
            if _is_at(file, folder / LOCK):
                _locks.add(file)
                break
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # another run removed the folder in the meantime: create it again
    try:
        remove_temporary_files(folder)
        yield bool(made)
    finally:
        if made and folder.is_dir() and [path.name for path in folder.iterdir()] == [LOCK]:
            (folder / LOCK).unlink()
            with contextlib.suppress(OSError):  # another run may already be using it
                for path in reversed(made):
                    path.rmdir()
        _unlock(file)


# ``flock`` belongs to the open file, which forked workers share, and those of a killed process live on for
# some seconds. POSIX locks are not shared, but get lost when the process closes any descriptor of the file.
_locks: set[int] = set()
"""Descriptors of the locks that this process holds."""


def _unlock(file: int) -> None:
    """Close a lock; a forked child has already closed its copy, and may use the number for another file."""
    if file in _locks:
        _locks.remove(file)
        os.close(file)


def _close_copies() -> None:
    """Close a forked child's copies of the locks; the parent still holds them."""
    while _locks:
        os.close(_locks.pop())


os.register_at_fork(after_in_child=_close_copies)


def _make(folder: Path) -> list[Path]:
    """Create a folder and its parents; return those that did not exist, outermost first."""
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
        owner = _OWNER.fullmatch(os.pread(file, 200, 0))
        who = f" ({owner[0].decode().strip()})" if owner else ""
        raise UserError(
            f"another run is writing to {folder}{who}; wait for it, or give another --output"
        ) from error
    except OSError as error:  # a file system without locks
        log.warning("%s cannot be locked (%s)", folder, error.strerror)
        return
    # Only for the message above. The lock itself is the system's, and ends with the process.
    with contextlib.suppress(OSError):  # a full disk is reported when something is written
        _write_owner(file)


def _write_owner(file: int) -> None:
    """Write who holds the lock, unless the file has the content of another program."""
    before = os.pread(file, 200, 0)
    if before and not _OWNER.fullmatch(before):
        return
    os.ftruncate(file, 0)
    os.pwrite(file, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)


def _is_at(file: int, path: Path) -> bool:
    """Whether ``path`` still refers to this open file."""
    try:
        there = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(file))


@contextlib.contextmanager
def reserved_space(folder: Path) -> Iterator[Path]:
    """Reserve some disk space; yield the file to delete when the space is needed.

    Raises:
        RunFailed: there is not enough space.
    """
    path = temporary_name(folder / "reserve")
    try:
        with writing(folder, format_bytes(RESERVED), kept="nothing was started"):
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            try:
                os.posix_fallocate(file, 0, RESERVED)
            finally:
                os.close(file)
        yield path
    finally:
        path.unlink(missing_ok=True)
