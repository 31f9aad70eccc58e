"""Copies of the backbone during pre-training: small files, one for each of some epochs, which are kept."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msbreg.checkpoints.load import save_checkpoint
from msbreg.run.files import writing
from pretrain.methods.method import Method

FOLDER = "epochs"


def snapshot_path(output: Path, epoch: int) -> Path:
    """The file of an epoch.

    >>> str(snapshot_path(Path("runs/pretrain"), 20))
    'runs/pretrain/epochs/epoch-0020.pth'
    """
    return output / FOLDER / f"epoch-{epoch:04d}.pth"


def is_due(epoch: int, *, every: int, epochs: int) -> bool:
    """Whether the backbone is kept after an epoch: every so many, and after the last; never if 0.

    >>> [epoch for epoch in range(1, 6) if is_due(epoch, every=2, epochs=5)]
    [2, 4, 5]
    """
    return every > 0 and (epoch % every == 0 or epoch == epochs)


def save_snapshot(output: Path, method: Method, header: Mapping[str, Any], epoch: int) -> Path:
    """Write the evaluated backbone, without heads, other networks and optimizer; return the file.

    It has the layout of a checkpoint, and ``load_backbone`` reads it.

    Args:
        header: the entries that describe a checkpoint at this step.

    Raises:
        RunFailed: the file cannot be written.
    """
    path = snapshot_path(output, epoch)
    with writing(path.parent):
        path.parent.mkdir(exist_ok=True)
    state = {f"backbone.{name}": value for name, value in method.backbone().state_dict().items()}
    save_checkpoint(path, {**header, "epoch": epoch, method.evaluated: state})
    return path
