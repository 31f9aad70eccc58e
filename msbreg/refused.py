"""What a refused checkpoint is told: every name of code in it, and what such names usually are."""

import io
import re
import zipfile
from collections.abc import Iterable
from pickle import UnpicklingError

import torch

from msbreg.unpickle import names_in, printable

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
            r"(builtins|__builtin__)\.(eval|exec|execfile|compile|__import__|open|apply)$|"
            r"operator\.(attrgetter|methodcaller)$",
            "can run commands: no honest checkpoint needs it",
        ),
        (r"argparse\.Namespace$", "the training script's options"),
        (r"(omegaconf|hydra)\.|typing\.", "an OmegaConf or Hydra configuration"),
        (
            r"numpy\.(_?core\.)?(multiarray|numeric)\.|numpy\.(dtype|ndarray|generic)|numpy\.",
            "NumPy numbers or arrays",
        ),
        (r"(haiku|jax|jaxlib|optax|flax|byol|dill)\.", "a training state of JAX or Haiku"),
        (r"(pytorch_lightning|lightning|lightning_fabric)\.", "settings that Lightning saves"),
        (r"(mmengine|mmcv)\.|(builtins|__builtin__)\.getattr$", "log buffers of MMEngine"),
        (r"torch\.(nn\.(modules|parallel)|distributed)\.", "a whole network, not its state_dict"),
        (r"torch\.optim\.", "a whole optimiser, not its state_dict"),
        (r"collections\.", "a container"),
        (r"(pathlib|posixpath)\.", "paths of files"),
        (r"(enum|functools|types|copyreg|datetime|easydict|dotmap|yacs)\.", "settings"),
        (r"(builtins|__builtin__)\.", "a builtin that something else is made with"),
        (r"__main__\.([a-z_0-9]+)$", "a function of the training script"),
        (r"", "a class or function of the code that wrote the file"),
    )
)


def refused_names(data: bytes) -> list[str]:
    """The names in a file of ``torch.save`` that PyTorch's safe reader refuses, sorted.

    Empty if there is none, or if the file is too damaged to tell.
    """
    try:
        if data[:2] == b"PK":
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                inside = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
                names = names_in(archive.read(inside))
        else:
            names = names_in(data, pickles=4)  # magic number, version, system, content
    except (UnpicklingError, zipfile.BadZipFile, OSError, StopIteration, NotImplementedError):
        return []
    return sorted(map(printable, _judged(names)))


def _judged(names: Iterable[tuple[str, str]]) -> list[str]:
    """Those that ``weights_only=True`` refuses, by asking PyTorch about a file with just them.

    Its own question works for its zip format and protocol 2 only, and its list of safe names is
    private; hence a small file of that format. Nothing in it is executed by the question.
    """
    lines = [f"c{m}\n{n}\n".encode() for m, n in names if "\n" not in m + n]
    odd = [f"{m}.{n}" for m, n in names if "\n" in m + n]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("names/data.pkl", b"\x80\x02" + b"".join(lines) + b".")
        archive.writestr("names/version", "3\n")
    buffer.seek(0)
    return odd + torch.serialization.get_unsafe_globals_in_checkpoint(buffer)


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
