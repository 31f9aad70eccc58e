"""torchvision and timm: a flat state dict of torchvision's names, without classifier."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from msbreg.checkpoints.convert.consumer_settings import Settings, prepared
from msbreg.checkpoints.convert.encoding import as_safetensors, torch_saved
from msbreg.checkpoints.convert.executor import STAGES, Layout
from msbreg.checkpoints.convert.target import Content, Reading, Target, Words, no_small_stem
from msbreg.checkpoints.layouts.names import torchvision as torchvision_names
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


def _refusal(settings: Settings) -> str:
    if settings.width != 64:
        return f"it is {settings.width} channels wide, and its resnet{settings.depth} has 64"
    if settings.stride_in_1x1:
        return f"it has stride 2 in its 1x1 convolutions (ResNet v1), and its resnet{settings.depth} has not"
    return no_small_stem(settings)


def _refusal_of_timm(settings: Settings) -> str:
    if settings.channels == "BGR":
        return "it takes BGR images, and timm's pretrained_cfg has no word for that"
    return _refusal(settings)


def _express(settings: Settings) -> Words:
    return {
        "model": f"resnet{settings.depth}",
        "channels": settings.channels,
        "mean": settings.mean,
        "std": settings.std,
    }


def _understand(words: Words) -> Settings:
    return Settings(
        depth=int(words["model"].removeprefix("resnet")),
        width=64,
        stem="imagenet",
        stride_in_1x1=False,
        channels=words["channels"],
        pixel_mean=tuple(255 * value for value in words["mean"]),
        pixel_std=tuple(255 * value for value in words["std"]),
    )


def _encode(content: Content, suffix: str) -> dict[str, bytes]:
    if suffix == ".pth":
        return {"": torch_saved(content.state)}
    described = {"msbreg": content.provenance, "settings": content.words}
    return {"": as_safetensors(content.state, described | {"certificate": content.certificate})}


def _decode(path: Path) -> tuple[dict[str, Tensor], Words | None]:
    """A ``.pth`` has no place for settings: both libraries take every entry for a tensor."""
    file = read_file(path)
    words = json.loads(file.metadata["settings"]) if "settings" in file.metadata else None
    return file.content, words


def _fragment_of_torchvision(words: Words, path: Path) -> str:
    return (
        f"model = torchvision.models.{words['model']}()\n"
        "model.fc = torch.nn.Identity()\n"
        f"model.load_state_dict(torch.load({str(path.resolve())!r}, weights_only=True))\n"
        f"# feed {words['channels']} images / 255, mean {words['mean']}, std {words['std']}\n"
    )


def _fragment_of_timm(words: Words, path: Path) -> str:
    overlay = f"file={str(path.resolve())!r}, mean={words['mean']}, std={words['std']}"
    return (
        f"model = timm.create_model({words['model']!r}, pretrained=True, num_classes=0,\n"
        f"    pretrained_cfg_overlay=dict({overlay}))\n"
    )


def read_with_torchvision(path: Path, words: Words, batches: list[Tensor]) -> list[Reading]:
    """By torchvision's network, loaded strictly as the fragment says."""
    network = getattr(torchvision.models, words["model"])()
    network.fc = nn.Identity()
    problems = _problem(
        lambda: network.load_state_dict(torch.load(path, weights_only=True)), RuntimeError
    )
    return _reading(f"torchvision {torchvision.__version__}", network, problems, words, batches)


def read_with_timm(path: Path, words: Words, batches: list[Tensor]) -> list[Reading]:
    """By ``timm.create_model``, which passes over missing tensors: what it loaded is compared."""
    import timm  # takes a second

    network = timm.create_model(
        words["model"],
        pretrained=True,
        num_classes=0,
        pretrained_cfg_overlay={"file": str(path), "mean": words["mean"], "std": words["std"]},
    )
    return _reading(f"timm {timm.__version__}", network, (), words, batches)


def _problem(act: Callable[[], object], kind: type[Exception]) -> tuple[str, ...]:
    try:
        act()
    except kind as error:
        return (str(error),)
    return ()


@torch.no_grad()
def _reading(
    name: str, network: nn.Module, problems: tuple[str, ...], words: Words, batches: list[Tensor]
) -> list[Reading]:
    network.eval()
    features = []
    for images in batches:
        x = prepared(images, _understand(words))
        act = network.get_submodule("act1" if hasattr(network, "act1") else "relu")
        x = network.get_submodule("bn1")(network.get_submodule("conv1")(x))
        stages = [network.get_submodule("maxpool")(act(x))]
        for number in range(1, 5):
            stages.append(network.get_submodule(f"layer{number}")(stages[-1]))
        features.append(dict(zip(STAGES, stages, strict=True)))
    return [Reading(name, dict(network.state_dict()), features, problems)]


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
