"""What a file, or a description beside it, states: architecture, input, stride and training."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from msbreg.backbones.architectures import PUBLISHED
from msbreg.backbones.spec import Normalization, normalization_of, spec_of_record
from msbreg.checkpoints.layouts.format import Format
from msbreg.checkpoints.read import FileContent
from msbreg.run.errors import UserError

SCHEMA = 1
KEPT = ("method", "views", "epochs", "batch_size", "seed")  # of our config, into every record


@dataclass(frozen=True)
class Stated:
    """None and empty: not stated.

    Attributes:
        arch: name in ARCHITECTURES.
        normalization, stride: of the network.
        image_size: side in pixels of the views it was pre-trained on.
        details: how it was trained.
        notes: where this was read, if not in the file's own layout.
    """

    arch: str | None = None
    normalization: Normalization | None = None
    stride: Literal["3x3", "1x1"] | None = None
    image_size: int = 0
    details: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def stated_by(file: FileContent, content: Mapping[str, Any], row: Format) -> Stated:
    """What is said of the network of a file of that layout.

    Raises:
        UserError: a description is malformed, of another schema, or of a network that this suite
            cannot build.
    """
    if row.name == "msbreg":
        return _our_checkpoint(file.path, content)
    if row.name == "msbreg-safetensors":
        return _description(file.path, content["msbreg"])
    if isinstance(content.get("msbreg"), Mapping) and "provenance" in content["msbreg"]:
        return _description(file.path, content["msbreg"]["provenance"])
    beside = _certificate(file)
    if beside is not None:
        return beside
    if row.name.startswith("huggingface") or row.name == "torchvision":
        return _sidecar(file)
    return Stated()


def _our_checkpoint(path: Path, content: Mapping[str, Any]) -> Stated:
    if content.get("schema") != SCHEMA:
        raise UserError(
            f"{path} has checkpoint schema {content.get('schema')!r}; this version reads {SCHEMA}"
        )
    config = content.get("config")
    missing = [key for key in ("arch", "image_size", "step", "steps") if key not in content]
    missing += [key for key in KEPT if not isinstance(config, Mapping) or key not in config]
    if missing:
        raise UserError(
            f"{path} lacks {', '.join(missing)}: it is no checkpoint that pretrain/run.py wrote"
        )
    assert isinstance(config, Mapping)
    return Stated(
        arch=_text(path, content, "arch"),
        image_size=_size(path, content),
        details={key: config[key] for key in KEPT}
        | {"step": content["step"], "steps": content["steps"]},
    )


def _description(path: Path, said: Any) -> Stated:
    """The provenance that our own conversions carry along."""
    if not isinstance(said, Mapping):
        raise UserError(f"{path} describes itself by {said!r}; expected a mapping")
    details = said.get("details", {})
    if not isinstance(details, Mapping):
        raise UserError(f"{path} has the details {details!r}; expected a mapping")
    try:
        spec = spec_of_record(said)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    family = {"published from": said["family"]} if "family" in said else {}
    return Stated(
        arch=spec.arch,
        normalization=spec.normalization,
        stride=spec.stride,
        image_size=spec.image_size,
        details={**details, **family},
    )


def _certificate(file: FileContent) -> Stated | None:
    """Of a conversion whose layout has no place for a description: it lies beside the file."""
    beside = file.path.with_name(f"{file.path.name}.certificate.json")
    if not beside.is_file():
        return None
    try:
        content = json.loads(beside.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{beside} cannot be read as JSON: {error}") from error
    if not isinstance(content, Mapping) or content.get("sha256") != file.sha256:
        return Stated(notes=(f"{beside.name} belongs to another file and was not followed",))
    said = _description(beside, content.get("source"))
    return Stated(
        said.arch,
        said.normalization,
        said.stride,
        said.image_size,
        said.details,
        (f"architecture, input and stride are those of {beside.name}",),
    )


def _sidecar(file: FileContent) -> Stated:
    """timm's and Hugging Face's config.json and preprocessor_config.json.

    Raises:
        UserError: they describe a network or an input that this suite does not build.
    """
    config, notes = file.sidecar, []
    where = f"the configuration beside {file.path}"
    wanted = {
        "downsample_in_first_stage": (False,),
        "hidden_act": ("relu",),
        "embedding_size": (64, 128, 256),
        "architecture": PUBLISHED,
    }
    for key, expected in wanted.items():
        value = config.get(key, expected[0])
        if value not in expected and not (key == "architecture" and "." in str(value)):
            raise UserError(
                f"{where} says {key} = {value!r}; expected {' or '.join(map(repr, expected))}: "
                "this suite builds no other ResNet"
            )
    first = config.get("downsample_in_bottleneck", False)
    if not isinstance(first, bool):
        raise UserError(
            f"{where} says downsample_in_bottleneck = {first!r}; expected true or false"
        )
    if first:
        notes.append("stride in the 1x1 convolutions: downsample_in_bottleneck in config.json")
    normalization = _sidecar_input(config, where)
    if normalization:
        notes.append("the normalization is that of the configuration beside the file")
    stride: Literal["3x3", "1x1"] | None = "1x1" if first else None
    return Stated(normalization=normalization, stride=stride, notes=tuple(notes))


def _sidecar_input(config: Mapping[str, Any], where: str) -> Normalization | None:
    processor, pretrained = config.get("preprocessor", {}), config.get("pretrained_cfg", {})
    for part in (processor, pretrained):
        if not isinstance(part, Mapping):
            raise UserError(f"{where} holds {part!r}; expected an object")
    if processor.get("do_rescale", True) is not True:
        raise UserError(f"{where} says do_rescale is off; expected pixels divided by 255")
    if "image_mean" in processor or "image_std" in processor:
        said = {"mean": processor.get("image_mean"), "std": processor.get("image_std")}
    elif "mean" in pretrained or "std" in pretrained:
        said = {"mean": pretrained.get("mean"), "std": pretrained.get("std")}
    else:
        return None
    if processor.get("do_normalize", True) is not True:
        said = {"mean": [0.0] * 3, "std": [1.0] * 3}
    return _normalization(where, said)


def _normalization(where: Path | str, said: Any) -> Normalization:
    try:
        return normalization_of(said)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _text(where: Path, said: Mapping[str, Any], key: str) -> str:
    value = said.get(key)
    if not isinstance(value, str):
        raise UserError(f"{where} has {key} = {value!r}; expected a name")
    return value


def _size(where: Path, said: Mapping[str, Any]) -> int:
    value = said.get("image_size", 0)
    if not isinstance(value, int) or value < 0:
        raise UserError(f"{where} has image_size = {value!r}; expected pixels")
    return value
