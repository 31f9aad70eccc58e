"""The publishing form: torchvision's names in safetensors, with all that a reader needs in its metadata.

``load_backbone`` reads it back; a model card in Markdown lies beside it.
"""

import json
from pathlib import Path

import torch
from torch import Tensor

from msbreg.backbones.resnet import ResNet, normalize
from msbreg.checkpoints.convert.consumer_settings import Settings, settings_of_arch
from msbreg.checkpoints.convert.encoding import as_safetensors
from msbreg.checkpoints.convert.target import Content, Reading, Target, Words
from msbreg.checkpoints.convert.to_torchvision import LAYOUT
from msbreg.checkpoints.layouts.names import torchvision
from msbreg.checkpoints.load import load_backbone
from msbreg.checkpoints.read import read_file


def _express(settings: Settings) -> Words:
    """What ``load_backbone`` takes from the metadata."""
    return {
        "arch": settings.arch,
        "normalization": {
            "mean": settings.mean,
            "std": settings.std,
            "channels": settings.channels,
        },
        "stride": "1x1" if settings.stride_in_1x1 else "3x3",
        "image_size": settings.image_size,
    }


def _understand(words: Words) -> Settings:
    return settings_of_arch(**words)


def _encode(content: Content, suffix: str) -> dict[str, bytes]:
    described = {"msbreg": content.provenance | content.words}
    return {"": as_safetensors(content.state, described | {"certificate": content.certificate})}


def _decode(path: Path) -> tuple[dict[str, Tensor], Words | None]:
    file = read_file(path)
    described = json.loads(file.metadata["msbreg"])
    words = ("arch", "normalization", "stride", "image_size")
    return file.content, {name: described[name] for name in words}


def _fragment(words: Words, path: Path) -> str:
    return (
        "from msbreg import load_backbone\n"
        f"backbone, provenance = load_backbone({str(path.resolve())!r})\n"
    )


def read_with_msbreg(path: Path, words: Words, batches: list[Tensor]) -> list[Reading]:
    """By this suite's own loader."""
    backbone, provenance = load_backbone(path)
    features = []
    for images in batches:
        pixels = normalize(images, torch.device("cpu"), provenance.normalization)
        features.append(features_of(backbone, pixels))
    return [Reading("msbreg", dict(backbone.state_dict()), features)]


@torch.no_grad()
def features_of(
    backbone: ResNet,
    pixels: Tensor,  # (B, 3, H, W) float32, normalized
) -> dict[str, Tensor]:
    """stem and res2 to res5 of one of our networks."""
    pixels = pixels.contiguous()  # channels_last sums in another order
    stem = backbone.maxpool(backbone.relu(backbone.bn1(backbone.conv1(pixels))))
    stages = {f"res{name[1:]}": value for name, value in backbone(pixels).items()}
    return {"stem": stem} | stages


SAFETENSORS = Target(
    name="safetensors",
    ending="_backbone.safetensors",
    suffixes=(".safetensors",),
    names=torchvision,
    layout=LAYOUT,
    refusal=lambda settings: "",
    express=_express,
    understand=_understand,
    encode=_encode,
    decode=_decode,
    fragment=_fragment,
    readers=(read_with_msbreg,),
    has_card=True,
)
