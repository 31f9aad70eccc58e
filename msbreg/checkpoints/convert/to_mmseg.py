"""MMSegmentation and MMDetection: ``{"meta": ..., "state_dict": {"backbone." + torchvision's names}}``.

mmengine loads the tensors below ``prefix='backbone.'`` and only warns about names that do not match.
"""

from pathlib import Path

from torch import Tensor

from msbreg.backbones.architectures import Architecture, name_of
from msbreg.backbones.spec import BackboneSpec, of_gray_levels
from msbreg.checkpoints.convert.target import (
    Content,
    Layout,
    Settings,
    Target,
    no_small_stem,
    torch_saved,
)
from msbreg.checkpoints.layouts.names import Place, torchvision
from msbreg.checkpoints.read import read_file

DEPTHS = (18, 34, 50, 101, 152)

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


def _refusal(spec: BackboneSpec) -> str:
    a = spec.architecture
    if a.depth not in DEPTHS:
        return f"it has depth {a.depth}, and MMSegmentation's ResNet has {DEPTHS}"
    if a.inner != 1:
        return (
            f"its bottlenecks are {a.inner} times as wide inside, and MMSegmentation's ResNet has no "
            "such option"
        )
    return no_small_stem(spec)


def _express(spec: BackboneSpec) -> Settings:
    a = spec.architecture
    backbone: Settings = {
        "type": "ResNet",
        "depth": a.depth,
        "style": "caffe" if spec.stride_in_1x1 else "pytorch",
    }
    if a.width != 64:
        backbone |= {"stem_channels": a.width, "base_channels": a.width}
    return {
        "data_preprocessor": {
            "mean": list(spec.normalization.pixel_mean),
            "std": list(spec.normalization.pixel_std),
            "bgr_to_rgb": spec.normalization.channels == "RGB",  # images are read as BGR
        },
        "backbone": backbone,
    }


def _understand(settings: Settings) -> BackboneSpec:
    backbone, pixels = settings["backbone"], settings["data_preprocessor"]
    channels = "RGB" if pixels["bgr_to_rgb"] else "BGR"
    return BackboneSpec(
        name_of(Architecture(backbone["depth"], backbone.get("base_channels", 64))),
        of_gray_levels(pixels["mean"], pixels["std"], channels),
        backbone["style"] == "caffe",
    )


def _encode(content: Content, suffix: str) -> dict[str, bytes]:
    described = {
        "settings": content.settings,
        "provenance": content.provenance,
        "certificate": content.certificate,
    }
    whole = {"meta": {"author": "msbreg"}, "state_dict": content.state, "msbreg": described}
    return {"": torch_saved(whole)}


def _decode(path: Path) -> tuple[dict[str, Tensor], Settings | None]:
    content = read_file(path).content
    return content["state_dict"], content["msbreg"]["settings"]


def _fragment(settings: Settings, path: Path) -> str:
    """Python for an mmengine config."""
    initial = {"type": "Pretrained", "checkpoint": str(path.resolve()), "prefix": "backbone."}
    backbone = ", ".join(f"{name}={value!r}" for name, value in settings["backbone"].items())
    pixels = ", ".join(f"{name}={value!r}" for name, value in settings["data_preprocessor"].items())
    start = ", ".join(f"{name}={value!r}" for name, value in initial.items())
    return (
        "# Use type ResNet, not the ResNetV1c of many configs, which has a different stem.\n"
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
    refusal=_refusal,
    express=_express,
    understand=_understand,
    encode=_encode,
    decode=_decode,
    fragment=_fragment,
)
