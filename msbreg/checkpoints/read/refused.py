"""What a refused checkpoint is told: every name of code in it, and what such names usually are."""

import contextlib
import io
import re
import zipfile
from collections.abc import Iterator
from pickle import UnpicklingError

import torch

from msbreg.checkpoints.read.inert import printable
from msbreg.checkpoints.read.unpickle import names_in

MOST_LINES = 40
TRUST = (
    "--trust-pickle reads it with an unpickler that runs none of its code: tensors, numbers and\n"
    "containers are kept, everything else becomes an inert record of its name."
)
# The first that matches is shown.
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
        (r"collections\.", "a container"),
        (r"(pathlib|posixpath)\.", "paths of files"),
        (r"(enum|functools|types|copyreg|datetime|easydict|dotmap|yacs)\.", "settings"),
        (r"builtins\.", "a builtin that something else is made with"),
        (r"_{2}main_{2}\.[a-z_0-9]+$", "a function of the training script"),
        (r"", "a class or function of the code that wrote the file"),
    )
)


@contextlib.contextmanager
def only_pytorchs_safe_names() -> Iterator[None]:
    """Names that libraries have added to PyTorch's list are not on it meanwhile.

    What is loaded would otherwise depend on which libraries were imported before.
    """
    added = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        yield
    finally:
        torch.serialization.add_safe_globals(added)


def refused_names(data: bytes) -> list[str]:
    """The names in a file of ``torch.save`` that PyTorch's safe reader refuses, sorted.

    Raises:
        UnpicklingError: the pickle in it is malformed.
    """
    if not data.startswith(b"PK"):
        return _refused_of(names_in(data, pickles=4))  # magic number, version, system, content
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            inside = next(n for n in archive.namelist() if n.partition("/")[2] == "data.pkl")
            pickled = archive.read(inside)
    except Exception as error:
        raise UnpicklingError(f"its archive is damaged ({error})") from error
    return _refused_of(names_in(pickled))


def _refused_of(names: set[tuple[str, str]]) -> list[str]:
    """Those that ``weights_only=True`` refuses, by asking PyTorch about a file with just them.

    Its question works for its zip format and protocol 2 only, and its list of safe names is private;
    hence a small file of that format, of which nothing is executed.
    """
    odd = {(m, n) for m, n in names if not f"{m}{n}".isprintable()}  # no line of a pickle
    lines = [f"c{m}\n{n}\n".encode() for m, n in sorted(names - odd)]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("names/data.pkl", b"\x80\x02" + b"".join(lines) + b".")
        archive.writestr("names/version", "3\n")
    buffer.seek(0)
    with only_pytorchs_safe_names():
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(buffer)
    return sorted(map(printable, [f"{m}.{n}" for m, n in odd] + unsafe))


def explained(names: list[str]) -> str:
    """One line for each name, with the kind of content that it usually is."""
    width = max(map(len, names[:MOST_LINES]))
    lines = [f"  {name:<{width}}  {kind_of(name)}" for name in names[:MOST_LINES]]
    if len(names) > MOST_LINES:
        lines.append(f"  ... and {len(names) - MOST_LINES} more")
    return "\n".join(lines)


def kind_of(name: str) -> str:
    """What an object of this name usually is in a checkpoint."""
    return next(kind for pattern, kind in _KINDS if pattern.match(name))
