"""MMSegmentation and MMDetection: ``{"meta": ..., "state_dict": {"backbone." + torchvision's names}}``.

mmengine takes the tensors behind ``prefix='backbone.'`` and only warns about names that do not fit.
"""

from pathlib import Path

from torch import Tensor

from msbreg.checkpoints.convert.consumer_settings import Settings
from msbreg.checkpoints.convert.encoding import torch_saved
from msbreg.checkpoints.convert.executor import Layout
from msbreg.checkpoints.convert.target import Content, Target, Words, no_small_stem
from msbreg.checkpoints.layouts.names import Place, torchvision
from msbreg.checkpoints.read import read_file

LAYOUT = Layout(
    stem="backbone.conv1",
    stem_norm="backbone.bn1",
    convolution="backbone.layer{stage}.{block}.conv{layer}",
    norm="backbone.layer{stage}.{block}.bn{layer}",
    shortcut="backbone.layer{stage}.{block}.downsample.0",
    shortcut_norm="backbone.layer{stage}.{block}.downsample.1",
    first_stage=1,
    first_layer=1,
)


def _names(place: Place) -> str:
    return "backbone." + torchvision(place)


def _express(settings: Settings) -> Words:
    backbone: Words = {
        "type": "ResNet",
        "depth": settings.depth,
        "style": "caffe" if settings.stride_in_1x1 else "pytorch",
    }
    if settings.width != 64:
        backbone |= {"stem_channels": settings.width, "base_channels": settings.width}
    return {
        "data_preprocessor": {
            "mean": list(settings.pixel_mean),
            "std": list(settings.pixel_std),
            "bgr_to_rgb": settings.channels == "RGB",  # images are read as BGR
        },
        "backbone": backbone,
    }


def _understand(words: Words) -> Settings:
    backbone, pixels = words["backbone"], words["data_preprocessor"]
    return Settings(
        depth=backbone["depth"],
        width=backbone.get("base_channels", 64),
        stem="imagenet",
        stride_in_1x1=backbone["style"] == "caffe",
        channels="RGB" if pixels["bgr_to_rgb"] else "BGR",
        pixel_mean=tuple(pixels["mean"]),
        pixel_std=tuple(pixels["std"]),
    )


def _encode(content: Content, suffix: str) -> dict[str, bytes]:
    described = {
        "settings": content.words,
        "provenance": content.provenance,
        "certificate": content.certificate,
    }
    whole = {"meta": {"author": "msbreg"}, "state_dict": content.state, "msbreg": described}
    return {"": torch_saved(whole)}


def _decode(path: Path) -> tuple[dict[str, Tensor], Words | None]:
    content = read_file(path).content
    return content["state_dict"], content["msbreg"]["settings"]


def _fragment(words: Words, path: Path) -> str:
    """Python for an mmengine config."""
    initial = {"type": "Pretrained", "checkpoint": str(path.resolve()), "prefix": "backbone."}
    backbone = ", ".join(f"{name}={value!r}" for name, value in words["backbone"].items())
    pixels = ", ".join(f"{name}={value!r}" for name, value in words["data_preprocessor"].items())
    start = ", ".join(f"{name}={value!r}" for name, value in initial.items())
    return (
        "# type ResNet, not the ResNetV1c of many configs: its stem is another one\n"
        "model = dict(\n"
        f"    data_preprocessor=dict({pixels}),\n"
        f"    backbone=dict({backbone},\n"
        f"        init_cfg=dict({start})))\n"
    )


MMSEG = Target(
    name="mmseg",
    ending="_mmseg.pth",
    suffixes=(".pth",),
    names=_names,
    layout=LAYOUT,
    refusal=no_small_stem,
    express=_express,
    understand=_understand,
    encode=_encode,
    decode=_decode,
    fragment=_fragment,
)
