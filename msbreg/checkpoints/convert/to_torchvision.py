"""Flat state dicts with torchvision's names and no classifier: torchvision, timm and our safetensors.

The metadata of our safetensors file contains everything that ``load_backbone`` needs; a model card in
Markdown is written next to it.
"""

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from msbreg.backbones.spec import BackboneSpec, Normalization, spec_of_record
from msbreg.checkpoints.convert.certificate import features_of
from msbreg.checkpoints.convert.target import (
    STAGES,
    Content,
    Features,
    Layout,
    Reading,
    Settings,
    Target,
    as_safetensors,
    no_small_stem,
    prepared,
    torch_saved,
)
from msbreg.checkpoints.layouts.names import torchvision as torchvision_names
from msbreg.checkpoints.load import load_resnet
from msbreg.checkpoints.read import read_file

LAYOUT = Layout(
    stem="conv1",
    stem_norm="bn1",
    convolution="layer{stage}.{block}.conv{layer}",
    norm="layer{stage}.{block}.bn{layer}",
    shortcut="layer{stage}.{block}.downsample.0",
    shortcut_norm="layer{stage}.{block}.downsample.1",
    first_stage=1,
    first_layer=1,
)


NETWORKS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2")
"""Available in torchvision.models; timm also has resnet200."""


def _refusal(spec: BackboneSpec, networks: tuple[str, ...] = NETWORKS) -> str:
    a = spec.architecture
    if spec.stride_in_1x1:
        return f"it has stride 2 in its 1x1 convolutions (ResNet v1), unlike the library's resnet{a.depth}"
    if reason := no_small_stem(spec):
        return reason
    if a.width != 64:
        return f"its width is {a.width} channels, and the library's resnet{a.depth} has 64"
    return "" if spec.arch in networks else f"the library has no {spec.arch}"


def _refusal_of_timm(spec: BackboneSpec) -> str:
    if spec.normalization.channels == "BGR":
        return "it takes BGR images, and timm's pretrained_cfg has no option for that"
    return _refusal(spec, (*NETWORKS, "resnet200"))


def _express(spec: BackboneSpec) -> Settings:
    return {
        "model": spec.arch,
        "channels": spec.normalization.channels,
        "mean": list(spec.normalization.mean),
        "std": list(spec.normalization.std),
    }


def _understand(settings: Settings) -> BackboneSpec:
    mean, std = tuple(settings["mean"]), tuple(settings["std"])
    return BackboneSpec(settings["model"], Normalization(mean, std, settings["channels"]))


def _encode(content: Content, suffix: str) -> dict[str, bytes]:
    if suffix == ".pth":
        return {"": torch_saved(content.state)}
    described = {"msbreg": content.provenance, "settings": content.settings}
    return {"": as_safetensors(content.state, described | {"certificate": content.certificate})}


def _decode(path: Path) -> tuple[dict[str, Tensor], Settings | None]:
    """A ``.pth`` cannot store settings, because both libraries expect only tensors."""
    file = read_file(path)
    settings = json.loads(file.metadata["settings"]) if "settings" in file.metadata else None
    return file.content, settings


def _fragment_of_torchvision(settings: Settings, path: Path) -> str:
    return (
        f"model = torchvision.models.{settings['model']}()\n"
        "model.fc = torch.nn.Identity()\n"
        f"model.load_state_dict(torch.load({str(path.resolve())!r}, weights_only=True))\n"
        f"# feed {settings['channels']} images / 255, mean {settings['mean']}, std {settings['std']}\n"
    )


def _fragment_of_timm(settings: Settings, path: Path) -> str:
    overlay = f"file={str(path.resolve())!r}, mean={settings['mean']}, std={settings['std']}"
    return (
        f"model = timm.create_model({settings['model']!r}, pretrained=True, num_classes=0,\n"
        f"    pretrained_cfg_overlay=dict({overlay}))\n"
    )


def read_with_torchvision(path: Path, settings: Settings, images: Tensor) -> list[Reading]:
    """Read with torchvision's network, loaded strictly, as in the fragment."""
    import torchvision

    network = getattr(torchvision.models, settings["model"])()
    network.fc = nn.Identity()
    problems: tuple[str, ...] = ()
    try:
        network.load_state_dict(torch.load(path, weights_only=True))
    except RuntimeError as error:
        problems = (str(error),)
    name = f"torchvision {torchvision.__version__}"
    return [_reading(name, network, problems, _understand(settings), images)]


def read_with_timm(path: Path, settings: Settings, images: Tensor) -> list[Reading]:
    """Read with ``timm.create_model``. It skips missing tensors, so the loaded ones are compared."""
    import timm

    network = timm.create_model(
        settings["model"],
        pretrained=True,
        num_classes=0,
        pretrained_cfg_overlay={
            "file": str(path),
            "mean": settings["mean"],
            "std": settings["std"],
        },
    )
    return [_reading(f"timm {timm.__version__}", network, (), _understand(settings), images)]


def _reading(
    name: str, network: nn.Module, problems: tuple[str, ...], spec: BackboneSpec, images: Tensor
) -> Reading:
    network.eval()
    loaded = dict(network.state_dict())

    @torch.no_grad()
    def features(dtype: torch.dtype) -> Features:
        network.to(dtype)
        x = prepared(images, spec.normalization, dtype)
        act = network.get_submodule("act1" if hasattr(network, "act1") else "relu")
        x = network.get_submodule("bn1")(network.get_submodule("conv1")(x))
        stages = [network.get_submodule("maxpool")(act(x))]
        for number in range(1, 5):
            stages.append(network.get_submodule(f"layer{number}")(stages[-1]))
        return dict(zip(STAGES, stages, strict=True))

    return Reading(name, loaded, features, problems)


# ---- The published format of this suite


def _express_all(spec: BackboneSpec) -> Settings:
    """The settings that ``load_backbone`` reads from the metadata."""
    return spec.as_dict()


def _encode_published(content: Content, suffix: str) -> dict[str, bytes]:
    described = {"msbreg": content.provenance | content.settings}
    return {"": as_safetensors(content.state, described | {"certificate": content.certificate})}


def _decode_published(path: Path) -> tuple[dict[str, Tensor], Settings | None]:
    file = read_file(path)
    described = json.loads(file.metadata["msbreg"])
    names = ("arch", "normalization", "stride", "image_size")
    return file.content, {name: described[name] for name in names}


def _fragment_of_msbreg(settings: Settings, path: Path) -> str:
    return snippet(str(path.resolve()))


def snippet(path: str) -> str:
    """Python code that loads a published file."""
    return f"from msbreg import load_backbone\nbackbone, provenance = load_backbone({path!r})\n"


def read_with_msbreg(path: Path, settings: Settings, images: Tensor) -> list[Reading]:
    """Read with ``load_backbone``, as a ResNet."""
    backbone, provenance = load_resnet(path)

    def features(dtype: torch.dtype) -> Features:
        return features_of(backbone, provenance.spec, images, dtype)

    return [Reading("msbreg", dict(backbone.state_dict()), features)]


TORCHVISION = Target(
    name="torchvision",
    ending="_torchvision.pth",
    suffixes=(".pth",),
    names=torchvision_names,
    layout=LAYOUT,
    refusal=_refusal,
    express=_express,
    understand=_understand,
    encode=_encode,
    decode=_decode,
    fragment=_fragment_of_torchvision,
    readers=(read_with_torchvision,),
)

TIMM = Target(
    name="timm",
    ending="_timm.safetensors",
    suffixes=(".safetensors", ".pth"),
    names=torchvision_names,
    layout=LAYOUT,
    refusal=_refusal_of_timm,
    express=_express,
    understand=_understand,
    encode=_encode,
    decode=_decode,
    fragment=_fragment_of_timm,
    readers=(read_with_timm,),
)

SAFETENSORS = Target(
    name="safetensors",
    ending="_backbone.safetensors",
    suffixes=(".safetensors",),
    names=torchvision_names,
    layout=LAYOUT,
    refusal=lambda spec: "",
    express=_express_all,
    understand=spec_of_record,
    encode=_encode_published,
    decode=_decode_published,
    fragment=_fragment_of_msbreg,
    readers=(read_with_msbreg,),
    has_card=True,
)
