"""The settings of each toolbox, and files that load as the backbone that was written."""

from importlib.util import find_spec

import pytest
import torch

from msbreg.backbones.architectures import ARCHITECTURES, Architecture
from msbreg.backbones.spec import IMAGENET, BackboneSpec
from msbreg.checkpoints.convert.convert import TARGETS, convert
from msbreg.checkpoints.layouts.format import MSRA, SWAV
from msbreg.checkpoints.load import load_backbone
from msbreg.run.errors import UserError
from tests.msbreg.checkpoints.convert.realistic_networks import moved, provenance

TOOLBOXES = [name for name in TARGETS if name != "safetensors"]


def converted(tmp_path, target, arch, **changes):
    target = TARGETS[target]
    output = tmp_path / ("out" + (target.suffixes or ("",))[0])
    backbone = moved(arch, v1=changes.get("stride") == "1x1")
    return backbone, convert(backbone, provenance(arch, **changes), output, target)


def settings(target, arch, normalization=IMAGENET, stride="3x3"):
    return TARGETS[target].express(BackboneSpec(arch, normalization, stride == "1x1", 224))


@pytest.mark.parametrize(
    ("target", "arch"),
    [*((target, "resnet18") for target in TARGETS), ("detectron2", "resnet34")],
)
def test_a_written_file_loads_as_the_same_backbone(tmp_path, target, arch):
    if target == "huggingface" and find_spec("transformers"):
        pytest.skip("transformers is installed: test_transformers_reads covers it")
    backbone, conversion = converted(tmp_path, target, arch, normalization=SWAV)
    file = conversion.output
    again, found = load_backbone(file / "model.safetensors" if file.is_dir() else file)
    wanted, state = backbone.state_dict(), again.state_dict()
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)
    assert found.arch == arch
    stored = target != "torchvision"  # a flat state dict cannot store settings
    assert found.normalization == (SWAV if stored else IMAGENET)


def test_a_resnet50_v1_keeps_its_input_and_stride(tmp_path):
    _, conversion = converted(tmp_path, "detectron2", "resnet50", normalization=MSRA, stride="1x1")
    assert conversion.certificate["settings"] == {
        "INPUT.FORMAT": "BGR",
        "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675],
        "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
        "MODEL.RESNETS.DEPTH": 50,
        "MODEL.RESNETS.STRIDE_IN_1X1": True,
    }
    assert [reading["tensors"] for reading in conversion.certificate["readings"]] == [318]
    _, found = load_backbone(conversion.output)
    assert (found.normalization, found.stride) == (MSRA, "1x1")


def test_a_torch_file_for_detectron2_loads_with_weights_only(tmp_path):
    output = tmp_path / "out.pth"
    convert(moved(), provenance(), output, TARGETS["detectron2"])
    content = torch.load(output, weights_only=True)
    assert content["matching_heuristics"] is True
    assert content["__author__"] == "msbreg"
    assert content["model"]["res2.0.conv1.norm.num_batches_tracked"] == 7
    assert content["msbreg"]["certificate"]["passed"] is True


def test_a_stem_for_small_images_is_published(tmp_path):
    backbone, conversion = converted(tmp_path, "safetensors", "resnet18-tiny")
    again, _ = load_backbone(conversion.output)
    assert torch.equal(again.conv1.weight, backbone.conv1.weight)


@pytest.mark.parametrize("arch", ["resnet18-cifar", "resnet18-small", "resnet18-tiny"])
@pytest.mark.parametrize("target", TOOLBOXES)
def test_every_toolbox_rejects_a_stem_for_small_images(tmp_path, target, arch):
    with pytest.raises(UserError, match="cannot express this backbone"):
        converted(tmp_path, target, arch)


@pytest.mark.parametrize("target", ["torchvision", "timm"])
def test_toolboxes_without_a_width_setting_reject_a_narrow_network(tmp_path, target):
    with pytest.raises(
        UserError, match="its width is 32 channels, and the library's resnet18 has 64"
    ):
        converted(tmp_path, target, "resnet18-narrow")


@pytest.mark.parametrize("target", ["torchvision", "timm"])
def test_toolboxes_without_a_stride_setting_reject_a_v1_network(tmp_path, target):
    with pytest.raises(UserError, match="stride 2 in its 1x1 convolutions"):
        converted(tmp_path, target, "resnet50", stride="1x1")


@pytest.mark.parametrize("target", ["timm", "huggingface"])
def test_toolboxes_without_a_channel_setting_reject_bgr_input(tmp_path, target):
    with pytest.raises(UserError, match="takes BGR images"):
        converted(tmp_path, target, "resnet18", normalization=MSRA)


def test_detectron2_settings_state_the_channels_of_basic_blocks():
    assert "MODEL.RESNETS.RES2_OUT_CHANNELS" not in settings("detectron2", "resnet50")
    assert settings("detectron2", "resnet18")["MODEL.RESNETS.RES2_OUT_CHANNELS"] == 64
    narrow = settings("detectron2", "resnet18-narrow")
    assert narrow["MODEL.RESNETS.RES2_OUT_CHANNELS"] == 32
    assert narrow["MODEL.RESNETS.STEM_OUT_CHANNELS"] == 32


@pytest.mark.parametrize(
    ("arch", "rejecting"),
    [
        ("resnet101", ()),
        ("wide_resnet50_2", ("mmseg", "huggingface")),
        ("resnet50_2x", ("torchvision", "timm")),
        ("resnet200", ("detectron2", "mmseg", "torchvision")),
    ],
)
def test_deeper_and_wider_networks_are_expressed_if_the_toolbox_builds_them(arch, rejecting):
    spec = BackboneSpec(arch, IMAGENET, image_size=224)
    assert tuple(name for name in TARGETS if TARGETS[name].refusal(spec)) == tuple(
        name for name in TARGETS if name in rejecting
    )
    for name, target in TARGETS.items():
        if name not in rejecting:
            assert target.understand(target.express(spec)).architecture == spec.architecture


def test_detectron2_settings_state_the_inner_width_of_bottlenecks():
    wide, double = settings("detectron2", "wide_resnet50_2"), settings("detectron2", "resnet50_2x")
    assert wide["MODEL.RESNETS.WIDTH_PER_GROUP"] == 128
    assert "MODEL.RESNETS.RES2_OUT_CHANNELS" not in wide
    assert double["MODEL.RESNETS.WIDTH_PER_GROUP"] == 128
    assert double["MODEL.RESNETS.STEM_OUT_CHANNELS"] == 128
    assert double["MODEL.RESNETS.RES2_OUT_CHANNELS"] == 512


@pytest.mark.parametrize(
    ("target", "arch"),
    [("detectron2", "resnet101-thin"), ("safetensors", "wide_resnet50-thin")],
)
def test_deep_and_wide_networks_are_written_and_read_back(tmp_path, monkeypatch, target, arch):
    monkeypatch.setitem(ARCHITECTURES, "wide_resnet50-thin", Architecture(50, width=8, inner=2))
    monkeypatch.setitem(ARCHITECTURES, "resnet101-thin", Architecture(101, width=8))
    backbone, conversion = converted(tmp_path, target, arch)
    again, found = load_backbone(conversion.output)
    wanted, state = backbone.state_dict(), again.state_dict()
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)
    assert found.arch == arch


def test_the_printed_snippet_loads_the_published_file(tmp_path):
    _, conversion = converted(tmp_path, "safetensors", "resnet18-tiny")
    fragment = TARGETS["safetensors"].fragment(
        conversion.certificate["settings"], conversion.output
    )
    names = {}
    exec(fragment, names)
    assert names["provenance"].arch == "resnet18-tiny"


def test_mmseg_settings_state_style_and_channel_order():
    modern = settings("mmseg", "resnet50", SWAV)
    assert modern["backbone"] == {"type": "ResNet", "depth": 50, "style": "pytorch"}
    assert modern["data_preprocessor"] == {
        "mean": [123.675, 116.28, 103.53],
        "std": [58.14, 57.12, 57.375],
        "bgr_to_rgb": True,
    }
    old = settings("mmseg", "resnet50", MSRA, "1x1")
    assert old["backbone"]["style"] == "caffe"
    assert old["data_preprocessor"]["bgr_to_rgb"] is False


def test_huggingface_settings_state_depths_widths_and_stride():
    config = settings("huggingface", "resnet50", IMAGENET, "1x1")["config.json"]
    assert config["hidden_sizes"] == [256, 512, 1024, 2048]
    assert config["depths"] == [3, 4, 6, 3]
    assert config["layer_type"] == "bottleneck"
    assert config["downsample_in_bottleneck"] is True
    assert config["downsample_in_first_stage"] is False
    assert settings("huggingface", "resnet18")["config.json"]["layer_type"] == "basic"


def test_the_stride_of_basic_blocks_is_always_in_their_3x3():
    assert (
        settings("detectron2", "resnet18", IMAGENET, "1x1")["MODEL.RESNETS.STRIDE_IN_1X1"] is False
    )


@pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")
@pytest.mark.filterwarnings("default")  # of the library and of what it imports
@pytest.mark.parametrize(
    ("arch", "stride"), [("resnet18-narrow", "3x3"), ("resnet50", "3x3"), ("resnet50", "1x1")]
)
def test_transformers_reads_the_folder_with_its_own_network_and_processor(tmp_path, arch, stride):
    _, conversion = converted(tmp_path, "huggingface", arch, normalization=SWAV, stride=stride)
    formulas, library = conversion.certificate["readings"]
    assert library["reader"].startswith("transformers ")
    assert library["tensors"] == formulas["tensors"]
