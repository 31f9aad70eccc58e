"""Check the paths given in options, before PyTorch is imported."""

import re
from pathlib import Path

from msbreg.run.errors import UserError


def check_checkpoint(checkpoint: str) -> None:
    """Check that a checkpoint exists or is ``random``; ``msbreg.checkpoints`` checks its contents.

    Raises:
        UserError: there is no such file.
    """
    path = Path(checkpoint).expanduser()
    if checkpoint == "random" or path.exists():
        return
    if re.match(r"[a-z0-9]+:/", checkpoint):
        raise UserError(
            f"checkpoint {checkpoint} is a URL; expected a local file. Download it first"
        )
    if not path.with_name(path.name + ".index").exists():  # the prefix of a TensorFlow checkpoint
        default = Path("runs/pretrain/checkpoint.pth")
        remedy = (
            "make it with python pretrain/run.py, or give another file with --checkpoint"
            if Path(checkpoint) == default
            else f"expected a file such as {default}"
        )
        raise UserError(f"checkpoint {checkpoint} does not exist; {remedy}")


def check_folder(data: Path) -> None:
    """Check that the root folder of data sets is a folder.

    Raises:
        UserError: it is not.
    """
    path = data.expanduser()
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise UserError(f"data {str(data)!r} {what}; expected a folder")


def check_output(output: Path) -> None:
    """Check that neither the output path nor any of its parents is a file.

    Raises:
        UserError: one of them is.
    """
    path = output.expanduser()
    for place in (path, *path.parents):
        if place.exists() and not place.is_dir():
            raise UserError(
                f"output folder {output} cannot be written: {place} is a file; give another --output"
            )
