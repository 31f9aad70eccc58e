"""Convert a backbone: write it to a hidden folder, read it back, compare, then move it into place."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from msbreg.backbones.resnet import ResNet
from msbreg.backbones.spec import Provenance
from msbreg.checkpoints.convert.certificate import ConversionFailed, certify, state_sha256
from msbreg.checkpoints.convert.model_card import Card
from msbreg.checkpoints.convert.target import Content, Reader, Target, as_json
from msbreg.checkpoints.convert.to_detectron2 import DETECTRON2
from msbreg.checkpoints.convert.to_huggingface import HUGGINGFACE
from msbreg.checkpoints.convert.to_mmseg import MMSEG
from msbreg.checkpoints.convert.to_torchvision import SAFETENSORS, TIMM, TORCHVISION
from msbreg.checkpoints.layouts.names import to_dialect
from msbreg.checkpoints.load import file_sha256
from msbreg.run.config import plain
from msbreg.run.errors import RunFailed, UserError
from msbreg.run.files import write_atomically

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (DETECTRON2, TORCHVISION, TIMM, MMSEG, HUGGINGFACE, SAFETENSORS)
}
"""The toolboxes. To add one, write a module with a ``Target`` and list it here."""

CERTIFICATE = ".certificate.json"


@dataclass(frozen=True)
class Conversion:
    """The files of a conversion.

    Attributes:
        output: the file or folder.
        sidecars: the certificate, and the model card if there is one; next to the output.
        certificate: content of the certificate.
    """

    output: Path
    sidecars: tuple[Path, ...]
    certificate: dict[str, Any]


def convert(
    backbone: ResNet,
    provenance: Provenance,
    output: Path,
    target: Target,
    *,
    readers: Sequence[Reader] = (),
    card: Card | None = None,
    overwrite: bool = False,
) -> Conversion:
    """Write a backbone with its certificate. A failed conversion leaves no files.

    Args:
        output: a file with one of the target's suffixes, or a folder.
        readers: additional readers, for libraries that this package may not import.
        card: renders the model card, written next to the output as its stem + ``.md``.
        overwrite: replace an existing output.

    Raises:
        UserError: the target cannot express this backbone, the output exists, or its parent folder
            does not.
        RunFailed: the output cannot be written.
        ConversionFailed: the written file does not compute the same as the backbone.
    """
    target.check(provenance.spec)
    _check_output(output, target, overwrite=overwrite)
    named = plain(provenance.as_dict()) | {"source": Path(provenance.source).name}
    content = Content(
        state=to_dialect(backbone.state_dict(), target.names),
        settings=target.express(provenance.spec),
        provenance=named,
    )
    with _staging(output) as staging:
        staged = staging / output.name
        _write(content, staged, target)
        certificate = certify(staged, target, content.settings, backbone, provenance.spec, readers)
        certificate |= {"source": named}
        _write(replace(content, certificate=certificate), staged, target)
        _check_unchanged(staged, target, certificate)
        certificate |= {"file": output.name, "sha256": _file_sha256s(staged)}
        sidecars = {output.name + CERTIFICATE: as_json(certificate)}
        if card is not None:
            sidecars[output.stem + ".md"] = card(named, certificate, output.name).encode()
        for name, data in sidecars.items():
            write_atomically(staging / name, data)
        _publish(staged, [staging / name for name in sidecars], output)
    return Conversion(output, tuple(output.with_name(name) for name in sidecars), certificate)


def _check_output(output: Path, target: Target, *, overwrite: bool) -> None:
    folder = not target.suffixes
    if not folder and output.is_dir():
        raise UserError(f"output {output} is a folder; {target.name} writes a file")
    if not folder and output.suffix not in target.suffixes:
        raise UserError(
            f"output {output} has the suffix {output.suffix or '(none)'}; "
            f"{target.name} expects {' or '.join(target.suffixes)}"
        )
    if not output.parent.is_dir():
        raise UserError(
            f"output folder {output.parent} does not exist; create it or choose another -o"
        )
    if folder and output.is_file():
        raise UserError(f"output {output} is a file; {target.name} writes a folder")
    if overwrite:
        return
    certificate = output.with_name(output.name + CERTIFICATE)
    if certificate.exists() or (any(output.iterdir()) if output.is_dir() else output.exists()):
        existing = certificate if certificate.exists() and not output.exists() else output
        raise UserError(f"{existing} exists; choose another -o, or add --overwrite to replace it")


@contextlib.contextmanager
def _staging(output: Path) -> Iterator[Path]:
    """A hidden folder next to the output, on the same disk; it is always removed."""
    try:
        with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
            yield Path(folder)
    except (OSError, RunFailed) as error:
        reason = error.__cause__ if isinstance(error, RunFailed) else error
        raise RunFailed(
            f"cannot write {output}: {getattr(reason, 'strerror', None) or reason}; nothing was written.\n"
            "Free some space, or choose another -o."
        ) from error


def _write(content: Content, path: Path, target: Target) -> None:
    for name, data in target.encode(content, path.suffix).items():
        if name:
            path.mkdir(exist_ok=True)
        write_atomically(path / name if name else path, data)


def _check_unchanged(path: Path, target: Target, certificate: dict[str, Any]) -> None:
    """Check the file again after the certificate was added to it: its tensors must be the same."""
    written, stored = target.decode(path)
    same = state_sha256(written) == certificate["tensors"]["sha256"]
    if not same or (stored is not None and plain(stored) != plain(certificate["settings"])):
        raise ConversionFailed(
            f"the {target.name} file changed when its certificate was added; nothing was written.\n"
            "Likely cause: a failing disk."
        )


def _file_sha256s(path: Path) -> dict[str, str]:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return {file.name: file_sha256(file) for file in files}


def _publish(staged: Path, sidecars: list[Path], output: Path) -> None:
    """Move everything into place, the output last, so that an output is always complete.

    Files are moved into an existing folder one by one; its other files are kept.
    """
    placed: list[Path] = []
    try:
        for file in sidecars:
            placed.append(output.with_name(file.name))
            os.replace(file, placed[-1])
        if staged.is_dir() and output.is_dir():
            for file in sorted(staged.iterdir()):
                os.replace(file, output / file.name)
        else:
            os.replace(staged, output)
    except BaseException:
        for path in placed:
            if path.is_file():
                path.unlink()
        raise
