"""Read a checkpoint file of any origin without running code from it."""

import errno
import hashlib
import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msbreg.checkpoints.read.containers import (
    HEAD_BYTES,
    check_zip,
    container_of,
    folder_message,
    load_error,
    load_legacy,
    load_pickle,
    load_safetensors,
    load_zip,
    missing_message,
)
from msbreg.checkpoints.read.inert import printable
from msbreg.checkpoints.read.rebuild import OverBudget
from msbreg.checkpoints.read.unpickle import Truncated
from msbreg.run.errors import UserError

SIDECAR_OF = (".safetensors", ".bin")  # Hugging Face stores a config.json next to these
MAX_SIDECAR_BYTES = 2**24
MAX_LINES = 40
TRUST = (
    "Pass --trust-pickle to read it, still without running any of its code: tensors, numbers and\n"
    "containers are kept, everything else becomes an inert record with its name."
)
# What a class or function with this name usually is in a checkpoint. The first match counts.
_KINDS = tuple(
    (re.compile(pattern), kind)
    for pattern, kind in (
        (
            r"(os|posix|nt|sys|subprocess|shutil|runpy|importlib|ctypes|socket|pty|code|marshal|"
            r"pickle|_pickle|webbrowser|torch\.hub|numpy\.(testing|f2py|load)|"
            r"torch\.utils\.collect_env)(\.|$)|"
            r"builtins\.(eval|exec|compile|__import__|open)$|"
            r"operator\.(attrgetter|methodcaller)$",
            "can run commands; no legitimate checkpoint needs it",
        ),
        (r"argparse\.Namespace$", "the training script's options"),
        (r"(omegaconf|hydra)\.|typing\.", "an OmegaConf or Hydra configuration"),
        (r"numpy\.(ndarray|generic) that is not numeric$", "NumPy strings or objects"),
        (r"numpy\.", "NumPy numbers or arrays"),
        (
            r"(haiku|jax|jaxlib|optax|flax|byol|dill)\.",
            "the training state of a JAX or Haiku program",
        ),
        (r"(pytorch_lightning|lightning|lightning_fabric)\.", "settings saved by Lightning"),
        (r"(mmengine|mmcv)\.|builtins\.getattr$", "MMEngine's log buffers"),
        (r"torch\.(nn\.(modules|parallel)|distributed)\.", "a whole network, not its state_dict"),
        (r"torch\.optim\.", "a whole optimizer, not its state_dict"),
        (r"torch\._utils\.", "a kind of tensor that no backbone has"),
        (r"collections\.", "a container"),
        (r"(pathlib|posixpath)\.", "file paths"),
        (r"(enum|functools|types|copyreg|datetime|easydict|dotmap|yacs)\.", "settings"),
        (r"builtins\.", "a Python builtin used to build another object"),
        (r"_{2}main_{2}\.[a-z_0-9]+$", "a function of the training script"),
        (r"", "a class or function of the program that wrote the file"),
    )
)


@dataclass(frozen=True)
class FileContent:
    """The content of a checkpoint file.

    Attributes:
        path: as given.
        content: usually a dict; tensors are on the CPU without gradients, and NumPy arrays are
            tensors.
        sha256: of the bytes of the file.
        container: ``torch zip``, ``torch legacy``, ``pickle`` or ``safetensors``.
        stubbed: names of the classes and functions that became inert records; only with
            ``trust_pickle``.
        metadata: of a safetensors file.
        sidecar: ``config.json`` next to a safetensors or bin file, and ``preprocessor_config.json``
            under ``preprocessor``; empty if there is none.
    """

    path: Path
    content: Any
    sha256: str
    container: str
    stubbed: tuple[str, ...]
    metadata: dict[str, str]
    sidecar: dict[str, Any]


def read_file(path: Path, *, trust_pickle: bool = False) -> FileContent:
    """Read a checkpoint. Its bytes decide how it is read, not its name.

    Code in the file is never run. Memory and time are bounded by the file's size
    (``msbreg.checkpoints.read.rebuild.Budget``).

    Args:
        trust_pickle: accept a file that contains more than tensors, numbers and containers; all
            other objects become inert records (``msbreg.checkpoints.read.inert.Inert``).

    Raises:
        UserError: the file is missing, is not a checkpoint, is damaged, or contains objects while
            ``trust_pickle`` is false.
    """
    data, container = _bytes_of(path)
    stubbed: set[str] = set()
    metadata: dict[str, str] = {}
    try:
        if container == "safetensors":
            content, metadata = load_safetensors(data)
        elif container == "pickle":
            content = load_pickle(data, stubbed)
        elif container == "torch zip":
            content = load_zip(data, stubbed)
        else:
            content = load_legacy(data, stubbed)
    except Exception as error:
        raise _unreadable(path, len(data), container, error) from error
    if stubbed and not trust_pickle:
        raise _objects_error(path, len(data), sorted(stubbed))
    return FileContent(
        path=path,
        content=content,
        sha256=hashlib.sha256(data).hexdigest(),
        container=container,
        stubbed=tuple(sorted(stubbed)),
        metadata=metadata,
        sidecar=_sidecar(path),
    )


def _bytes_of(path: Path) -> tuple[bytes, str]:
    """The bytes of the file, read once, and the name of its container."""
    try:
        if stat.S_ISDIR(os.stat(path).st_mode):
            raise UserError(folder_message(path))
        with open(path, "rb", opener=_open_regular) as file:
            before = os.fstat(file.fileno())
            container = container_of(path, file.read(HEAD_BYTES), before.st_size, file)
            file.seek(0)
            data = file.read(before.st_size)
            after = os.fstat(file.fileno())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(missing_message(path)) from error
    except MemoryError as error:
        raise UserError(
            f"checkpoint {path} does not fit in memory ({os.stat(path).st_size} bytes)"
        ) from error
    except OSError as error:
        if error.errno == errno.EINVAL and error.filename is None:
            raise UserError(
                f"checkpoint {path} is a device, a pipe or a socket; expected a regular file"
            ) from error
        raise UserError(
            f"checkpoint {path} cannot be read: {error.strerror or error}.\n"
            "Change its permissions, or pass another checkpoint."
        ) from error
    unchanged = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    if len(data) != before.st_size or not unchanged:
        raise UserError(
            f"checkpoint {path} changed while it was being read "
            f"({len(data)} of {before.st_size} bytes).\n"
            "Wait until it is written completely, then run the command again."
        )
    if container == "torch zip":
        check_zip(path, data)
    return data, container


def _open_regular(path: str, flags: int) -> int:
    """An opener for ``open`` that rejects pipes and devices, which could block or never end.

    Raises:
        OSError: EINVAL without a file name if it is not a regular file.
    """
    if stat.S_ISREG(os.stat(path).st_mode):
        descriptor = os.open(path, flags | os.O_NONBLOCK)  # the path may have been replaced since
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
    raise OSError(errno.EINVAL, "not a regular file")


def _sidecar(path: Path) -> dict[str, Any]:
    if path.suffix not in SIDECAR_OF:
        return {}
    found = _json(path.with_name("config.json"))
    preprocessor = _json(path.with_name("preprocessor_config.json"))
    return found | ({"preprocessor": preprocessor} if preprocessor else {})


def _json(path: Path) -> dict[str, Any]:
    """The object in an optional JSON file; empty if there is none."""
    try:
        with open(path, "rb", opener=_open_regular) as file:
            content = json.loads(file.read(MAX_SIDECAR_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _unreadable(path: Path, size: int, container: str, error: Exception) -> UserError:
    """The error for a file that its reader could not read."""
    if isinstance(error, OverBudget):
        return load_error(path, size, str(error), "Pass a checkpoint that you trust.")
    first_line = printable(str(error).strip().partition("\n")[0])
    if isinstance(error, Truncated | EOFError):
        reason = "it is truncated"
    else:
        reason = f"it is damaged, or not a valid {container} file"
    return load_error(
        path,
        size,
        reason,
        f"The reader says: {first_line or type(error).__name__}\n"
        "Copy or download it again, or pass another checkpoint.",
    )


def _objects_error(path: Path, size: int, names: list[str]) -> UserError:
    """The error for a file with objects: their names, and what each usually is."""
    number = "one kind of object" if len(names) == 1 else f"{len(names)} kinds of objects"
    width = max(map(len, names[:MAX_LINES]))
    lines = [f"  {name:<{width}}  {_kind_of(name)}" for name in names[:MAX_LINES]]
    if len(names) > MAX_LINES:
        lines.append(f"  ... and {len(names) - MAX_LINES} more")
    reason = f"in addition to tensors it contains {number} that only code can build"
    return load_error(path, size, reason, "\n".join([*lines, TRUST]))


def _kind_of(name: str) -> str:
    return next(kind for pattern, kind in _KINDS if pattern.match(name))
