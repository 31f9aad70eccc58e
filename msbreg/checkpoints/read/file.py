"""Reading a checkpoint file of any origin, without running code in it."""

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
    HEAD,
    advice_for_folder,
    advice_for_missing,
    check_zip,
    container_of,
    load_legacy,
    load_pickle,
    load_safetensors,
    load_zip,
    refused,
)
from msbreg.checkpoints.read.inert import printable
from msbreg.checkpoints.read.rebuild import OverBudget
from msbreg.checkpoints.read.unpickle import Truncated
from msbreg.run.errors import UserError

SIDECAR_OF = (".safetensors", ".bin")  # what Hugging Face keeps beside its settings
MOST_SIDECAR = 2**24  # bytes of settings
MOST_LINES = 40
TRUST = (
    "--trust-pickle reads it, still without running any code in it: tensors, numbers and\n"
    "containers are kept, everything else becomes an inert record of its name."
)
# What an object of a name usually is in a checkpoint. The first pattern that matches counts.
_KINDS = tuple(
    (re.compile(pattern), kind)
    for pattern, kind in (
        (
            r"(os|posix|nt|sys|subprocess|shutil|runpy|importlib|ctypes|socket|pty|code|marshal|"
            r"pickle|_pickle|webbrowser|torch\.hub|numpy\.(testing|f2py|load)|"
            r"torch\.utils\.collect_env)(\.|$)|"
            r"builtins\.(eval|exec|compile|__import__|open)$|"
            r"operator\.(attrgetter|methodcaller)$",
            "can run commands: no honest checkpoint needs it",
        ),
        (r"argparse\.Namespace$", "the training script's options"),
        (r"(omegaconf|hydra)\.|typing\.", "an OmegaConf or Hydra configuration"),
        (r"numpy\.(ndarray|generic) that is not of numbers$", "NumPy texts or objects"),
        (r"numpy\.", "NumPy numbers or arrays"),
        (r"(haiku|jax|jaxlib|optax|flax|byol|dill)\.", "a training state of JAX or Haiku"),
        (r"(pytorch_lightning|lightning|lightning_fabric)\.", "settings that Lightning saves"),
        (r"(mmengine|mmcv)\.|builtins\.getattr$", "log buffers of MMEngine"),
        (r"torch\.(nn\.(modules|parallel)|distributed)\.", "a whole network, not its state_dict"),
        (r"torch\.optim\.", "a whole optimizer, not its state_dict"),
        (r"torch\._utils\.", "a tensor of a kind that no backbone has"),
        (r"collections\.", "a container"),
        (r"(pathlib|posixpath)\.", "file paths"),
        (r"(enum|functools|types|copyreg|datetime|easydict|dotmap|yacs)\.", "settings"),
        (r"builtins\.", "a Python builtin used to build another object"),
        (r"_{2}main_{2}\.[a-z_0-9]+$", "a function of the training script"),
        (r"", "a class or function of the code that wrote the file"),
    )
)


@dataclass(frozen=True)
class FileContent:
    """What one reading of a checkpoint file gave.

    Attributes:
        path: as given.
        content: usually a dict; tensors are on the CPU and need no gradient, NumPy arrays are
            tensors also.
        sha256: of the bytes that the content was read from.
        container: ``torch zip``, ``torch legacy``, ``pickle`` or ``safetensors``.
        stubbed: names of the classes and functions that became inert records; only with
            ``trust_pickle``.
        metadata: of a safetensors file.
        sidecar: ``config.json`` beside a safetensors or bin file, and ``preprocessor_config.json``
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
    """Read a checkpoint once, by what its bytes are and not by its name.

    Code in the file is never run. Memory and time are bounded by the file's size
    (``msbreg.checkpoints.read.rebuild.Budget``).

    Args:
        trust_pickle: accept a file that holds more than tensors, numbers and containers; all other
            objects are inert records (``msbreg.checkpoints.read.inert.Inert``).

    Raises:
        UserError: the file is missing, is not a checkpoint, is damaged, or holds objects and
            ``trust_pickle`` is not given.
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
        raise _holds_objects(path, len(data), sorted(stubbed))
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
    """The whole file, read once, if its beginning is that of a container we read."""
    try:
        if stat.S_ISDIR(os.stat(path).st_mode):
            raise UserError(advice_for_folder(path))
        with open(path, "rb", opener=_open_regular) as file:
            before = os.fstat(file.fileno())
            container = container_of(path, file.read(HEAD), before.st_size, file)
            file.seek(0)
            data = file.read(before.st_size)
            after = os.fstat(file.fileno())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(advice_for_missing(path)) from error
    except MemoryError as error:
        raise UserError(
            f"checkpoint {path} does not fit into memory ({os.stat(path).st_size} bytes)"
        ) from error
    except OSError as error:
        if error.errno == errno.EINVAL and error.filename is None:
            raise UserError(
                f"checkpoint {path} is a device, a pipe or a socket; expected a file"
            ) from error
        raise UserError(
            f"checkpoint {path} cannot be read: {error.strerror or error}.\n"
            "Change its permissions, or give another checkpoint."
        ) from error
    unchanged = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    if len(data) != before.st_size or not unchanged:
        raise UserError(
            f"checkpoint {path} changed while it was read: {len(data)} of {before.st_size} bytes.\n"
            "Wait until it is written completely, then run the same command again."
        )
    if container == "torch zip":
        check_zip(path, data)
    return data, container


def _open_regular(path: str, flags: int) -> int:
    """For ``open``: refuse what could block or has no end, such as a pipe or a device.

    Raises:
        OSError: EINVAL without a file name if it is not a regular file.
    """
    if stat.S_ISREG(os.stat(path).st_mode):
        descriptor = os.open(path, flags | os.O_NONBLOCK)  # it may be another file by now
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
    """Of a file that need not exist, nor be ours."""
    try:
        with open(path, "rb", opener=_open_regular) as file:
            content = json.loads(file.read(MOST_SIDECAR))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _unreadable(path: Path, size: int, container: str, error: Exception) -> UserError:
    """The message for a file whose reader failed."""
    if isinstance(error, OverBudget):
        return refused(path, size, str(error), "Give a checkpoint that you trust.")
    first_line = printable(str(error).strip().partition("\n")[0])
    if isinstance(error, Truncated | EOFError):
        reason = "it is cut short"
    else:
        reason = f"it is damaged, or not a valid {container} file"
    return refused(
        path,
        size,
        reason,
        f"The reader says: {first_line or type(error).__name__}\n"
        "Copy or download it again, or give another checkpoint.",
    )


def _holds_objects(path: Path, size: int, names: list[str]) -> UserError:
    """The message for a file with more than tensors: every name, and what it usually is."""
    number = "an object" if len(names) == 1 else f"objects of {len(names)} kinds"
    width = max(map(len, names[:MOST_LINES]))
    lines = [f"  {name:<{width}}  {_kind_of(name)}" for name in names[:MOST_LINES]]
    if len(names) > MOST_LINES:
        lines.append(f"  ... and {len(names) - MOST_LINES} more")
    reason = f"besides tensors it holds {number}, which only code can make"
    return refused(path, size, reason, "\n".join([*lines, TRUST]))


def _kind_of(name: str) -> str:
    return next(kind for pattern, kind in _KINDS if pattern.match(name))
