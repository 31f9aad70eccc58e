"""What a file, or a description next to it, states: architecture, input, stride and training."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from msbreg.backbones.architectures import PUBLISHED
from msbreg.backbones.spec import Normalization, normalization_of, spec_of_record
from msbreg.checkpoints.layouts.format import Format
from msbreg.checkpoints.layouts.vit_names import TransformerNames
from msbreg.checkpoints.read import FileContent
from msbreg.run.errors import UserError

SCHEMA = 1
RECORDED_KEYS = ("method", "views", "epochs", "batch_size", "seed")
"""Keys of a pre-training config that are copied to every record."""


@dataclass(frozen=True)
class Stated:
    """What a file states about its network; None and empty mean not stated.

    Attributes:
        arch: name in ARCHITECTURES.
        normalization: input normalization.
        stride: the convolution with stride 2 in a bottleneck.
        image_size: side in pixels of the pre-training views; 0 if not stated.
        details: how the network was trained.
        notes: the origin of this information, if it is outside the file.
    """

    arch: str | None = None
    normalization: Normalization | None = None
    stride: Literal["3x3", "1x1"] | None = None
    image_size: int = 0
    details: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def stated_by(file: FileContent, content: Mapping[str, Any], row: Format) -> Stated:
    """What a file with this layout, or a description next to it, states about the network.

    Raises:
        UserError: a description is malformed, has another schema, or describes a network that this
            suite cannot build.
    """
    if row.name in ("msbreg", "msbreg-target"):
        return _our_checkpoint(file.path, content)
    if row.name == "msbreg-safetensors":
        return _description(file.path, content["msbreg"])
    if isinstance(content.get("msbreg"), Mapping) and "provenance" in content["msbreg"]:
        return _description(file.path, content["msbreg"]["provenance"])
    stated = _certificate(file)
    if stated is not None:
        return stated
    if isinstance(row.names, TransformerNames):
        return _transformer_sidecar(file)
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
    missing += [
        key for key in RECORDED_KEYS if not isinstance(config, Mapping) or key not in config
    ]
    if missing:
        raise UserError(
            f"{path} lacks {', '.join(missing)}: it is not a checkpoint of pretrain/run.py"
        )
    assert isinstance(config, Mapping)
    return Stated(
        arch=_text(path, content, "arch"),
        image_size=_size(path, content),
        details={key: config[key] for key in RECORDED_KEYS}
        | {key: content[key] for key in ("step", "steps", "epoch") if key in content},
    )


def _description(path: Path, description: Any) -> Stated:
    """The provenance stored in our own conversions."""
    if not isinstance(description, Mapping):
        raise UserError(f"{path} has the description {description!r}; expected a mapping")
    details = description.get("details", {})
    if not isinstance(details, Mapping):
        raise UserError(f"{path} has the details {details!r}; expected a mapping")
    try:
        spec = spec_of_record(description)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    family = {"published from": description["family"]} if "family" in description else {}
    return Stated(
        arch=spec.arch,
        normalization=spec.normalization,
        stride=spec.stride,
        image_size=spec.image_size,
        details={**details, **family},
    )


def _certificate(file: FileContent) -> Stated | None:
    """The certificate next to a conversion whose format cannot store a description."""
    certificate = file.path.with_name(f"{file.path.name}.certificate.json")
    if not certificate.is_file():
        return None
    try:
        content = json.loads(certificate.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{certificate} cannot be read as JSON: {error}") from error
    if not isinstance(content, Mapping) or content.get("sha256") != file.sha256:
        return Stated(notes=(f"{certificate.name} belongs to another file and was ignored",))
    description = _description(certificate, content.get("source"))
    return Stated(
        description.arch,
        description.normalization,
        description.stride,
        description.image_size,
        description.details,
        (f"architecture, input and stride are taken from {certificate.name}",),
    )


def _sidecar(file: FileContent) -> Stated:
    """What config.json and preprocessor_config.json of timm or Hugging Face state.

    Raises:
        UserError: they describe a network or an input that this suite does not support.
    """
    config, notes = file.sidecar, []
    where = f"the configuration next to {file.path}"
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
                "this suite does not build other ResNets"
            )
    first = config.get("downsample_in_bottleneck", False)
    if not isinstance(first, bool):
        raise UserError(
            f"{where} says downsample_in_bottleneck = {first!r}; expected true or false"
        )
    if first:
        notes.append("stride in the 1x1 convolutions, from downsample_in_bottleneck in config.json")
    normalization = _sidecar_input(config, where)
    if normalization:
        notes.append("the normalization is taken from the configuration next to the file")
    stride: Literal["3x3", "1x1"] | None = "1x1" if first else None
    return Stated(normalization=normalization, stride=stride, notes=tuple(notes))


def _transformer_sidecar(file: FileContent) -> Stated:
    """What the same files state about a vision transformer.

    Raises:
        UserError: they describe a network or an input that this suite does not support.
    """
    config, where = file.sidecar, f"the configuration next to {file.path}"
    act = config.get("hidden_act", "gelu")
    width, heads = config.get("hidden_size"), config.get("num_attention_heads")
    usual = not isinstance(width, int) or not isinstance(heads, int) or width == 64 * heads
    if act != "gelu" or config.get("qkv_bias", True) is not True or not usual:
        raise UserError(
            f"{where} says hidden_act = {act!r}, qkv_bias = {config.get('qkv_bias', True)!r} and "
            f"{heads} heads for {width} channels; expected 'gelu', true, and 64 channels per head: this "
            "suite does not build other vision transformers"
        )
    notes = []
    normalization = _sidecar_input(config, where)
    if normalization:
        notes.append("the normalization is taken from the configuration next to the file")
    if (eps := config.get("layer_norm_eps", 1e-6)) != 1e-6:
        notes.append(f"config.json says layer_norm_eps = {eps!r}; the authors' 1e-6 is used")
    return Stated(normalization=normalization, notes=tuple(notes))


def _sidecar_input(config: Mapping[str, Any], where: str) -> Normalization | None:
    processor, pretrained = config.get("preprocessor", {}), config.get("pretrained_cfg", {})
    for part in (processor, pretrained):
        if not isinstance(part, Mapping):
            raise UserError(f"{where} contains {part!r}; expected an object")
    if processor.get("do_rescale", True) is not True:
        raise UserError(
            f"{where} says do_rescale = {processor['do_rescale']!r}; expected true (pixels / 255)"
        )
    if "image_mean" in processor or "image_std" in processor:
        description = {"mean": processor.get("image_mean"), "std": processor.get("image_std")}
    elif "mean" in pretrained or "std" in pretrained:
        description = {"mean": pretrained.get("mean"), "std": pretrained.get("std")}
    else:
        return None
    if processor.get("do_normalize", True) is not True:
        description = {"mean": [0.0] * 3, "std": [1.0] * 3}
    return _normalization(where, description)


def _normalization(where: Path | str, description: Any) -> Normalization:
    try:
        return normalization_of(description)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _text(where: Path, description: Mapping[str, Any], key: str) -> str:
    value = description.get(key)
    if not isinstance(value, str):
        raise UserError(f"{where} has {key} = {value!r}; expected a name")
    return value


def _size(where: Path, description: Mapping[str, Any]) -> int:
    value = description.get("image_size", 0)
    if not isinstance(value, int) or value < 0:
        raise UserError(f"{where} has image_size = {value!r}; expected a number of pixels")
    return value
